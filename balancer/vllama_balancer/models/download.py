"""Downloads one repository of the Hugging Face hub into the store.

A job: `python -m vllama_balancer.models.download REPOSITORY QUANTIZATION DIRECTORY [LIMITS]`. It fetches only the
files that a worker needs, several at once. A partial file is resumed by a later run, and each file is compared with the
digest that the hub announced. The directory appears by rename once it is complete; of two runs at once, one downloads.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils._headers import build_hf_headers

from vllama_balancer.gateway import Progress
from vllama_balancer.models.disk_space import MachineSpace, check_download_fits, check_quota
from vllama_balancer.models.errors import DownloadDamaged
from vllama_balancer.models.hub import (
    HubFile,
    files_to_load,
    gguf_to_load,
    is_temporary,
    retry_after_seconds,
    to_model_error,
)
from vllama_balancer.models.job import Reporter, job_main
from vllama_balancer.models.resolve import NO_LIMITS, InstallLimits
from vllama_balancer.models.store import RECORD, directory_size, locked_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from vllama_balancer.models.errors import ModelError

    T = TypeVar("T")

PARALLEL_FILES = 4
TRIES = 3
"""For a temporary error of the hub."""
LONGEST_PAUSE_SECONDS = 30.0
MEMORY_BYTES = 2 << 30
"""Most memory of a download, which writes what it receives."""
REPORT_SECONDS = 0.1
"""Between two reports about one file."""


@dataclass(frozen=True, slots=True)
class HubAccess:
    """The hub, and the credentials for it."""

    endpoint: str
    """Its URL."""
    token: str | None = None
    """Credentials for gated repositories."""
    sleep: Callable[[float], None] = time.sleep
    """Pauses before another try."""

    @classmethod
    def from_environment(cls) -> HubAccess:
        """Reads HF_ENDPOINT and HF_TOKEN, or the token saved by a login."""
        return cls(constants.ENDPOINT, get_token())

    def to_model_error(self, error: Exception, repository: str) -> ModelError:
        return to_model_error(error, repository, self.endpoint, self.token is not None)


class Repository:
    """One repository at one commit."""

    def __init__(self, name: str, access: HubAccess) -> None:
        """Reads its listing from the hub. Raises ModelError."""
        self.name = name
        self._access = access
        api = HfApi(endpoint=access.endpoint, token=access.token or False)
        info = self._retry(lambda: api.model_info(name, files_metadata=True))
        self.commit = str(info.sha)
        """Commit of the branch `main`."""
        self.license = str(getattr(info.card_data, "license", None) or "")
        """Short name of the licence."""
        self.files = [_announced(sibling) for sibling in info.siblings or ()]
        """All its files."""

    @property
    def origin(self) -> str:
        """Host, name and commit in one phrase."""
        return f"{self._access.endpoint.partition('://')[2]}/{self.name} at {self.commit[:12]}"

    def fetch(self, file: HubFile, partial: Path, reporter: Reporter) -> None:
        """Downloads a file, resuming `partial`. Raises ModelError."""
        url = hf_hub_url(self.name, file.name, revision=self.commit, endpoint=self._access.endpoint)
        headers = build_hf_headers(token=self._access.token or False)

        def attempt() -> None:
            with partial.open("ab") as target:
                bar = _bar(reporter, file, target.tell())
                http_get(
                    url, target, resume_size=target.tell(), headers=headers, expected_size=file.size, tqdm_class=bar
                )

        self._retry(attempt)

    def _retry(self, call: Callable[[], T]) -> T:
        for tried in range(1, TRIES + 1):
            try:
                return call()
            except Exception as error:  # huggingface_hub raises errors of four libraries
                if tried == TRIES or not is_temporary(error):
                    raise self._access.to_model_error(error, self.name) from error
                pause = retry_after_seconds(error)
                self._access.sleep(min(tried if pause is None else pause, LONGEST_PAUSE_SECONDS))
        raise AssertionError("the last try returns or raises")


def download(
    name: str,
    quantization: str,
    directory: Path,
    access: HubAccess,
    reporter: Reporter,
    limits: InstallLimits = NO_LIMITS,
) -> None:
    """Downloads a repository, unless it is there, and reports its directory. Raises ModelError."""
    reporter.progress(Progress("pulling manifest"))
    repository = Repository(name, access)
    if quantization:
        chosen = [gguf_to_load(repository.files, name, quantization)]
    else:
        chosen = files_to_load(repository.files, name, allows_pickle=limits.allows_pickle)
    suffix = f"-{quantization.lower()}" if quantization else ""
    target = directory / f"hub-{name.replace('/', '--')}-{repository.commit[:12]}{suffix}"
    with locked_file(directory / f".{target.name}.lock"):
        if not (target / RECORD).is_file():
            _download_into(repository, chosen, target, reporter, limits)
    gguf = str(target / chosen[0].name) if quantization else ""
    reporter.result(directory=str(target), gguf=gguf, **json.loads((target / RECORD).read_bytes()))


def _download_into(
    repository: Repository, files: Sequence[HubFile], target: Path, reporter: Reporter, limits: InstallLimits
) -> None:
    staging = target.with_name(f".{target.name}.partial")
    staging.mkdir(parents=True, exist_ok=True)
    missing = sum(file.size for file in files) - directory_size(staging)
    check_quota(missing, staging.parent, limits.quota_bytes)
    check_download_fits(missing, staging.parent, MachineSpace())
    with ThreadPoolExecutor(PARALLEL_FILES) as pool:
        jobs = [pool.submit(_complete, repository, file, staging, reporter) for file in files]
        try:
            for job in jobs:
                job.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    reporter.progress(Progress("writing manifest"))
    digest = hashlib.sha256("\n".join(sorted(f"{file.name} {_digest(file)}" for file in files)).encode()).hexdigest()
    record = {
        "digest": digest, "size_bytes": directory_size(staging), "license": repository.license,
        "origin": repository.origin,
    }  # fmt: skip
    (staging / RECORD).write_text(json.dumps(record))
    staging.rename(target)


def _complete(repository: Repository, file: HubFile, staging: Path, reporter: Reporter) -> None:
    """Completes one file in the staging directory, resuming an earlier run."""
    final = staging / file.name
    if final.is_file():
        return  # renamed only once its digest was right
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f"{final.name}.partial")
    repository.fetch(file, partial, reporter)
    if not matches(partial, file):
        partial.unlink()
        raise DownloadDamaged(
            f"{file.name} of {repository.name} differs from what the hub announced and was deleted; pull again"
        )
    partial.rename(final)


def matches(path: Path, file: HubFile) -> bool:
    """Returns True if a file has the digest, or else the size, that the hub announced."""
    if file.sha256:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256
    if file.blob_id:
        content_bytes = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content_bytes) + content_bytes).hexdigest() == file.blob_id
    return path.stat().st_size == file.size


def _announced(sibling: Any) -> HubFile:
    sha256 = sibling.lfs.sha256 if sibling.lfs else ""
    return HubFile(sibling.rfilename, int(sibling.size or 0), sha256, "" if sha256 else str(sibling.blob_id or ""))


def _digest(file: HubFile) -> str:
    return file.sha256 or file.blob_id


def _bar(reporter: Reporter, file: HubFile, done: int) -> type:
    """Returns the progress bar class that huggingface_hub takes: its objects count bytes."""
    digest = f"sha256:{file.sha256}" if file.sha256 else ""
    status = f"pulling {file.sha256[:12]}" if file.sha256 else f"pulling {file.name}"

    class Bar:
        def __init__(self, *_: object, **__: object) -> None:
            self.n = done
            self._last_report = 0.0

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            self._report()

        def update(self, count: float = 1) -> None:
            self.n += int(count)
            if time.monotonic() - self._last_report >= REPORT_SECONDS:
                self._report()

        def close(self) -> None:
            self._report()

        def _report(self) -> None:
            self._last_report = time.monotonic()
            reporter.progress(Progress(status, self.n, file.size, digest))

    return Bar


def main(arguments: Sequence[str]) -> int:
    """Downloads REPOSITORY into DIRECTORY; returns the exit status."""
    parser = argparse.ArgumentParser()
    for name in ("repository", "quantization", "directory"):
        parser.add_argument(name)
    parser.add_argument("--quota-bytes", type=int)
    parser.add_argument("--no-pickle", action="store_true")
    asked = parser.parse_args(arguments)
    access = HubAccess.from_environment()
    limits = InstallLimits(asked.quota_bytes, allows_pickle=not asked.no_pickle)

    def work(reporter: Reporter) -> None:
        try:
            download(asked.repository, asked.quantization, Path(asked.directory).absolute(), access, reporter, limits)
        except OSError as error:
            raise access.to_model_error(error, asked.repository) from error

    return job_main(work, memory_bytes=MEMORY_BYTES)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
