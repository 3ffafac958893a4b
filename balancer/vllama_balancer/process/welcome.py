"""What is printed when the fleet is ready: the addresses, and one command to try."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from vllama_protos.v1 import worker_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vllama_balancer.gateway import ModelEntry


def welcome(
    models: Sequence[ModelEntry], workers: int, http_url: str, grpc_address: str, elapsed_seconds: float
) -> str:
    """Words it for people."""
    names = ", ".join(model.name for model in models if model.replicas) or "no model"
    count = f"{workers} worker" + ("" if workers == 1 else "s")
    lines = [
        f"vllama serves {names} on {count} ({elapsed_seconds:.0f} s)",
        f"  Ollama and OpenAI API  {http_url}",
        f"  gRPC                   {grpc_address}",
    ]
    ready = next((model for model in models if model.replicas), None)
    if ready is not None:
        lines.append(f"Try: {_command(ready, http_url)}")
    return "\n".join(lines) + "\n"


def _command(model: ModelEntry, http_url: str) -> str:
    body: dict[str, object]
    capabilities = model.description.capabilities if model.description is not None else ()
    if worker_pb2.CAPABILITY_CHAT in capabilities:
        path, body = "chat", {"messages": [{"role": "user", "content": "Why is the sky blue?"}]}
    elif worker_pb2.CAPABILITY_EMBEDDING in capabilities:
        path, body = "embed", {"input": "Why is the sky blue?"}
    else:
        path, body = "generate", {"prompt": "The sky is blue because"}
    return f"curl {http_url}/api/{path} -d '{json.dumps({'model': model.name, **body})}'"
