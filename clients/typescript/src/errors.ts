/**
 * The client's errors, and the one translation from gRPC statuses to them.
 *
 *     VllamaError
 *     |-- InvalidRequest       a field is wrong; the message names it and the fix
 *     |-- NotFound             no such model
 *     |-- NotSupported         the model cannot do what is asked
 *     |-- Busy                 too many requests wait; carries the delay to retry after
 *     |-- Unavailable          no server, or no worker that can take the request
 *     |-- DeadlineExceeded     the call's time-out passed
 *     |-- Unauthenticated      no API key, or a wrong one
 *     |-- Cancelled            the call was cancelled, by this side or by the server
 *     |-- IncompleteStream     the stream ended without `finished`
 *     `-- ServerFault          everything else: the engine failed, or the server is not one of ours
 *
 * Programs branch on the class, or on `reason`, which is stable across versions; the message is for
 * people and may change.
 */
import { type Metadata, type ServiceError, status } from "@grpc/grpc-js";
import { ErrorInfo, RetryInfo } from "./generated/google/rpc/error_details.js";
import { Status } from "./generated/google/rpc/status.js";

const DETAILS_KEY = "grpc-status-details-bin";

/** The facts of an error beside its message. */
export interface ErrorFacts {
  /** The gRPC status that the call ended with. */
  code?: status;
  /** Stable and machine-readable ("QUEUE_FULL"); empty when the server gave none. */
  reason?: string;
  /** The wrong field of the request or the missing capability; empty when there is none. */
  field?: string;
  /** When to retry, in seconds; undefined when the server gave no time. */
  retryAfterSeconds?: number | undefined;
  /** What lies beneath: the gRPC error, or the reason of the AbortSignal. */
  cause?: unknown;
}

/** Root of the client's errors; the message is a sentence for people. */
export class VllamaError extends Error {
  readonly code: status;
  readonly reason: string;
  readonly field: string;
  readonly retryAfterSeconds: number | undefined;

  constructor(message: string, facts: ErrorFacts = {}) {
    super(message, { cause: facts.cause });
    this.name = new.target.name;
    this.code = facts.code ?? status.UNKNOWN;
    this.reason = facts.reason ?? "";
    this.field = facts.field ?? "";
    this.retryAfterSeconds = facts.retryAfterSeconds;
  }
}

/** A field of the request is wrong. */
export class InvalidRequest extends VllamaError {}

/** No model of that name can be served. */
export class NotFound extends VllamaError {}

/** The model lacks the capability named in `field`. */
export class NotSupported extends VllamaError {}

/** Too many requests wait already; `retryAfterSeconds` is the delay to retry after. */
export class Busy extends VllamaError {}

/** No server answers, or no worker can take the request. */
export class Unavailable extends VllamaError {}

/** The call's time-out passed. */
export class DeadlineExceeded extends VllamaError {}

/** The API key is missing or wrong. */
export class Unauthenticated extends VllamaError {}

/** The call was cancelled; `cause` is the AbortSignal's reason when one did it. */
export class Cancelled extends VllamaError {}

/** The stream ended without `finished`: what was received is a part of the answer. */
export class IncompleteStream extends VllamaError {}

/** The engine failed on this request, or the server answered what no vllama server does. */
export class ServerFault extends VllamaError {}

const CLASS_OF_STATUS = new Map<status, typeof VllamaError>([
  [status.INVALID_ARGUMENT, InvalidRequest],
  [status.OUT_OF_RANGE, InvalidRequest],
  [status.NOT_FOUND, NotFound],
  [status.FAILED_PRECONDITION, NotSupported],
  [status.RESOURCE_EXHAUSTED, Busy],
  [status.UNAVAILABLE, Unavailable],
  [status.DEADLINE_EXCEEDED, DeadlineExceeded],
  [status.UNAUTHENTICATED, Unauthenticated],
  [status.PERMISSION_DENIED, Unauthenticated],
  [status.CANCELLED, Cancelled],
]);

/** Translates what grpc-js reported; anything that is no gRPC error is returned as it is. */
export function errorOfCall(error: unknown, signal?: AbortSignal): unknown {
  if (!isServiceError(error)) return error;
  const kind = CLASS_OF_STATUS.get(error.code) ?? ServerFault;
  const cause = kind === Cancelled && signal?.aborted ? signal.reason : error;
  const message = error.details || `The call ended with ${status[error.code]}.`;
  return new kind(message, { code: error.code, cause, ...factsOf(error.metadata) });
}

function isServiceError(error: unknown): error is ServiceError {
  return error instanceof Error && "code" in error && typeof error.code === "number" && "details" in error;
}

/** Reads ErrorInfo and RetryInfo. */
function factsOf(trailers: Metadata | undefined): ErrorFacts {
  const facts: ErrorFacts = {};
  const encoded = trailers?.get(DETAILS_KEY)[0];
  if (!Buffer.isBuffer(encoded)) return facts;
  try {
    for (const { typeUrl, value } of Status.decode(encoded).details) {
      if (typeUrl.endsWith("/google.rpc.ErrorInfo")) {
        const info = ErrorInfo.decode(value);
        facts.reason = info.reason;
        facts.field = info.metadata.field ?? "";
      } else if (typeUrl.endsWith("/google.rpc.RetryInfo")) {
        const delay = RetryInfo.decode(value).retryDelay;
        facts.retryAfterSeconds = delay && delay.seconds + delay.nanos / 1e9;
      }
    }
  } catch {
    // A proxy's details may be anything; they must not hide the status itself.
  }
  return facts;
}
