"""What is asked of an engine: a prompt, how to sample, what form the output must have.

Plain frozen dataclasses rather than the wire's messages: an engine can be driven without gRPC, and
the wire can change without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


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
