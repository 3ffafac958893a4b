/** One running generation: an async iterable of events that cancels cleanly. */
import type { ClientReadableStream } from "@grpc/grpc-js";
import { errorOfCall, IncompleteStream } from "./errors.js";
import type { Finished, GenerateResponse, Started, ToolCall } from "./generated/vllama_protos/v1/generation.js";

/** `{ $case: "started" | "delta" | "finished", value }`; a stream is one started, deltas, one finished. */
export type Event = NonNullable<GenerateResponse["event"]>;

/** A whole generation. */
export interface Completion {
  /** The answer. */
  text: string;
  /** The reasoning before it; empty when there was none. */
  thinking: string;
  /** The calls that the model made. */
  toolCalls: ToolCall[];
  /** The generated tokens. */
  tokenIds: number[];
  /** The stream's first event. */
  started: Started;
  /** The stream's last event. */
  finished: Finished;
}

/**
 * The events of one call, which began when this was made. Read it once, by one reader. Leaving the
 * `for await` early, `cancel`, or the AbortSignal ends the call; the server frees its KV blocks within
 * a second. Errors are those of errors.ts.
 */
export class Generation implements AsyncIterable<Event> {
  readonly #call: ClientReadableStream<GenerateResponse>;
  readonly #signal: AbortSignal | undefined;

  /** `signal` is the one that cancels the call, if one does: its reason becomes the cause of Cancelled. */
  constructor(call: ClientReadableStream<GenerateResponse>, signal?: AbortSignal) {
    this.#call = call;
    this.#signal = signal;
    // A reader gets the error from the iterator; without one the error must not end the process.
    call.on("error", () => {});
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Event, void, void> {
    let isFinished = false;
    try {
      for await (const message of this.#call as AsyncIterable<GenerateResponse>) {
        // A kind that is newer than this version has no event.
        if (message.event === undefined) continue;
        isFinished ||= message.event.$case === "finished";
        yield message.event;
      }
    } catch (error) {
      throw errorOfCall(error, this.#signal);
    } finally {
      this.cancel();
    }
    if (!isFinished) throw new IncompleteStream("The stream ended before the generation was complete.");
  }

  /** Yields the pieces of the answer, without the reasoning, as they come. */
  async *texts(): AsyncGenerator<string, void, void> {
    for await (const event of this) if (event.$case === "delta" && event.value.text) yield event.value.text;
  }

  /** Reads to the end and adds up. */
  async collect(): Promise<Completion> {
    const sum = { text: "", thinking: "", toolCalls: [] as ToolCall[], tokenIds: [] as number[] };
    let started: Started | undefined;
    let finished: Finished | undefined;
    for await (const event of this) {
      if (event.$case === "started") started = event.value;
      else if (event.$case === "finished") finished = event.value;
      else {
        sum.text += event.value.text;
        sum.thinking += event.value.thinking;
        sum.toolCalls.push(...event.value.toolCalls);
        sum.tokenIds.push(...event.value.tokenIds);
      }
    }
    if (started === undefined || finished === undefined) {
      throw new IncompleteStream("The stream lacked its first or its last event.");
    }
    return { ...sum, started, finished };
  }

  /** Ends the call. No effect after its end. */
  cancel(): void {
    this.#call.cancel();
  }

  [Symbol.dispose](): void {
    this.cancel();
  }
}
