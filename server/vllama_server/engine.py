"""The Engine protocol and the neutral types that cross it.

The servicers know only this module, so the simulated engine and vLLM are interchangeable and
nothing outside `vllm_adapter` can come to depend on vLLM. The types are plain frozen dataclasses
rather than the wire's messages: an engine can be driven without gRPC, and the wire can change
without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence


class Capability(Enum):
    """What a model can do; the names are those of the wire's Capability."""

    COMPLETION = "completion"
    CHAT = "chat"
    TOOLS = "tools"
    THINKING = "thinking"
    VISION = "vision"
    INSERT = "insert"
    EMBEDDING = "embedding"


class StartPhase(Enum):
    """What a starting engine is busy with, in this order."""

    RESOLVE = "resolve"
    DOWNLOAD = "download"
    LOAD = "load"
    COMPILE = "compile"
    WARM_UP = "warm up"


class FinishReason(Enum):
    """Why a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    ABORTED = "aborted"


class ThinkLevel(Enum):
    """Whether and how hard a model reasons before it answers; DEFAULT is the template's own choice."""

    DEFAULT = "default"
    OFF = "off"
    ON = "on"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    MAX = "max"


class ToolMode(Enum):
    """Which tools a model may or must call."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    NAMED = "named"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One complete call of a function."""

    id: str
    """Identifies the call within its conversation."""
    name: str
    """The function's name."""
    arguments_json: str
    """The arguments object as JSON text, keys in the model's order."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    """The function's name."""
    description: str = ""
    """What it does, for the model."""
    parameters_json: str = ""
    """JSON schema of the arguments, as JSON text; empty means no parameters."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    """"system", "user", "assistant", "tool", or whatever else the template knows."""
    content: str = ""
    """The text."""
    images: tuple[bytes, ...] = ()
    """Encoded pictures, in order."""
    thinking: str = ""
    """Reasoning of an earlier assistant turn."""
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls of an earlier assistant turn."""
    tool_name: str = ""
    """In a tool turn: the function whose result this is."""
    tool_call_id: str = ""
    """In a tool turn: the id of the call whose result this is."""


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Text, tokenized as it is."""

    text: str
    """The prompt."""
    suffix: str = ""
    """Text that follows the gap to fill; empty means plain completion."""


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    """Token ids, used as they are."""

    token_ids: tuple[int, ...]
    """The prompt."""


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation, rendered with the model's chat template."""

    messages: tuple[Message, ...]
    """The turns, oldest first."""
    tools: tuple[Tool, ...] = ()
    """Functions that the model may call."""
    tool_mode: ToolMode = ToolMode.AUTO
    """Which of them it may or must call."""
    tool_name: str = ""
    """With NAMED: the function to call."""
    think: ThinkLevel = ThinkLevel.DEFAULT
    """Whether and how hard to reason."""
    template_switches: Mapping[str, object] = field(default_factory=dict)
    """Extra variables for the template."""
    context_token_ids: tuple[int, ...] = ()
    """Token ids put before the rendered chat."""
    continue_last: bool = False
    """Whether the last turn is left open, for the generation to go on after its last character."""
    template: str = ""
    """Jinja text in place of the model's own template; empty: the model's own."""


Prompt = TextPrompt | TokenPrompt | ChatPrompt


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling options; None takes the model's generation_config, then vLLM's default.

    Values are the client's own; an engine clamps those it cannot serve (see generation.proto).
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    """Most output tokens; None or negative: until the end of the context; 0: the prompt only."""
    min_tokens: int | None = None
    ignore_eos: bool | None = None


class FormatKind(Enum):
    """Kinds of constraint on the output."""

    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    GRAMMAR = "grammar"
    CHOICE = "choice"


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """A constraint on the output text."""

    kind: FormatKind
    """What `spec` is."""
    spec: str = ""
    """JSON schema, regular expression or EBNF grammar."""
    choices: tuple[str, ...] = ()
    """With CHOICE: the texts."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation, as an engine takes it."""

    request_id: str
    """Unique among the live requests of this engine."""
    prompt: Prompt
    """What to continue."""
    sampling: Sampling = Sampling()
    """Sampling options."""
    output_format: OutputFormat | None = None
    """Constraint on the output."""
    logprobs: int | None = None
    """None: no log probabilities; otherwise the number of alternatives listed, 0 to 20."""
    drop_oldest: bool = False
    """Whether turns may be dropped to make a chat fit the context."""
    max_context_tokens: int = 0
    """Most tokens of prompt and output together; 0: the served context length."""
    priority: int = 0
    """Lower runs first."""
    resume_token_ids: tuple[int, ...] = ()
    """Tokens of this generation that were delivered before; the output continues after them."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log probability of one token."""

    id: int
    text: str
    bytes: bytes
    logprob: float
    """Natural logarithm; finite, 0 or less."""


@dataclass(frozen=True, slots=True)
class PositionLogprobs:
    """Log probabilities at one position."""

    token: TokenLogprob
    """The generated token."""
    top: tuple[TokenLogprob, ...] = ()
    """The most likely tokens, best first."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """First event: the engine computes the request."""

    prompt_token_ids: Sequence[int]
    """The rendered prompt."""
    cached_prompt_tokens: int = 0
    """Those of them that the prefix cache held."""
    dropped_messages: int = 0
    """Turns that were dropped to make the chat fit."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """New output; never splits a Unicode character."""

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    """Calls that became complete."""
    token_ids: Sequence[int] = ()
    """The tokens behind this chunk; they may run ahead of the text."""
    logprobs: Sequence[PositionLogprobs] = ()
    """One entry for each of `token_ids` when asked for."""


@dataclass(frozen=True, slots=True)
class Completed:
    """Last event: the generation is complete."""

    reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    """Generated tokens, resumed ones included."""
    cached_prompt_tokens: int = 0
    reasoning_tokens: int = 0
    matched_stop: str = ""
    """The stop text that ended it, when one did."""
    queue_seconds: float = 0.0
    """From the engine's taking the request to the start of computing."""
    prefill_seconds: float = 0.0
    """From there to the first token."""
    decode_seconds: float = 0.0
    """From the first token to the last."""


GenerationEvent = Accepted | Chunk | Completed


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
    default_sampling: Sampling = Sampling()
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


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """An engine's load at one moment."""

    running: int = 0
    waiting: int = 0
    kv_cache_use: float = 0.0
    """Share of the KV cache in use, 0 to 1."""
    queued_prompt_tokens: int = 0
    """Prompt tokens accepted and not yet computed."""
    prefill_tokens_per_second: float = 0.0
    decode_tokens_per_second: float = 0.0
    step_seconds: float = 0.0
    """Moving average of the time of a step that decodes."""
    prefix_hit_rate: float = 0.0
    last_step_age_seconds: float | None = None
    """None before the first step."""


@dataclass(frozen=True, slots=True)
class EmbeddedText:
    """The vector of one text."""

    values: Sequence[float]
    prompt_tokens: int
    """Tokens of the text, after truncation."""


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """The tokens of one text."""

    token_ids: Sequence[int]
    """Special tokens included."""
    text: str
    """The text that was tokenized; for a chat, as rendered."""


class Engine(Protocol):
    """One model on one device, or a simulation of that.

    Methods run on the event loop that serves; errors are those of `errors.py`.
    """

    async def start(self, progress: Callable[[StartPhase, float], None]) -> None:
        """Loads the model and produces a warm-up token, without blocking the event loop.

        `progress` may be called from any thread. Raises StartFailed with the root cause and advice.
        """
        ...

    def describe(self) -> EngineDescription:
        """Tells what the engine is. Only after `start`."""
        ...

    def load(self) -> EngineLoad:
        """Measures the load. Cheap: called for every report."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        """Yields Accepted, then Chunks, then Completed.

        Closing the generator, or cancelling the task that reads it, aborts the request and frees
        its KV blocks. Slow readers get larger chunks, not a longer queue. Raises InvalidRequest,
        CapabilityMissing, EngineBusy, EngineDead or EngineFault.
        """
        ...

    async def tokenize(self, prompt: TextPrompt | ChatPrompt) -> TokenizedText:
        """Renders and tokenizes. Raises InvalidRequest, CapabilityMissing."""
        ...

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Turns ids into text, special tokens left out. Raises InvalidRequest for an unknown id."""
        ...

    async def embed(
        self, texts: Sequence[str], *, truncate: bool, dimensions: int, normalize: bool, request_id: str
    ) -> list[EmbeddedText]:
        """Embeds every text, in order. Raises CapabilityMissing for a model that generates."""
        ...

    async def sleep(self) -> None:
        """Moves the weights to the host's memory and drops the KV cache. Only while no request is inside.

        Raises CapabilityMissing where that does not work, EngineDead or EngineFault when it failed.
        """
        ...

    async def wake(self) -> None:
        """Moves the weights back. Raises EngineDead or EngineFault when it failed."""
        ...

    async def failed(self) -> Exception:
        """Returns, whenever it happens, the reason why the engine can serve no more."""
        ...

    async def stop(self) -> None:
        """Ends the engine and its processes. May be called in any state, more than once."""
        ...
