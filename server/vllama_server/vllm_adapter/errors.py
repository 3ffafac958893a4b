"""Translation of vLLM's exceptions to the worker's, by one table."""

from __future__ import annotations

from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from vllama_server.errors import EngineBusy, EngineDead, EngineFault, InvalidRequest, WorkerError

_FIELDS = {
    "structured_outputs": "output_format",
    "json": "output_format.json_schema",
    "grammar": "output_format.grammar",
    "regex": "output_format.regex",
    "choice": "output_format.choice",
}
"""vLLM's parameter names where ours differ; other parameters are sampling options."""


def translate(error: Exception, suspect: str = "") -> WorkerError:
    """Returns the worker's error of the same meaning.

    `suspect` is the field to name when vLLM refuses a request and names none itself.
    """
    if isinstance(error, WorkerError):
        return error
    if isinstance(error, EngineDeadError):
        return EngineDead("The engine has died; the worker ends and is started again.")
    if isinstance(error, GracefulHTTPError):
        return EngineBusy("The worker's queue is full; try again shortly or on another worker.")
    if isinstance(error, EngineGenerateError):
        return _translate_cause(error, suspect)
    if isinstance(error, VLLMClientError):
        return _refusal(error, suspect)
    return EngineFault(f"The engine failed on this request: {type(error).__name__}: {error}")


def _translate_cause(error: EngineGenerateError, suspect: str) -> WorkerError:
    """Translates the cause of the empty error that vLLM wraps around others."""
    cause = error.__cause__
    if isinstance(cause, (VLLMClientError, ValueError, TypeError, NotImplementedError)):
        return _refusal(cause, suspect)
    if isinstance(cause, Exception):
        return translate(cause, suspect)
    return EngineFault("The engine failed on this request.")


def _refusal(error: Exception, suspect: str) -> InvalidRequest:
    parameter = str(getattr(error, "parameter", None) or "")
    field = _FIELDS.get(parameter, f"sampling.{parameter}") if parameter else suspect
    reason = " ".join(str(error).split())
    return InvalidRequest(f"{field}: {reason}" if field else reason, field)
