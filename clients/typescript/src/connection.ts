/**
 * How a client reaches a server: address, TLS, API key, and the channel's options, retries among them.
 *
 * Retries are the channel's own (a gRPC service config), not a loop of ours: gRPC repeats a call only
 * while nothing of the answer has arrived, so a stream that has begun is never begun again, and its
 * throttle keeps many clients from overloading a restarted server. Only UNAVAILABLE is repeated:
 * a full queue is an answer, and its delay is the caller's to wait or not.
 */
import { type ChannelOptions, ChannelCredentials, credentials, Metadata } from "@grpc/grpc-js";

const RETRIED_SERVICES = ["vllama.v1.Generation", "vllama.v1.Embedding"];
// gRPC distrusts the weights of a new connection for 10 s by default; a worker's averages hold from the first stream on.
const POLICY_SETTINGS: Record<string, object> = {
  weighted_round_robin: { blackoutPeriod: "1s", weightUpdatePeriod: "1s" },
};
const LOOPBACK = ["127.", "localhost", "[::1]", "unix:"];

/** Certificates, PEM-encoded; an empty object trusts the system's authorities and shows no certificate. */
export interface Tls {
  /** Authorities that may sign the server's certificate; unset: Node's own. */
  rootCertificates?: Buffer;
  /** The client's own certificate, for mutual TLS. */
  certificateChain?: Buffer;
  /** The key of `certificateChain`. */
  privateKey?: Buffer;
  /** Name that the server's certificate must bear; unset: the host of the target. */
  serverName?: string;
}

/** What is fixed for the life of a client. */
export interface ConnectionOptions {
  /** Unset: plain text. */
  tls?: Tls;
  /** Sent with every call as "authorization: Bearer …"; over plain text it can be read on the way. */
  apiKey?: string;
  /** Bounds each call, its stream included, in milliseconds; unset: no bound. */
  timeoutMilliseconds?: number;
  /** Most tries of a call that finds no server, the first included, 2 to 5; 1 turns retries off. Default 4. */
  attempts?: number;
  /** gRPC policy over the target's addresses. Default round_robin; weighted_round_robin heeds what workers get done. */
  loadBalancing?: string;
  /** A connection with calls on it that is silent for so long is probed, and given up after 10 s more. Default 30. */
  keepaliveSeconds?: number;
}

/** Builds the channel's credentials. */
export function channelCredentials(tls: Tls | undefined): ChannelCredentials {
  if (tls === undefined) return credentials.createInsecure();
  return credentials.createSsl(tls.rootCertificates, tls.privateKey, tls.certificateChain);
}

/** Builds the metadata of one call. */
export function callMetadata(options: ConnectionOptions): Metadata {
  const metadata = new Metadata();
  if (options.apiKey) metadata.set("authorization", `Bearer ${options.apiKey}`);
  return metadata;
}

/** Builds the channel's options. */
export function channelOptions(target: string, options: ConnectionOptions): ChannelOptions {
  const built: ChannelOptions = {
    "grpc.service_config": JSON.stringify(serviceConfig(options)),
    "grpc.keepalive_time_ms": (options.keepaliveSeconds ?? 30) * 1000,
    "grpc.keepalive_timeout_ms": 10_000,
    // A reconnect is worth a try well within the time that the retries span.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 5_000,
    // Embeddings of many texts and pictures in a chat are larger than the default of 4 MiB.
    "grpc.max_receive_message_length": -1,
    "grpc.max_send_message_length": -1,
  };
  if (LOOPBACK.some((prefix) => target.startsWith(prefix))) built["grpc.enable_http_proxy"] = 0;
  if (options.tls?.serverName) built["grpc.ssl_target_name_override"] = options.tls.serverName;
  return built;
}

function serviceConfig(options: ConnectionOptions): object {
  const attempts = options.attempts ?? 4;
  const policy = options.loadBalancing ?? "round_robin";
  const loadBalancingConfig = [{ [policy]: POLICY_SETTINGS[policy] ?? {} }];
  if (attempts < 2) return { loadBalancingConfig };
  const retryPolicy = {
    maxAttempts: attempts,
    initialBackoff: "0.2s",
    maxBackoff: "2s",
    backoffMultiplier: 2,
    retryableStatusCodes: ["UNAVAILABLE"],
  };
  return {
    loadBalancingConfig,
    methodConfig: [{ name: RETRIED_SERVICES.map((service) => ({ service })), retryPolicy }],
    retryThrottling: { maxTokens: 100, tokenRatio: 0.1 },
  };
}
