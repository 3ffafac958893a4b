"""Words the hub's refusals: one sentence with the cause and the fix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from vllama_balancer.models.errors import AccessRefused, DoesNotFit, ModelError, ModelUnknown, SourceUnavailable
from vllama_balancer.models.room import is_disk_full

if TYPE_CHECKING:
    from collections.abc import Callable

SERVER_ERRORS = frozenset({500, 502, 503, 504})


def translated(error: Exception, repository: str, endpoint: str, has_token: bool) -> ModelError:
    """Turns what huggingface_hub raises into the error of this package."""
    if isinstance(error, ModelError):
        return error
    if isinstance(error, OfflineModeIsEnabled):
        return SourceUnavailable(f"{repository} is not on this machine and HF_HUB_OFFLINE forbids downloads; unset it")
    if isinstance(error, HFValidationError):
        return ModelUnknown(f"{repository!r} is no repository id; it has the form org/repo")
    if isinstance(error, HfHubHTTPError):
        return _answered(error, repository, endpoint, has_token)
    if is_disk_full(error):
        return DoesNotFit(f"the disk became full while {repository} was downloaded; free some space and pull again")
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return SourceUnavailable(f"the hub at {endpoint} ended a file of {repository} early; pull again to resume")
    name = type(error).__name__
    return SourceUnavailable(
        f"the hub at {endpoint} cannot be reached ({name}); check the network, or set HF_ENDPOINT to a mirror"
    )


def is_passing(error: Exception) -> bool:
    """Tells whether trying again soon makes sense."""
    if isinstance(error, HfHubHTTPError):
        return _status(error) in SERVER_ERRORS | {429}
    return False


def retry_after_seconds(error: Exception) -> float | None:
    """How long the hub asks to wait; None when it does not say."""
    if isinstance(error, HfHubHTTPError):
        text = error.response.headers.get("Retry-After", "")
        return float(text) if text.isdigit() else None
    return None


def _answered(error: HfHubHTTPError, repository: str, endpoint: str, has_token: bool) -> ModelError:
    status = _status(error)
    if isinstance(error, GatedRepoError) or status == 403:
        return AccessRefused(
            f"{repository} is gated: accept its licence at {endpoint}/{repository} and set HF_TOKEN to a token "
            "of that account"
        )
    if status == 401 and has_token:
        return AccessRefused(f"the hub does not accept HF_TOKEN for {repository}; make a new token, or unset it")
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return ModelUnknown(
            f"{repository} does not exist at {endpoint}, or is private; check the name, or set HF_TOKEN"
        )
    if status == 429:
        return SourceUnavailable(
            f"the hub at {endpoint} limits requests; wait a while, or set HF_TOKEN for a higher limit"
        )
    return SourceUnavailable(f"the hub at {endpoint} answered {status} for {repository}; try again later")


def _status(error: HfHubHTTPError) -> int:
    return int(error.response.status_code)


def guarded(repository: str, endpoint: str, has_token: bool) -> Callable[[Exception], ModelError]:
    """Fixes everything but the error itself."""
    return lambda error: translated(error, repository, endpoint, has_token)
