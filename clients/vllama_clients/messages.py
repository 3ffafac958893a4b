"""The requests of the clients: frozen dataclasses that `Client` and `SyncClient` both take.

They are plain dataclasses rather than the wire's messages: a caller gets completion, defaults and equality, needs no
protobuf, and can keep a request, compare it and send it twice. `request_wire.py` translates them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


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


class Truncation(Enum):
    """What happens to an input that is longer than the context."""

    REJECT = "reject"
    """InvalidRequest that states both lengths."""
    DROP_OLDEST = "drop oldest"
    """The oldest turns of a chat go until it fits; system turns and the last turn stay."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One complete call of a function."""

    name: str
    """The function's name."""
    arguments_json: str = "{}"
    """The arguments object as JSON text, keys in the model's order."""
    id: str = ""
    """Identifies the call within its conversation."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call."""

    name: str
    """The function's name."""
    description: str = ""
    """What it does, for the model."""
    parameters: Mapping[str, object] | None = None
    """JSON schema of the arguments object; None means no parameters."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    """"system", "user", "assistant", "tool", or another role of the model's template."""
    content: str = ""
    """The text."""
    images: Sequence[bytes] = ()
    """Encoded pictures (PNG, JPEG, WebP), in order."""
    thinking: str = ""
    """Reasoning of an earlier assistant turn."""
    tool_calls: Sequence[ToolCall] = ()
    """Calls of an earlier assistant turn."""
    tool_name: str = ""
    """In a tool turn: the function whose result this is."""
    tool_call_id: str = ""
    """In a tool turn: the id of the call whose result this is."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling options; None takes the model's generation_config, then vLLM's default."""

    temperature: float | None = None
    """0 is greedy; above 2 is served as 2."""
    top_p: float | None = None
    """Nucleus mass, (0, 1]."""
    top_k: int | None = None
    """Most likely tokens considered; 0 or less means all."""
    min_p: float | None = None
    """Least probability relative to the best token, 0 to 1."""
    repetition_penalty: float | None = None
    """Above 1 discourages repetition."""
    presence_penalty: float | None = None
    """-2 to 2."""
    frequency_penalty: float | None = None
    """-2 to 2."""
    seed: int | None = None
    """Seed of this request's random stream; negative means a random one."""
    stop: Sequence[str] = ()
    """Texts that end the generation; they are not part of the output."""
    max_tokens: int | None = None
    """Most output tokens; None or negative: until the end of the context; 0: the prompt only."""
    min_tokens: int | None = None
    """Fewest output tokens before an end or a stop text counts."""
    ignore_eos: bool | None = None
    """Whether generation goes on after the end-of-sequence token."""


@dataclass(frozen=True, slots=True)
class JsonObject:
    """Output must be one JSON object."""


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """Output must match a JSON schema."""

    schema: Mapping[str, object]
    """The schema."""


@dataclass(frozen=True, slots=True)
class Regex:
    """The whole output must match a regular expression."""

    pattern: str
    """The expression."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """Output must follow a grammar."""

    ebnf: str
    """The grammar, in xgrammar's dialect of EBNF."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Output must be one of several texts."""

    options: Sequence[str]
    """The texts; at least one."""


OutputFormat = JsonObject | JsonSchema | Regex | Grammar | Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a generation may ask for beside its input, the same for text and chats."""

    sampling: Sampling = Sampling()
    """Sampling options."""
    output_format: OutputFormat | None = None
    """Constraint on the output; None means free text."""
    top_logprobs: int | None = None
    """None: no log probabilities; otherwise how many alternatives each token lists, 0 to 20."""
    truncation: Truncation = Truncation.REJECT
    """What to do with an input that is longer than the context."""
    session: str = ""
    """Calls of one conversation share this value: a hint for placement and for fair turns."""
    priority: int = 0
    """Lower runs first where the engine schedules by priority."""
    max_context_tokens: int = 0
    """Most tokens of prompt and output together; 0 means the served context length."""
    return_prompt_token_ids: bool = False
    """Whether `Started` carries the token ids of the rendered prompt."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """Continues text or token ids, without a chat template."""

    model: str
    """Name of the model, as `vllama list` shows it; empty means a worker's own model."""
    prompt: str | Sequence[int]
    """Text, or token ids that are used as they are."""
    options: Options = Options()
    """Everything else."""
    suffix: str = ""
    """Text that follows the gap to fill after `prompt` (fill in the middle)."""
    request_id: str = ""
    """Names the request in every log line of the servers; made by them when empty."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """Answers a conversation, rendered with the model's chat template."""

    model: str
    """Name of the model, as `vllama list` shows it; empty means a worker's own model."""
    messages: Sequence[Message]
    """The turns, oldest first; at least one."""
    options: Options = Options()
    """Everything else."""
    tools: Sequence[Tool] = ()
    """Functions that the model may call."""
    tool_choice: ToolMode | str = ToolMode.AUTO
    """Which of them it may or must call; a text names the one that it must call."""
    think: ThinkLevel = ThinkLevel.DEFAULT
    """Whether and how hard the model reasons first."""
    template_switches: Mapping[str, object] = field(default_factory=dict)
    """Extra variables for the chat template."""
    continue_last: bool = False
    """Whether the last turn, an assistant's with text, is the beginning of the answer: the generation goes on after
    its last character."""
    template: str = ""
    """Jinja text that renders this chat in place of the model's own template; empty: the model's own.

    Servers refuse it unless they run with --trust-client-templates.
    """
    request_id: str = ""
    """Names the request in every log line of the servers; made by them when empty."""


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    """Embeds texts."""

    model: str
    """Name of an embedding model."""
    inputs: Sequence[str]
    """The texts."""
    truncate: bool = False
    """Whether an input longer than the context is cut at its end instead of refused."""
    dimensions: int = 0
    """Cuts each vector to its first numbers, normalised again; 0 means the model's own length."""
    normalize: bool = True
    """Whether each vector is scaled to length 1."""
    request_id: str = ""
    """Names the request in every log line of the servers; made by them when empty."""
