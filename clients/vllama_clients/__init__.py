"""The Python clients of vllama's gRPC services, and the `vllama` command.

- `client` (asyncio) and `sync_client`: the calls. `connection`: address, TLS, key and channel options of both.
- `messages`: what a caller sends. `events`, `generation`: what comes back. `errors`: what is raised.
- `request_wire`, `event_wire`: the only places that translate between these types and the protos.
- `cli/`: the `vllama` command. `doctor/`: the checks of `vllama doctor`. `examples/`: services to copy from.

Public names are imported when they are first used, so that `vllama --help` does not load grpc.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vllama_clients.client import Client
    from vllama_clients.connection import Connection, Tls
    from vllama_clients.errors import (
        Busy,
        Cancelled,
        DeadlineExceeded,
        IncompleteStream,
        InvalidRequest,
        NotFound,
        NotSupported,
        NotUsable,
        ServerFault,
        Unauthenticated,
        Unavailable,
        VllamaError,
    )
    from vllama_clients.events import Completion, Delta, Embedding, Event, Finished, FinishReason, Started, Tokens
    from vllama_clients.generation import Generation
    from vllama_clients.messages import (
        ChatRequest,
        Choice,
        EmbedRequest,
        GenerateRequest,
        Grammar,
        JsonObject,
        JsonSchema,
        Message,
        Options,
        Regex,
        Sampling,
        ThinkLevel,
        Tool,
        ToolCall,
        ToolMode,
        Truncation,
    )
    from vllama_clients.sync_client import SyncClient, SyncGeneration

__all__ = [
    "Busy",
    "Cancelled",
    "ChatRequest",
    "Choice",
    "Client",
    "Completion",
    "Connection",
    "DeadlineExceeded",
    "Delta",
    "EmbedRequest",
    "Embedding",
    "Event",
    "FinishReason",
    "Finished",
    "GenerateRequest",
    "Generation",
    "Grammar",
    "IncompleteStream",
    "InvalidRequest",
    "JsonObject",
    "JsonSchema",
    "Message",
    "NotFound",
    "NotSupported",
    "NotUsable",
    "Options",
    "Regex",
    "Sampling",
    "ServerFault",
    "Started",
    "SyncClient",
    "SyncGeneration",
    "ThinkLevel",
    "Tls",
    "Tokens",
    "Tool",
    "ToolCall",
    "ToolMode",
    "Truncation",
    "Unauthenticated",
    "Unavailable",
    "VllamaError",
]

_MODULES = ("client", "connection", "errors", "events", "generation", "messages", "sync_client")


def __getattr__(name: str) -> object:
    """Finds a public name in the module that defines it."""
    if name in __all__:
        for module in _MODULES:
            value: object = vars(import_module(f"{__name__}.{module}")).get(name)
            if value is not None:
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
