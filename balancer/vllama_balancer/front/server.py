"""The gRPC server: Generation and Embedding relayed to the gateway, beside the services of this package.

Handlers write to their context instead of yielding: a client's cancellation then arrives inside the handler, which
closes the generation; an abandoned generator would stay open.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from vllama_balancer.callers import Access
from vllama_balancer.client_limits import ClientLimits, refuses_over_budget
from vllama_balancer.errors import BalancerError, ConfigError, InvalidRequest
from vllama_balancer.front.authorization import AuthorizationInterceptor, caller_of
from vllama_balancer.front.fleet_service import FleetService
from vllama_balancer.front.health_service import HealthService
from vllama_balancer.front.membership_service import MembershipService
from vllama_balancer.front.rpc_errors import rich_status
from vllama_balancer.gateway import Call
from vllama_balancer.keys import Scope
from vllama_balancer.workers.channel import MAX_MESSAGE_BYTES, REQUEST_ID_HEADER
from vllama_protos.budgets import (
    DEFAULT_LIMITS,
    RequestLimits,
    check_detokenization,
    check_embedding,
    check_generation,
    check_tokenization,
)
from vllama_protos.v1 import (
    embedding_pb2,
    embedding_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    membership_pb2,
    membership_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from google.protobuf.message import Message

    from vllama_balancer.fleet.membership import JoinedFleet
    from vllama_balancer.gateway import FleetView, Gateway, ModelUnloader
    from vllama_balancer.workers.pool import Pool
    from vllama_balancer.workers.rolling_restart import RollingRestart

    Context = grpc.aio.ServicerContext[Any, Any]

T = TypeVar("T")

logger = logging.getLogger(__name__)

LONGEST_REQUEST_ID = 128
"""Characters; the ids go into every log line."""

SERVER_OPTIONS = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # More streams of one connection wait on the client's side.
    ("grpc.max_concurrent_streams", 4_096),
    ("grpc.max_connection_idle_ms", 300_000),
    # A connection that says nothing is no connection.
    ("grpc.server_handshake_timeout_ms", 20_000),
    # A port that is in use must be an error, not a second listener that takes half of the calls.
    ("grpc.so_reuseport", 0),
    # Clients may ping every few seconds to notice a dead connection.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    # A client's machine can vanish without a word: ping it, so that its calls end within 15 seconds.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)

HEALTH_SERVICE = "grpc.health.v1.Health"

SERVICES = tuple(
    descriptor.services_by_name[name].full_name
    for descriptor, name in (
        (generation_pb2.DESCRIPTOR, "Generation"),
        (embedding_pb2.DESCRIPTOR, "Embedding"),
        (fleet_pb2.DESCRIPTOR, "Fleet"),
        (membership_pb2.DESCRIPTOR, "Membership"),
    )
)
"""Full names of what is served."""


class GenerationService(generation_pb2_grpc.GenerationServicer):
    """The Generation service on a gateway."""

    def __init__(self, gateway: Gateway, access: Access, limits: ClientLimits, request_limits: RequestLimits) -> None:
        self._gateway = gateway
        self._access = access
        self._limits = limits
        self._request_limits = request_limits

    # The generated base class declares handlers that return or yield, not coroutines that write.
    async def Generate(  # type: ignore[override]  # noqa: N802
        self, request: generation_pb2.GenerateRequest, context: Context
    ) -> None:
        await _answer(context, self._relay(request, context))

    async def Tokenize(  # noqa: N802
        self, request: generation_pb2.TokenizeRequest, context: Context
    ) -> generation_pb2.TokenizeResponse:
        return await _answer(context, self._tokenize(request, context))

    async def Detokenize(  # noqa: N802
        self, request: generation_pb2.DetokenizeRequest, context: Context
    ) -> generation_pb2.DetokenizeResponse:
        return await _answer(context, self._detokenize(request, context))

    async def _relay(self, request: generation_pb2.GenerateRequest, context: Context) -> None:
        self._gateway.raise_if_full(request.model)
        request.request_id = _request_id(request.request_id, context)
        _check_generation(request)
        _disown_template(request)
        # Lower values run first, ahead of other callers' streams.
        if request.priority < 0 and not caller_of(self._access, context).may(Scope.FLEET):
            request.priority = 0
        call = _call_of(context, self._access)
        with _holding(self._limits, call, request):
            check_generation(request, self._request_limits)
            async with contextlib.aclosing(self._gateway.generate(request, call)) as events:
                async for event in events:
                    if event.HasField("started"):
                        await context.send_initial_metadata(_placement_metadata(call, request.request_id))
                    await context.write(event)

    async def _tokenize(
        self, request: generation_pb2.TokenizeRequest, context: Context
    ) -> generation_pb2.TokenizeResponse:
        _disown_template(request)
        call = _call_of(context, self._access)
        with _holding(self._limits, call, request):
            check_tokenization(request, self._request_limits)
            return await self._gateway.tokenize(request, call)

    async def _detokenize(
        self, request: generation_pb2.DetokenizeRequest, context: Context
    ) -> generation_pb2.DetokenizeResponse:
        call = _call_of(context, self._access)
        with _holding(self._limits, call, request):
            check_detokenization(request, self._request_limits)
            return await self._gateway.detokenize(request, call)


class EmbeddingService(embedding_pb2_grpc.EmbeddingServicer):
    """The Embedding service on a gateway."""

    def __init__(self, gateway: Gateway, access: Access, limits: ClientLimits, request_limits: RequestLimits) -> None:
        self._gateway = gateway
        self._access = access
        self._limits = limits
        self._request_limits = request_limits

    async def Embed(self, request: embedding_pb2.EmbedRequest, context: Context) -> embedding_pb2.EmbedResponse:  # noqa: N802
        return await _answer(context, self._embed(request, context))

    async def _embed(self, request: embedding_pb2.EmbedRequest, context: Context) -> embedding_pb2.EmbedResponse:
        self._gateway.raise_if_full(request.model)
        request.request_id = _request_id(request.request_id, context)
        call = _call_of(context, self._access)
        with _holding(self._limits, call, request):
            check_embedding(request, self._request_limits)
            return await self._gateway.embed(request, call)


class GrpcServer:
    """The gRPC server with all its services. `access` says what callers may do; without it no key is required.

    `limits` are shared with the other front door.

    Start it before the workers, so that a port in use is found at once.
    """

    def __init__(
        self,
        gateway: Gateway,
        pool: Pool,
        rolling: RollingRestart,
        fleet: FleetView,
        access: Access | None = None,
        joined: JoinedFleet | None = None,
        limits: ClientLimits | None = None,
        request_limits: RequestLimits = DEFAULT_LIMITS,
        unloader: ModelUnloader | None = None,
    ) -> None:
        limits = limits or ClientLimits()
        longest = ("grpc.max_receive_message_length", request_limits.choices_bytes)
        access = access or Access()
        interceptors = [AuthorizationInterceptor(access)]
        self._server = grpc.aio.server(options=(*SERVER_OPTIONS, longest), interceptors=interceptors)
        self._health = HealthService(pool, fleet, SERVICES)
        generation_pb2_grpc.add_GenerationServicer_to_server(
            GenerationService(gateway, access, limits, request_limits), self._server
        )
        embedding_pb2_grpc.add_EmbeddingServicer_to_server(
            EmbeddingService(gateway, access, limits, request_limits), self._server
        )
        fleet_pb2_grpc.add_FleetServicer_to_server(FleetService(pool, rolling, fleet, unloader), self._server)
        membership_pb2_grpc.add_MembershipServicer_to_server(MembershipService(joined), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*SERVICES, HEALTH_SERVICE, reflection.SERVICE_NAME), self._server)

    async def start(self, address: str, credentials: grpc.ServerCredentials | None = None) -> int:
        """Listens at "host:port" or "unix:/path" and returns the port (1 for a socket file).

        Raises ConfigError when the address is in use or cannot be had.
        """
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise ConfigError(f"cannot listen at {address}: it is in use or not an address of this machine") from error
        await self._server.start()
        return port

    def drain(self) -> None:
        """Reports NOT_SERVING, so that clients choose another balancer; the shared limits refuse new calls."""
        self._health.leave()

    async def stop(self, grace_seconds: float | None) -> None:
        """Refuses new calls and returns when the running ones have ended, cut after the grace."""
        self._health.leave()
        await self._server.stop(grace_seconds)


async def _answer(context: Context, work: Coroutine[Any, Any, T]) -> T:
    """Awaits a handler's work and turns its errors into a status; an unexpected one is INTERNAL and logged."""
    try:
        return await work
    except grpc.aio.BaseError:
        raise
    except BalancerError as error:
        status = rich_status(error)
    except Exception:
        logger.exception("unhandled exception in a gRPC call")
        status = rich_status(BalancerError("the balancer failed on this request; its log says why"))
    return await context.abort_with_status(status)


@contextlib.contextmanager
def _holding(limits: ClientLimits, call: Call, request: Message) -> Iterator[None]:
    """Counts a call and its bytes while the block runs. Raises the errors of the limits, InvalidRequest over budget."""
    with limits.streams.hold(call.client), limits.bytes.request(call.client) as held, refuses_over_budget():
        held.add(request.ByteSize())
        yield


def _check_generation(request: generation_pb2.GenerateRequest) -> None:
    """Refuses what no worker could serve, before it takes a place in the queue."""
    if not request.model:
        raise InvalidRequest("model is empty: name the model to use", field="model")
    if request.WhichOneof("input") is None:
        raise InvalidRequest("the input is missing: set prompt, token_ids or chat", field="prompt")


def _disown_template(request: generation_pb2.GenerateRequest | generation_pb2.TokenizeRequest) -> None:
    """Clears the mark of a stored template: a client's template is never the model's own."""
    if request.WhichOneof("input") == "chat":
        request.chat.template_is_stored = False


def _request_id(given: str, context: Context) -> str:
    """Returns the id of the request, else that of its metadata, else a new one."""
    request_id = given or _metadata(context).get(REQUEST_ID_HEADER, "") or uuid.uuid4().hex
    if len(request_id) > LONGEST_REQUEST_ID or not (request_id.isascii() and request_id.isprintable()):
        message = f"request_id must be printable ASCII of at most {LONGEST_REQUEST_ID} characters"
        raise InvalidRequest(message, field="request_id")
    return request_id


def _call_of(context: Context, access: Access) -> Call:
    remaining = context.time_remaining()
    deadline = None if remaining is None else asyncio.get_running_loop().time() + remaining
    return Call(caller_of(access, context).identity, deadline)


def _placement_metadata(call: Call, request_id: str) -> tuple[tuple[str, str], ...]:
    return (
        (REQUEST_ID_HEADER, request_id),
        ("x-vllama-worker", call.placement.worker),
        ("x-vllama-reason", call.placement.reason),
    )


def _metadata(context: Context) -> dict[str, str]:
    return {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
