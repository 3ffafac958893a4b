/**
 * The client of a vllama server: balancer or worker, the calls are the same.
 *
 *     const client = new Client("127.0.0.1:50051");
 *     const request = { model: "smollm2:135m", messages: [{ role: "user", content: "Why is the sky blue?" }] };
 *     for await (const text of client.chat(request, { timeoutMilliseconds: 60_000 }).texts()) process.stdout.write(text);
 *     client.close();
 */
import {
  type CallOptions,
  Channel,
  type ClientReadableStream,
  type ClientUnaryCall,
  type Metadata,
  type ServiceError,
  status,
} from "@grpc/grpc-js";
import { callMetadata, channelCredentials, channelOptions, type ConnectionOptions } from "./connection.js";
import { errorOfCall, Unavailable } from "./errors.js";
import { EmbeddingClient, type Vector } from "./generated/vllama_protos/v1/embedding.js";
import { GenerationClient, type TokenizeResponse } from "./generated/vllama_protos/v1/generation.js";
import { Generation } from "./generation.js";
import {
  type ChatRequest,
  embedMessage,
  type EmbedRequest,
  generateMessage,
  type GenerateRequest,
  tokenizeMessage,
} from "./requests.js";

/** How one call is made. */
export interface CallSettings {
  /** Bounds the whole call, the stream included, in milliseconds; unset: the client's own bound. */
  timeoutMilliseconds?: number;
  /** Cancels the call; the error is Cancelled, with the signal's reason as its cause. */
  signal?: AbortSignal;
}

type AnyCall = ClientUnaryCall | ClientReadableStream<unknown>;
type Unary<Request, Reply> = (
  request: Request,
  metadata: Metadata,
  options: CallOptions,
  callback: (error: ServiceError | null, reply: Reply) => void,
) => ClientUnaryCall;

/** Calls one server over one channel, which all calls share and `close` ends. Errors are those of errors.ts. */
export class Client {
  readonly #target: string;
  readonly #options: ConnectionOptions;
  readonly #generation: GenerationClient;
  readonly #embedding: EmbeddingClient;
  // grpc-js lets running calls go on after a channel has been closed.
  readonly #running = new Set<AnyCall>();

  /** `target` is "host:port", "unix:/path", "dns:///name:port" or "ipv4:a:1,b:2". */
  constructor(target = "127.0.0.1:50051", options: ConnectionOptions = {}) {
    this.#target = target;
    this.#options = options;
    const credentials = channelCredentials(options.tls);
    const settings = channelOptions(target, options);
    const channelOverride = new Channel(target, credentials, settings);
    this.#generation = new GenerationClient(target, credentials, { ...settings, channelOverride });
    this.#embedding = new EmbeddingClient(target, credentials, { ...settings, channelOverride });
  }

  /** Cancels the calls that still run and closes the channel. May be called more than once. */
  close(): void {
    for (const call of this.#running) call.cancel();
    this.#generation.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Waits until the server accepts connections. Unavailable when it does not in time. */
  ready(timeoutMilliseconds = 10_000): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#generation.waitForReady(Date.now() + timeoutMilliseconds, (error) => {
        if (error === undefined) return resolve();
        const message = `No server answers at ${this.#target} within ${timeoutMilliseconds / 1000} s.`;
        reject(new Unavailable(message, { code: status.UNAVAILABLE, cause: error }));
      });
    });
  }

  /** Continues text or token ids; the call begins at once and is read from the result. */
  generate(request: GenerateRequest, settings: CallSettings = {}): Generation {
    return this.#generate(request, settings);
  }

  /** Answers a conversation; the call begins at once and is read from the result. */
  chat(request: ChatRequest, settings: CallSettings = {}): Generation {
    return this.#generate(request, settings);
  }

  /** Embeds texts: one vector for each input, in order. */
  async embed(request: EmbedRequest, settings: CallSettings = {}): Promise<Vector[]> {
    const embed = this.#embedding.embed.bind(this.#embedding);
    return (await this.#call(embed, embedMessage(request), settings)).vectors;
  }

  /** Renders and tokenizes the input of a generation without generating. */
  async tokenize(request: GenerateRequest | ChatRequest, settings: CallSettings = {}): Promise<TokenizeResponse> {
    const tokenize = this.#generation.tokenize.bind(this.#generation);
    return this.#call(tokenize, tokenizeMessage(request), settings);
  }

  /** Turns token ids into text, special tokens left out. */
  async detokenize(model: string, tokenIds: readonly number[], settings: CallSettings = {}): Promise<string> {
    const detokenize = this.#generation.detokenize.bind(this.#generation);
    return (await this.#call(detokenize, { model, tokenIds: [...tokenIds] }, settings)).text;
  }

  #generate(request: GenerateRequest | ChatRequest, settings: CallSettings): Generation {
    const call = this.#generation.generate(generateMessage(request), callMetadata(this.#options), this.#bound(settings));
    const generation = new Generation(call, settings.signal);
    this.#own(call, settings.signal);
    return generation;
  }

  #call<Request, Reply>(method: Unary<Request, Reply>, request: Request, settings: CallSettings): Promise<Reply> {
    return new Promise((resolve, reject) => {
      const call = method(request, callMetadata(this.#options), this.#bound(settings), (error, reply) => {
        if (error === null) resolve(reply);
        else reject(errorOfCall(error, settings.signal));
      });
      this.#own(call, settings.signal);
    });
  }

  /** Cancels a call on the signal or `close`, and drops it at its end: a signal may outlive thousands of calls. */
  #own(call: AnyCall, signal: AbortSignal | undefined): void {
    const cancel = () => call.cancel();
    this.#running.add(call);
    signal?.addEventListener("abort", cancel, { once: true });
    call.once("status", () => {
      this.#running.delete(call);
      signal?.removeEventListener("abort", cancel);
    });
    if (signal?.aborted) cancel();
  }

  #bound(settings: CallSettings): CallOptions {
    const milliseconds = settings.timeoutMilliseconds ?? this.#options.timeoutMilliseconds;
    return milliseconds === undefined ? {} : { deadline: Date.now() + milliseconds };
  }
}
