/** A scripted vllama server: plays a test's script and keeps the requests. */
import { once } from "node:events";
import {
  type handleUnaryCall,
  Metadata,
  type sendUnaryData,
  Server,
  ServerCredentials,
  type ServerWritableStream,
  status,
} from "@grpc/grpc-js";
import { ErrorInfo, RetryInfo } from "../src/generated/google/rpc/error_details.js";
import { Status } from "../src/generated/google/rpc/status.js";
import { type EmbedRequest, EmbeddingService } from "../src/generated/vllama_protos/v1/embedding.js";
import {
  Finished,
  FinishReason,
  type GenerateRequest,
  GenerateResponse,
  GenerationService,
  type TokenizeRequest,
} from "../src/generated/vllama_protos/v1/generation.js";

/** One error that the server plays. */
export interface Refusal {
  code: status;
  message?: string;
  reason?: string;
  field?: string;
  retryAfterSeconds?: number;
  details?: Buffer;
}

/** A step of a stream: an event, an error, or to wait until the call is cancelled. */
export type Step = GenerateResponse | { refusal: Refusal } | "pause";

export const started = (): GenerateResponse =>
  GenerateResponse.fromPartial({ event: { $case: "started", value: { worker: "worker-0", promptTokens: 3 } } });

export const delta = (text: string, more: object = {}): GenerateResponse =>
  GenerateResponse.fromPartial({ event: { $case: "delta", value: { text, tokenIds: [text.length], ...more } } });

export const finished = (): GenerateResponse => {
  const value = Finished.fromPartial({ reason: FinishReason.FINISH_REASON_STOP, usage: { completionTokens: 2 } });
  return { event: { $case: "finished", value } };
};

const any = (name: string, value: Uint8Array) => ({
  typeUrl: `type.googleapis.com/google.rpc.${name}`,
  value: Buffer.from(value),
});

function trailersOf(refusal: Refusal): Metadata {
  const metadata = new Metadata();
  const facts: Record<string, string> = refusal.field ? { field: refusal.field } : {};
  const info = { reason: refusal.reason ?? "", domain: "vllama", metadata: facts };
  const details = [any("ErrorInfo", ErrorInfo.encode(info).finish())];
  if (refusal.retryAfterSeconds !== undefined) {
    const seconds = Math.floor(refusal.retryAfterSeconds);
    const retryDelay = { seconds, nanos: Math.round((refusal.retryAfterSeconds - seconds) * 1e9) };
    details.push(any("RetryInfo", RetryInfo.encode({ retryDelay }).finish()));
  }
  const encoded = Status.encode({ code: refusal.code, message: "", details }).finish();
  metadata.set("grpc-status-details-bin", refusal.details ?? Buffer.from(encoded));
  return metadata;
}

/** What the server plays and what it saw. */
export class ScriptedServer {
  /** One list of steps for each call; the last one serves every further call. */
  streams: Step[][] = [[started(), delta("Hello"), delta(" there"), finished()]];
  /** Played instead of every unary answer. */
  refusal: Refusal | undefined;
  readonly requests: GenerateRequest[] = [];
  readonly tokenized: TokenizeRequest[] = [];
  readonly embedded: EmbedRequest[] = [];
  readonly authorizations: string[] = [];
  readonly peers = new Set<string>();
  readonly #server = new Server();
  readonly #cancelled: Promise<void>;
  #noteCancelled: () => void = () => {};
  port = 0;

  constructor() {
    this.#cancelled = new Promise((resolve) => (this.#noteCancelled = resolve));
    this.#server.addService(GenerationService, {
      generate: (call: ServerWritableStream<GenerateRequest, GenerateResponse>) => void this.#play(call),
      tokenize: this.#unary((request: TokenizeRequest) => {
        this.tokenized.push(request);
        return { tokenIds: [1, 2, 3], text: "rendered" };
      }),
      detokenize: this.#unary(({ tokenIds }: { tokenIds: number[] }) => ({ text: tokenIds.join(" ") })),
    });
    this.#server.addService(EmbeddingService, {
      embed: this.#unary((request: EmbedRequest) => {
        this.embedded.push(request);
        return { vectors: request.inputs.map((text) => ({ values: [text.length], promptTokens: 1 })) };
      }),
    });
  }

  get target(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** Listens on a free port of the loopback. */
  async start(credentials: ServerCredentials = ServerCredentials.createInsecure()): Promise<this> {
    this.port = await new Promise<number>((resolve, reject) =>
      this.#server.bindAsync("127.0.0.1:0", credentials, (error, port) => (error ? reject(error) : resolve(port))),
    );
    return this;
  }

  stop(): void {
    this.#server.forceShutdown();
  }

  /** Resolves once a paused call was cancelled. */
  cancelled(): Promise<void> {
    return this.#cancelled;
  }

  async #play(call: ServerWritableStream<GenerateRequest, GenerateResponse>): Promise<void> {
    this.requests.push(call.request);
    this.peers.add(call.getPeer());
    this.authorizations.push(String(call.metadata.get("authorization")[0] ?? ""));
    const steps = this.streams.length > 1 ? this.streams.shift()! : this.streams[0]!;
    for (const step of steps) {
      if (step === "pause") {
        if (!call.cancelled) await once(call, "cancelled");
        return this.#noteCancelled();
      }
      if ("refusal" in step) {
        const { code, message } = step.refusal;
        return void call.emit("error", { code, details: message ?? "No.", metadata: trailersOf(step.refusal) });
      }
      call.write(step);
    }
    call.end();
  }

  #unary<Request, Reply>(answer: (request: Request) => Reply): handleUnaryCall<Request, Reply> {
    return (call, callback: sendUnaryData<Reply>) => {
      if (this.refusal === undefined) return callback(null, answer(call.request));
      const { code, message } = this.refusal;
      callback({ code, details: message ?? "No.", metadata: trailersOf(this.refusal) });
    };
  }
}
