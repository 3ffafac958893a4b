/** The public names: the client, what it takes and gives, its errors, and the wire's own types. */
export { type CallSettings, Client } from "./client.js";
export type { ConnectionOptions, Tls } from "./connection.js";
export * from "./errors.js";
export { type Completion, type Event, Generation } from "./generation.js";
export type { ChatRequest, EmbedRequest, GenerateRequest, GenerationOptions } from "./requests.js";
export type { Vector } from "./generated/vllama_protos/v1/embedding.js";
export {
  type Delta,
  type Finished,
  FinishReason,
  type Message,
  type Sampling,
  type Started,
  ThinkLevel,
  type TokenizeResponse,
  type Tool,
  type ToolCall,
  type ToolChoice,
  ToolChoiceMode,
  Truncation,
} from "./generated/vllama_protos/v1/generation.js";
