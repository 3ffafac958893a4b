"""What an engine is, once it has started: its model, its device, and what both can do."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from vllama_server.engine.requests import Sampling

if TYPE_CHECKING:
    from collections.abc import Mapping


class Capability(Enum):
    """What a model can do; the names are those of the wire's Capability."""

    COMPLETION = "completion"
    CHAT = "chat"
    TOOLS = "tools"
    THINKING = "thinking"
    VISION = "vision"
    INSERT = "insert"
    EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True)
class Device:
    """Where an engine computes."""

    kind: str
    """"cuda", "cpu" or "simulated"."""
    name: str
    """For people."""
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a model's own files say; zero or empty where they do not."""

    architecture: str = ""
    """config.json's model_type."""
    parameter_count: int = 0
    size_bytes: int = 0
    embedding_length: int = 0
    block_count: int = 0
    head_count: int = 0
    head_count_kv: int = 0
    vocabulary_size: int = 0
    trained_context_length: int = 0
    quantization: str = ""
    chat_template: str = ""
    default_sampling: Sampling = field(default_factory=Sampling)
    """Sampling values of generation_config.json."""
    tool_parser: str = ""
    reasoning_parser: str = ""


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """What an engine is, once it has started."""

    capabilities: frozenset[Capability]
    context_length: int
    """Tokens of prompt and output together that a request may have."""
    max_streams: int
    """Streams served at once; more wait."""
    kv_cache_tokens: int
    block_tokens: int
    device: Device
    versions: Mapping[str, str] = field(default_factory=dict)
    simulated: bool = False
    model_info: ModelInfo = ModelInfo()
    can_sleep: bool = False
    """Whether `sleep` and `wake` work."""
