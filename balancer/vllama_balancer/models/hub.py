"""The Hugging Face hub: the files of a repository that a worker needs, and the meaning of the hub's errors; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from vllama_balancer.models.disk_space import is_disk_full
from vllama_balancer.models.errors import AccessRefused, DoesNotFit, ModelError, ModelUnknown, SourceUnavailable

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository, as the hub announces it."""

    name: str
    """Path within the repository."""
    size: int
    """Bytes."""
    sha256: str = ""
    """Digest of the content; empty for small files, which have `blob_id`."""
    blob_id: str = ""
    """Git's digest of the content."""


_COMPANIONS = re.compile(r"^[^/]+\.(json|jinja|model|tiktoken)$|^(merges|vocab)\.txt$|^(LICENSE|USE_POLICY)[^/]*$")
"""Configuration, tokenizer, template and licence, at the top of the repository."""
_POOLING = re.compile(r"^[0-9]+_[A-Za-z]+/config\.json$")
"""Pooling of an embedding model; its other folders are exports for other engines."""
_QUANTIZATION = re.compile(r"(?:^|[-._])((?:I?Q\d[A-Z0-9_]*|F16|F32|BF16))(?:-\d+-of-\d+)?\.gguf$", re.IGNORECASE)


def files_to_load(files: Sequence[HubFile], repository: str, *, allows_pickle: bool = True) -> list[HubFile]:
    """Returns the weights in safetensors, else in PyTorch's pickle format, and the files that belong to them.

    Raises ModelUnknown that lists what the repository has instead, AccessRefused for pickles that are not allowed.
    """
    weights = _safetensors(files)
    if not weights and (weights := _pickles(files)) and not allows_pickle:
        raise AccessRefused(
            f"{repository} has no safetensors, only pickles, which clients may not pull: name it in `vllama serve`, or "
            "pull another repository"
        )
    if not weights:
        raise ModelUnknown(_without_weights(files, repository))
    if not any(file.name == "config.json" for file in files):
        raise ModelUnknown(f"{repository} has no config.json: it is not a model that vLLM loads; choose another one")
    companions = [file for file in files if _COMPANIONS.match(file.name) or _POOLING.match(file.name)]
    return sorted({*weights, *companions}, key=lambda file: file.size)


def gguf_to_load(files: Sequence[HubFile], repository: str, quantization: str) -> HubFile:
    """Returns the GGUF file of a quantization. Raises ModelUnknown that lists the available ones."""
    offered = {kind.upper(): file for file in files if (kind := _quantization_of(file.name))}
    found = offered.get(quantization.upper())
    if found is None:
        names = ", ".join(sorted(offered)) or "none in a single file"
        raise ModelUnknown(f"{repository} has no GGUF file {quantization}; it has {names}")
    return found


def _safetensors(files: Sequence[HubFile]) -> list[HubFile]:
    tensors = [file for file in files if "/" not in file.name and file.name.endswith(".safetensors")]
    # "consolidated" repeats the same weights in the maker's own layout.
    return [file for file in tensors if not file.name.startswith("consolidated")] or tensors


def _pickles(files: Sequence[HubFile]) -> list[HubFile]:
    top = [file for file in files if "/" not in file.name]
    return [file for file in top if file.name.startswith("pytorch_model") and file.name.endswith(".bin")]


def _without_weights(files: Sequence[HubFile], repository: str) -> str:
    kinds = sorted({kind.upper() for file in files if (kind := _quantization_of(file.name))})
    if not kinds and any(_is_part(file.name) for file in files):
        return (
            f"{repository} has GGUF files in several parts only, which are not converted; use a repository with "
            "safetensors or with single GGUF files"
        )
    if not kinds:
        return f"{repository} has no safetensors: it is not a model that vLLM loads; choose another one"
    example = next((kind for kind in ("Q8_0", "Q4_K_M") if kind in kinds), kinds[0])
    return f"{repository} has GGUF files only; name one of {', '.join(kinds)}, as in hf.co/{repository}:{example}"


def _is_part(name: str) -> bool:
    file = PurePosixPath(name).name
    return "-of-" in file and file.endswith(".gguf")


def _quantization_of(name: str) -> str:
    """Returns the quantization in a GGUF file's name; empty for a file in several parts."""
    if _is_part(name):
        return ""
    found = _QUANTIZATION.search(name)
    return found[1] if found else ""


SERVER_ERRORS = frozenset({500, 502, 503, 504})


def to_model_error(error: Exception, repository: str, endpoint: str, has_token: bool) -> ModelError:
    """Translates an error of huggingface_hub: one sentence with the cause and the fix."""
    if isinstance(error, ModelError):
        return error
    if isinstance(error, OfflineModeIsEnabled):
        return SourceUnavailable(f"{repository} is not on this machine and HF_HUB_OFFLINE forbids downloads; unset it")
    if isinstance(error, HFValidationError):
        return ModelUnknown(f"{repository!r} is no repository id; it has the form org/repo")
    if isinstance(error, HfHubHTTPError):
        return _from_status(error, repository, endpoint, has_token)
    if is_disk_full(error):
        return DoesNotFit(f"the disk became full while {repository} was downloaded; free some space and pull again")
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return SourceUnavailable(f"the hub at {endpoint} ended a file of {repository} early; pull again to resume")
    name = type(error).__name__
    return SourceUnavailable(
        f"the hub at {endpoint} cannot be reached ({name}); check the network, or set HF_ENDPOINT to a mirror"
    )


def is_temporary(error: Exception) -> bool:
    """Returns True if another attempt may soon succeed."""
    if isinstance(error, HfHubHTTPError):
        return _status(error) in SERVER_ERRORS | {429}
    return False


def retry_after_seconds(error: Exception) -> float | None:
    """Returns the hub's Retry-After; None if it sent none."""
    if isinstance(error, HfHubHTTPError):
        text = error.response.headers.get("Retry-After", "")
        return float(text) if text.isdigit() else None
    return None


def _from_status(error: HfHubHTTPError, repository: str, endpoint: str, has_token: bool) -> ModelError:
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
