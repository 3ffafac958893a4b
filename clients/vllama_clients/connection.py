"""How a client reaches a server: address, TLS, API key, and the channel's options, retries among them.

Retries are the channel's own (a gRPC service config), not a loop of ours. gRPC repeats a call only while nothing of
the answer has arrived, so a stream that has begun is never begun again. Its throttle keeps many clients from
overloading a server that has just restarted. Only UNAVAILABLE is repeated: a full queue is an answer, and the caller
decides whether to wait.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import grpc

from vllama_clients.api_key import checked_api_key
from vllama_clients.errors import InvalidRequest

RETRIED_SERVICES = ("vllama.v1.Generation", "vllama.v1.Embedding")
# By default gRPC ignores the weights of a new connection for 10 s; a worker's averages hold from the first stream on.
POLICY_SETTINGS: dict[str, dict[str, object]] = {
    "weighted_round_robin": {"blackoutPeriod": "1s", "weightUpdatePeriod": "1s"},
}
LOOPBACK = ("127.", "localhost", "[::1]", "unix:")


@dataclass(frozen=True, slots=True)
class Tls:
    """Certificates, PEM-encoded; all None trusts the system's authorities and shows no certificate."""

    root_certificates: bytes | None = None
    """Authorities that may sign the server's certificate; None: the system's."""
    certificate_chain: bytes | None = None
    """The client's own certificate, for mutual TLS."""
    private_key: bytes | None = field(default=None, repr=False)
    """The key of `certificate_chain`."""
    server_name: str = ""
    """Name that the server's certificate must bear; empty: the host of the target."""

    def credentials(self) -> grpc.ChannelCredentials:
        """Builds the channel's credentials."""
        return grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate_chain)


@dataclass(frozen=True, slots=True)
class Connection:
    """Everything that is fixed for the life of a channel."""

    target: str
    """gRPC target: "host:port", "unix:/path", "dns:///name:port", "ipv4:a:1,b:2"."""
    tls: Tls | None = None
    """None: plain text."""
    api_key: str = field(default="", repr=False)
    """Sent with every call as "authorization: Bearer …"; over plain text it can be read on the way."""
    attempts: int = 4
    """Most tries of a call that finds no server, the first included, 2 to 5; 1 turns retries off."""
    load_balancing: str = "round_robin"
    """gRPC policy over the target's addresses; "weighted_round_robin" weighs them by the load that workers report."""
    keepalive_seconds: float = 30.0
    """A connection with calls on it that is silent for so long is probed, and given up after 10 s more."""

    def __post_init__(self) -> None:
        """Raises InvalidRequest for a key that no header can carry; the blanks around a key are dropped."""
        try:
            object.__setattr__(self, "api_key", checked_api_key(self.api_key))
        except ValueError as error:
            raise InvalidRequest(f"{error}.", code=grpc.StatusCode.INVALID_ARGUMENT, field="api_key") from None

    def channel(self) -> grpc.Channel:
        """Opens a channel for synchronous calls; the caller closes it."""
        if self.tls is None:
            return grpc.insecure_channel(self.target, self.options())
        return grpc.secure_channel(self.target, self.tls.credentials(), self.options())

    def aio_channel(self) -> grpc.aio.Channel:
        """Opens a channel for the running event loop; the caller closes it."""
        if self.tls is None:
            return grpc.aio.insecure_channel(self.target, self.options())
        return grpc.aio.secure_channel(self.target, self.tls.credentials(), self.options())

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Builds the metadata of every call."""
        return (("authorization", f"Bearer {self.api_key}"),) if self.api_key else ()

    def options(self) -> list[tuple[str, str | int]]:
        """Builds the channel's arguments."""
        options: list[tuple[str, str | int]] = [
            ("grpc.service_config", json.dumps(self.service_config())),
            ("grpc.keepalive_time_ms", int(self.keepalive_seconds * 1000)),
            ("grpc.keepalive_timeout_ms", 10_000),
            # A reconnect is worth a try well within the time that the retries span.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 5_000),
            # Embeddings of many texts and pictures in a chat are larger than the default of 4 MiB.
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        ]
        if self.target.startswith(LOOPBACK):
            options.append(("grpc.enable_http_proxy", 0))
        if self.tls is not None and self.tls.server_name:
            options.append(("grpc.ssl_target_name_override", self.tls.server_name))
        return options

    def service_config(self) -> dict[str, object]:
        """Builds gRPC's service config: the balancing policy and the retries."""
        policy = {self.load_balancing: POLICY_SETTINGS.get(self.load_balancing, {})}
        config: dict[str, object] = {"loadBalancingConfig": [policy]}
        if self.attempts > 1:
            config["methodConfig"] = [
                {
                    "name": [{"service": service} for service in RETRIED_SERVICES],
                    "retryPolicy": {
                        "maxAttempts": self.attempts,
                        "initialBackoff": "0.2s",
                        "maxBackoff": "2s",
                        "backoffMultiplier": 2,
                        "retryableStatusCodes": ["UNAVAILABLE"],
                    },
                }
            ]
            config["retryThrottling"] = {"maxTokens": 100, "tokenRatio": 0.1}
        return config
