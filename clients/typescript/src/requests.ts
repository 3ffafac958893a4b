/** What a caller asks for, and its translation into the wire's messages: pure functions, no I/O. */
import { status } from "@grpc/grpc-js";
import { InvalidRequest } from "./errors.js";
import { EmbedRequest as WireEmbed } from "./generated/vllama_protos/v1/embedding.js";
import {
  type Chat,
  GenerateRequest as WireGenerate,
  type Message,
  type OutputFormat,
  type Sampling,
  type ThinkLevel,
  TokenizeRequest as WireTokenize,
  type Tool,
  type ToolChoice,
  type Truncation,
} from "./generated/vllama_protos/v1/generation.js";

/** What a generation may ask for beside its input, the same for text and chats. */
export interface GenerationOptions {
  /** Sampling options; an unset one takes the model's generation_config, then vLLM's default. */
  sampling?: Partial<Sampling>;
  /** Constraint on the output: `{ $case: "jsonSchema", value: "…" }`; unset: free text. */
  outputFormat?: NonNullable<OutputFormat["kind"]>;
  /** Unset: no log probabilities; otherwise how many alternatives each token lists, 0 to 20. */
  topLogprobs?: number;
  /** What to do with an input that is longer than the context; unset: refuse it. */
  truncation?: Truncation;
  /** Calls of one conversation share this value: a hint for placement and for fair turns. */
  session?: string;
  /** Lower runs first where the engine schedules by priority. */
  priority?: number;
  /** Most tokens of prompt and output together; unset: the served context length. */
  maxContextTokens?: number;
  /** Whether `started` carries the token ids of the rendered prompt. */
  returnPromptTokenIds?: boolean;
  /** Names the request in every log line of the servers; made by them when unset. */
  requestId?: string;
}

/** Continues text or token ids, without a chat template. */
export interface GenerateRequest extends GenerationOptions {
  /** Name of the model, as `vllama list` shows it; empty means a worker's own model. */
  model: string;
  /** Text, or token ids that are used as they are. */
  prompt: string | readonly number[];
  /** Text that follows the gap to fill after `prompt` (fill in the middle). */
  suffix?: string;
}

/** Answers a conversation, rendered with the model's chat template. */
export interface ChatRequest extends GenerationOptions {
  /** Name of the model, as `vllama list` shows it; empty means a worker's own model. */
  model: string;
  /** The turns, oldest first; at least one. */
  messages: readonly Partial<Message>[];
  /** Functions that the model may call. */
  tools?: readonly Partial<Tool>[];
  /** Which of them it may or must call; unset: the model decides. */
  toolChoice?: Partial<ToolChoice>;
  /** Whether and how hard the model reasons first; unset: the template's default. */
  think?: ThinkLevel;
  /** Extra variables for the chat template. */
  templateSwitches?: Readonly<Record<string, unknown>>;
}

/** Embeds texts. */
export interface EmbedRequest {
  /** Name of an embedding model. */
  model: string;
  /** The texts. */
  inputs: readonly string[];
  /** Whether an input longer than the context is cut at its end instead of refused. */
  truncate?: boolean;
  /** Cuts each vector to its first numbers, normalised again; unset: the model's own length. */
  dimensions?: number;
  /** Whether each vector is scaled to length 1; unset: true. */
  normalize?: boolean;
  /** Names the request in every log line of the servers; made by them when unset. */
  requestId?: string;
}

/** Builds the wire's request of one generation. */
export function generateMessage(request: GenerateRequest | ChatRequest): WireGenerate {
  return WireGenerate.fromPartial({
    model: request.model,
    requestId: request.requestId,
    input: inputOf(request),
    suffix: "prompt" in request ? request.suffix : undefined,
    sampling: request.sampling,
    outputFormat: request.outputFormat && { kind: request.outputFormat },
    logprobs: request.topLogprobs !== undefined,
    topLogprobs: request.topLogprobs,
    truncation: request.truncation,
    session: request.session,
    priority: request.priority,
    returnPromptTokenIds: request.returnPromptTokenIds,
    maxContextTokens: request.maxContextTokens,
  });
}

/** Builds the wire's request that tokenizes the input of a generation. */
export function tokenizeMessage(request: GenerateRequest | ChatRequest): WireTokenize {
  const input = inputOf(request);
  if (input.$case === "tokenIds") {
    const message = "prompt holds token ids already; tokenize takes text or a chat";
    throw new InvalidRequest(message, { code: status.INVALID_ARGUMENT, reason: "INVALID_REQUEST", field: "prompt" });
  }
  return WireTokenize.fromPartial({ model: request.model, input });
}

/** Builds the wire's request that embeds texts. */
export function embedMessage(request: EmbedRequest): WireEmbed {
  return WireEmbed.fromPartial({ ...request, inputs: [...request.inputs] });
}

type Input =
  | { $case: "chat"; value: Partial<Chat> }
  | { $case: "prompt"; value: string }
  | { $case: "tokenIds"; value: { ids: number[] } };

function inputOf(request: GenerateRequest | ChatRequest): Input {
  if ("messages" in request) return { $case: "chat", value: chatOf(request) };
  if (typeof request.prompt === "string") return { $case: "prompt", value: request.prompt };
  return { $case: "tokenIds", value: { ids: [...request.prompt] } };
}

function chatOf(request: ChatRequest): Partial<Chat> {
  return {
    messages: request.messages as Message[],
    tools: (request.tools ?? []) as Tool[],
    toolChoice: request.toolChoice as ToolChoice | undefined,
    think: request.think,
    templateSwitches: request.templateSwitches,
  };
}
