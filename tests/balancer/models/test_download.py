"""Downloads from a hub: only what is needed, checked, resumed, once; and every error in one sentence."""

from __future__ import annotations

import asyncio
import io
import os
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.balancer.models.hub import (
    COMMIT,
    Hub,
    Repo,
    answers,
    corrupts,
    cuts_after,
    lies_about_length,
    stalls_after,
    trickles,
)  # fmt: skip
from vllama_balancer.gateway import Progress
from vllama_balancer.models.download import HubAccess, download
from vllama_balancer.models.errors import AccessRefused, DoesNotFit, DownloadDamaged, ModelUnknown, SourceUnavailable
from vllama_balancer.models.job import Reporter, decode, run_job

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

JOB = "vllama_balancer.models.download"
WEIGHTS = bytes(range(256)) * 4096
"""1 MiB, so that it comes in several pieces."""
CHUNK = 10 << 20
"""What arrives of a file is written in pieces of this size."""
LONG = bytes(range(256)) * (CHUNK // 256 + 4096)
MODEL = {
    "config.json": b'{"model_type": "llama"}', "tokenizer.json": b"{}", "LICENSE": b"be nice",
    "model.safetensors": WEIGHTS, "README.md": b"# hello", "pytorch_model.bin": b"old", "onnx/model.onnx": b"other",
    "modeling_evil.py": b"raise SystemExit", "1_Pooling/config.json": b"{}", "original/params.json": b"{}",
}  # fmt: skip


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    """A hub with one good repository."""
    async with Hub() as served:
        served.repos["org/model"] = Repo(dict(MODEL))
        yield served


class Puller:
    """Downloads from a hub into one directory: in this process, or by a job of its own."""

    def __init__(self, hub: Hub, directory: Path) -> None:
        self.directory = directory
        self._hub = hub
        self.pauses: list[float] = []

    async def pull(self, repository: str = "org/model", quantization: str = "", token: str | None = None) -> list:
        """Downloads in a thread and returns all messages."""
        access = HubAccess(self._hub.url, token, self.pauses.append)
        output = io.StringIO()
        await asyncio.to_thread(download, repository, quantization, self.directory, access, Reporter(output))
        return [decode(line.encode()) for line in output.getvalue().splitlines()]

    def job(self, **environment: str):
        """Starts a download as the balancer does."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        hub = {"HF_ENDPOINT": self._hub.url, "HF_HOME": str(self.directory.parent / "hf")}
        arguments = ["org/model", "", str(self.directory)]
        return run_job(JOB, arguments, environment={**mine, **hub, **environment})

    async def pull_by_job(self, **environment: str) -> list:
        """Downloads by a job and returns all messages."""
        async with aclosing(self.job(**environment)) as steps:
            return [step async for step in steps]


@pytest.fixture
def puller(hub: Hub, tmp_path: Path) -> Puller:
    """Downloads from the hub into an empty directory."""
    return Puller(hub, tmp_path / "weights")


async def test_only_what_a_worker_needs_is_downloaded(puller: Puller, hub: Hub) -> None:
    """Safetensors, configuration, tokenizer and licence come; other formats and code do not."""
    messages = await puller.pull()
    target = puller.directory / f"hub-org--model-{COMMIT[:12]}"
    files = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
    wanted = {"config.json", "tokenizer.json", "LICENSE", "model.safetensors", "1_Pooling/config.json"}
    assert files == wanted | {"vllama.json"}
    assert (target / "model.safetensors").read_bytes() == WEIGHTS
    result = messages[-1]
    assert result["directory"] == str(target) and result["license"] == "mit" and len(result["digest"]) == 64
    assert COMMIT[:12] in result["origin"]


async def test_progress_counts_the_bytes_of_each_file(puller: Puller) -> None:
    """Steps carry the digest and grow to the file's size, as a pull shows them."""
    steps = [step for step in await puller.pull() if isinstance(step, Progress) and step.digest]
    assert steps[-1].completed == steps[-1].total == len(WEIGHTS)
    assert steps[-1].status == f"pulling {steps[-1].digest.removeprefix('sha256:')[:12]}"
    assert [step.completed for step in steps] == sorted(step.completed for step in steps)


async def test_what_is_there_is_not_downloaded_again(puller: Puller, hub: Hub) -> None:
    """A second pull of the same commit requests no file."""
    first = await puller.pull()
    hub.requests.clear()
    assert (await puller.pull())[-1] == first[-1]
    assert not hub.asked("model.safetensors")


async def test_two_pulls_at_once_download_once(puller: Puller, hub: Hub) -> None:
    """The second waits for the first and finds its result."""
    first, second = await asyncio.gather(puller.pull_by_job(), puller.pull_by_job())
    assert first[-1] == second[-1]
    assert len(hub.asked("model.safetensors")) == 1


async def test_a_killed_pull_is_resumed(puller: Puller, hub: Hub) -> None:
    """After kill -9 in the middle the next pull requests only the rest, and nothing was registered meanwhile."""
    hub.repos["org/model"].files["model.safetensors"] = LONG
    released = asyncio.Event()
    hub.faults["model.safetensors"] = [stalls_after(CHUNK + 5, released)]
    async with aclosing(puller.job(HF_HUB_DOWNLOAD_TIMEOUT="30")) as steps:
        await anext(steps)
        await hub.requested("model.safetensors")
        async with asyncio.timeout(20):
            while [path.stat().st_size for path in puller.directory.rglob("model.safetensors.partial")] != [CHUNK]:
                await asyncio.sleep(0.01)
    released.set()
    assert not list(puller.directory.glob("hub-*"))
    await puller.pull()
    assert hub.asked("model.safetensors") == ["", f"bytes={CHUNK}-"]
    assert next(puller.directory.rglob("model.safetensors")).read_bytes() == LONG


async def test_a_broken_connection_is_resumed(puller: Puller, hub: Hub) -> None:
    """The download continues where the connection broke."""
    hub.repos["org/model"].files["model.safetensors"] = LONG
    hub.faults["model.safetensors"] = [cuts_after(CHUNK + 5)]
    await puller.pull()
    assert hub.asked("model.safetensors") == ["", f"bytes={CHUNK}-"]
    assert next(puller.directory.rglob("model.safetensors")).read_bytes() == LONG


async def test_a_stalled_connection_is_given_up_and_resumed(puller: Puller, hub: Hub) -> None:
    """After the time-out the download continues over a new connection."""
    released = asyncio.Event()
    hub.faults["model.safetensors"] = [stalls_after(300_000, released)]
    await puller.pull_by_job(HF_HUB_DOWNLOAD_TIMEOUT="1")
    released.set()
    assert len(hub.asked("model.safetensors")) == 2


async def test_a_corrupt_file_is_refused_and_deleted(puller: Puller, hub: Hub) -> None:
    """One wrong byte is noticed; the next pull gets the file anew and succeeds."""
    hub.faults["model.safetensors"] = [corrupts]
    with pytest.raises(DownloadDamaged, match=r"model\.safetensors of org/model differs .* pull again"):
        await puller.pull()
    assert not list(puller.directory.rglob("model.safetensors*"))
    await puller.pull()
    assert hub.asked("model.safetensors") == ["", ""]


async def test_a_corrupt_small_file_is_refused(puller: Puller, hub: Hub) -> None:
    """Files without a SHA-256 are checked by git's digest."""
    hub.faults["config.json"] = [corrupts]
    with pytest.raises(DownloadDamaged, match=r"config\.json"):
        await puller.pull()


async def test_a_file_that_is_too_short_is_refused(puller: Puller, hub: Hub) -> None:
    """A hub that ends a file early is named, and the next pull resumes."""
    hub.faults["model.safetensors"] = [lies_about_length]
    with pytest.raises(SourceUnavailable, match="ended a file of org/model early; pull again"):
        await puller.pull()
    await puller.pull()
    assert hub.asked("model.safetensors")[-1] == f"bytes={len(WEIGHTS) - 10}-"


async def test_temporary_errors_are_retried(puller: Puller, hub: Hub) -> None:
    """429 with Retry-After and 503 are tried again, both for the listing and for a file."""
    hub.faults["org/model"] = [answers(429, **{"Retry-After": "0"}), answers(503)]
    hub.faults["model.safetensors"] = [answers(500)]
    assert "directory" in (await puller.pull())[-1]
    assert puller.pauses == [0.0, 2, 1]


@pytest.mark.parametrize(
    ("status", "headers", "kind", "words"),
    [
        (401, {"X-Error-Code": "RepoNotFound"}, ModelUnknown, "does not exist at .* or is private; .* HF_TOKEN"),
        (403, {"X-Error-Code": "GatedRepo"}, AccessRefused, "is gated: accept its licence at http.* and set HF_TOKEN"),
        (404, {"X-Error-Code": "RepoNotFound"}, ModelUnknown, "does not exist"),
        (429, {}, SourceUnavailable, "limits requests; wait a while"),
        (500, {}, SourceUnavailable, "answered 500 .* try again later"),
    ],
)
async def test_errors_are_one_sentence_with_the_fix(puller, hub, status, headers, kind, words) -> None:
    """Each status of the hub has its own class, cause and fix."""
    if status in (429, 500):
        hub.faults["org/model"] = [answers(status)] * 3
    else:
        hub.faults["org/model"] = [answers(status, **headers)]
    with pytest.raises(kind, match=words) as error:
        await puller.pull()
    assert "\n" not in str(error.value)
    assert not list(puller.directory.glob("hub-*"))


async def test_a_token_opens_a_gated_repository(puller: Puller, hub: Hub) -> None:
    """HF_TOKEN is sent with every request."""
    hub.repos["org/model"].token = "secret"
    with pytest.raises(AccessRefused):
        await puller.pull()
    assert "directory" in (await puller.pull(token="secret"))[-1]
    with pytest.raises(AccessRefused):
        await puller.pull(token="wrong")


async def test_a_hub_that_is_not_there_is_named(puller: Puller) -> None:
    """The message has the address and the fixes."""
    with pytest.raises(SourceUnavailable, match=r"127\.0\.0\.1:9 cannot be reached .* HF_ENDPOINT"):
        await puller.pull_by_job(HF_ENDPOINT="http://127.0.0.1:9")


async def test_offline_mode_forbids_downloads(puller: Puller) -> None:
    """HF_HUB_OFFLINE is honoured and named."""
    with pytest.raises(SourceUnavailable, match="HF_HUB_OFFLINE"):
        await puller.pull_by_job(HF_HUB_OFFLINE="1")


async def test_a_repository_of_gguf_files_says_which_there_are(puller: Puller, hub: Hub) -> None:
    """Without safetensors the message says how to name one of the files; a named one is downloaded alone."""
    hub.repos["org/quants"] = Repo(
        {"m-Q4_K_M.gguf": b"four" * 9, "m-Q8_0.gguf": b"eight" * 9, "m-F16.gguf": b"full" * 9}
    )
    with pytest.raises(ModelUnknown, match=r"F16, Q4_K_M, Q8_0, as in hf\.co/org/quants:Q8_0"):
        await puller.pull("org/quants")
    result = (await puller.pull("org/quants", "q4_k_m"))[-1]
    assert result["gguf"].endswith("m-Q4_K_M.gguf")
    with pytest.raises(ModelUnknown, match="no GGUF file Q2_K; it has F16, Q4_K_M, Q8_0"):
        await puller.pull("org/quants", "Q2_K")


async def test_a_repository_without_weights_is_refused(puller: Puller, hub: Hub) -> None:
    """A repository of something else is no model."""
    hub.repos["org/data"] = Repo({"README.md": b"hello"})
    with pytest.raises(ModelUnknown, match="no safetensors"):
        await puller.pull("org/data")


async def test_a_repository_of_parts_is_refused(puller: Puller, hub: Hub) -> None:
    """GGUF files in several parts are named as the reason."""
    hub.repos["org/parts"] = Repo({"m-Q4_K_M-00001-of-00002.gguf": b"a", "m-Q4_K_M-00002-of-00002.gguf": b"b"})
    with pytest.raises(ModelUnknown, match="GGUF files in several parts only"):
        await puller.pull("org/parts")
    with pytest.raises(ModelUnknown, match="no GGUF file Q4_K_M; it has none in a single file"):
        await puller.pull("org/parts", "Q4_K_M")


async def test_a_disk_that_becomes_full_is_reported_and_nothing_is_registered(puller: Puller, hub: Hub) -> None:
    """With space again the next pull continues; /dev/full behaves like a full disk."""
    staging = puller.directory / f".hub-org--model-{COMMIT[:12]}.partial"
    staging.mkdir(parents=True)
    full = staging / "model.safetensors.partial"
    full.symlink_to("/dev/full")
    with pytest.raises(DoesNotFit, match="the disk became full while org/model was downloaded; free some space"):
        await puller.pull()
    assert not list(puller.directory.glob("hub-*"))
    full.unlink()
    result = (await puller.pull())[-1]
    assert (Path(result["directory"]) / "model.safetensors").read_bytes() == WEIGHTS


async def test_a_slow_hub_is_waited_for(puller: Puller, hub: Hub) -> None:
    """A file that trickles arrives whole, in one request."""
    hub.faults["model.safetensors"] = [trickles]
    result = (await puller.pull())[-1]
    assert (Path(result["directory"]) / "model.safetensors").read_bytes() == WEIGHTS
    assert len(hub.asked("model.safetensors")) == 1
