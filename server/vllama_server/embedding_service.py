"""vllama.v1.Embedding: texts in, vectors out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllama_protos.v1 import embedding_pb2_grpc as pb_grpc
from vllama_server.wire.request_validation import check_embed_request

if TYPE_CHECKING:
    import grpc

    from vllama_protos.v1 import embedding_pb2 as pb
    from vllama_server.engine.protocol import Engine
    from vllama_server.identity import WorkerIdentity
    from vllama_server.limiter import InFlightLimiter


class EmbeddingServicer(pb_grpc.EmbeddingServicer):
    """Serves the embeddings of one engine."""

    def __init__(self, engine: Engine, limiter: InFlightLimiter, identity: WorkerIdentity) -> None:
        self._engine = engine
        self._limiter = limiter
        self._identity = identity

    async def Embed(  # noqa: N802
        self, request: pb.EmbedRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.EmbedResponse:
        """Embeds every input, in order."""
        self._identity.check_model(request.model)
        check_embed_request(request)
        with self._limiter.admit(request.request_id) as engine_id:
            request.request_id = engine_id
            return await self._engine.embed(request)
