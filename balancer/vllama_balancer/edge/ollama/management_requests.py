"""The bodies of the calls that manage models, and what they ask of Management; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from vllama_balancer.edge.ollama.options import check_options
from vllama_balancer.edge.wire.chat import check_template
from vllama_balancer.errors import InvalidRequest
from vllama_balancer.gateway import Recipe
from vllama_balancer.names import parse_name

if TYPE_CHECKING:
    from vllama_balancer.gateway import Progress

_SHORT_DIGEST = 12
_ALGORITHM = "sha256:"


class NamedBody(msgspec.Struct, frozen=True):
    """A body that names a model; `name` is the older key."""

    model: str | None = None
    name: str | None = None

    @property
    def requested(self) -> str:
        """The name, whichever key it came under."""
        return self.model or self.name or ""


class PullBody(NamedBody, frozen=True):
    """POST /api/pull."""

    stream: bool | None = None
    insecure: bool | None = None


class CopyBody(msgspec.Struct, frozen=True):
    """POST /api/copy."""

    source: str | None = None
    destination: str | None = None


class PresetTurn(msgspec.Struct, frozen=True):
    """A turn that comes before every conversation."""

    role: str
    content: str = ""


class CreateBody(NamedBody, frozen=True):
    """POST /api/create."""

    base: str | None = msgspec.field(default=None, name="from")
    system: str | None = None
    parameters: dict[str, Any] | None = None
    messages: list[PresetTurn] | None = None
    license: str | list[str] | None = None
    template: str | None = None
    adapters: Any = None
    files: Any = None
    quantize: str | None = None
    stream: bool | None = None


class Status(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line of progress; sizes are bytes."""

    status: str
    digest: str = ""
    total: int = 0
    completed: int = 0


SUCCESS = Status("success")
"""The line that every task ends with; the only one that clients rely on."""

_UNSERVED = {
    "files": "files are not supported: give 'from' a model, and pull it first if need be",
    "quantize": "quantize is not supported: pull a quantized model instead",
    "adapters": "adapters are not supported: merge the adapter into the weights and serve those",
}


def check_name(text: str, message: str) -> str:
    """Passes a well-formed name on. Raises InvalidRequest with the message that the call has for others."""
    try:
        parse_name(text)
    except InvalidRequest as error:
        raise InvalidRequest(message, reason=error.reason, field="model") from error
    return text


def to_recipe(body: CreateBody) -> Recipe:
    """Reads what an alias is made of. Raises InvalidRequest naming what is missing or not served."""
    for field, message in _UNSERVED.items():
        if getattr(body, field):
            raise InvalidRequest(message, field=field)
    if not body.base:
        raise InvalidRequest("neither 'from' or 'files' was specified", field="from")
    check_name(body.base, "invalid model name")
    texts = "\n\n".join(body.license) if isinstance(body.license, list) else body.license
    return Recipe(
        base=body.base,
        system=body.system,
        parameters=None if body.parameters is None else check_options(body.parameters),
        messages=None if body.messages is None else [msgspec.to_builtins(turn) for turn in body.messages],
        license=texts,
        template=None if body.template is None else check_template(body.template),
    )


def to_status(progress: Progress) -> Status:
    """Words a step as Ollama does: files by the first digits of their digest."""
    if progress.digest:
        short = progress.digest.removeprefix(_ALGORITHM)[:_SHORT_DIGEST]
        return Status(f"pulling {short}", progress.digest, progress.total, progress.completed)
    return Status(progress.status, "", progress.total, progress.completed)
