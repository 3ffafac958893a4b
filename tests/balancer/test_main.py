"""The balancer as a process: start, messages, and an end that leaves no process behind."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import signal
import socket
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import grpc
import psutil
import pytest

from tests.balancer.models.hub import Hub, Repo
from vllama_balancer.models.manifest import StoredModel
from vllama_balancer.models.store import Store
from vllama_protos.v1 import fleet_pb2, fleet_pb2_grpc, generation_pb2, generation_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

START_SECONDS = 40.0


class Served:
    """A running balancer, its output and its processes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.out = ""
        self.url = ""
        self.workers: list[psutil.Process] = []

    async def ready(self, workers: int = 2) -> Served:
        """Waits for the banner."""
        assert self.process.stdout is not None
        async with asyncio.timeout(START_SECONDS):
            while "Try: " not in self.out:
                line = await self.process.stdout.readline()
                assert line, "the balancer ended before it was ready"
                self.out += line.decode()
        self.url = re.search(r"http://\S+", self.out)[0]
        self.workers = psutil.Process(self.process.pid).children()
        assert len(self.workers) == workers
        return self

    async def ended(self, seconds: float = 20.0) -> int:
        """Waits for the end of the process and of all that it has started; returns its exit status."""
        async with asyncio.timeout(seconds):
            status = await self.process.wait()
            while any(is_alive(worker) for worker in self.workers):
                await asyncio.sleep(0.01)
        return status

    async def pids(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children() if is_alive(child)]


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@asynccontextmanager
async def serving(tmp_path: Path, *flags: str, **environment: str) -> AsyncIterator[Served]:
    """Starts a balancer with free ports and two simulated workers."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vllama_balancer", *flags,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, start_new_session=True,
        env={**os.environ, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), **environment},
    )  # fmt: skip
    served = Served(process)
    collected = asyncio.create_task(process.stderr.read())
    try:
        yield served
    finally:
        if process.returncode is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
        await process.wait()
        (tmp_path / "stderr.txt").write_bytes(await collected)


FAKE = ("demo", "--engine", "fake", "--workers", "2", "--port", "0", "--grpc-port", "0")


def errors(tmp_path: Path) -> str:
    """Reads what the ended balancer printed to standard error."""
    return (tmp_path / "stderr.txt").read_text()


async def test_ready_prints_addresses_and_a_command_that_works(tmp_path: Path) -> None:
    """The banner names the model, both addresses and a curl line whose request is answered."""
    async with serving(tmp_path, *FAKE) as served:
        await served.ready()
        assert "demo:latest on 2 workers" in served.out and "gRPC" in served.out
        path, body = re.search(r"Try: curl http://[^/]+(/\S+) -d '(.*)'", served.out).groups()
        async with aiohttp.ClientSession(served.url) as session, session.post(path, data=body) as reply:
            lines = [json.loads(line) async for line in reply.content]
        assert reply.status == 200 and lines[-1]["done"] is True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
async def test_a_signal_to_the_group_ends_all_with_status_0(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM, and SIGINT to the whole group as a terminal sends it, end the balancer and its workers."""
    async with serving(tmp_path, *FAKE) as served:
        await served.ready()
        os.killpg(served.process.pid, number)
        assert await served.ended() == 0
    assert list(tmp_path.glob("vllama-*")) == []  # noqa: ASYNC240


async def test_kill_9_of_the_balancer_ends_the_workers(tmp_path: Path) -> None:
    """Workers end with a balancer that had no time to end them."""
    async with serving(tmp_path, *FAKE) as served:
        await served.ready()
        served.process.kill()
        assert await served.ended() == -signal.SIGKILL


async def test_a_killed_worker_comes_back(tmp_path: Path) -> None:
    """A kill -9 of a worker is answered by a new one, and requests go on meanwhile."""
    async with serving(tmp_path, *FAKE) as served:
        await served.ready()
        victim = served.workers[0]
        victim.kill()
        async with aiohttp.ClientSession(served.url) as session:
            request = {"model": "demo", "prompt": "hello", "stream": False, "options": {"num_predict": 2}}
            async with session.post("/api/generate", json=request) as reply:
                assert reply.status == 200 and (await reply.json())["done"] is True
        async with asyncio.timeout(START_SECONDS):
            while len(await served.pids()) < 2:
                await asyncio.sleep(0.05)
        served.workers = psutil.Process(served.process.pid).children()
        assert victim.pid not in [worker.pid for worker in served.workers]
        served.process.terminate()
        assert await served.ended() == 0


async def test_streams_finish_after_sigterm(tmp_path: Path) -> None:
    """A stream that runs when SIGTERM comes is delivered to its end; then the process exits 0."""
    async with serving(tmp_path, *FAKE) as served:
        await served.ready()
        async with aiohttp.ClientSession(served.url) as session:
            request = {"model": "demo", "prompt": "hello", "options": {"num_predict": 100}}
            async with session.post("/api/generate", json=request) as reply:
                first = await reply.content.readline()
                served.process.terminate()
                lines = [json.loads(line) for line in [first, *[line async for line in reply.content]]]
        assert lines[-1]["done"] is True and lines[-1]["eval_count"] == 100
        assert await served.ended() == 0


async def test_requests_on_kept_alive_connections_are_refused_during_the_drain(tmp_path: Path) -> None:
    """503 and UNAVAILABLE with a reason, while a stream finishes; never a cut connection."""
    body = {"model": "demo", "prompt": "hello", "options": {"num_predict": 1000}}
    async with serving(tmp_path, *FAKE, "--engine-arg", "step_seconds=1") as served:
        await served.ready()
        async with (
            aiohttp.ClientSession(served.url, connector=aiohttp.TCPConnector(limit=1)) as kept_alive,
            aiohttp.ClientSession(served.url, connector=aiohttp.TCPConnector(limit=1)) as streaming,
            grpc.aio.insecure_channel(re.search(r"gRPC\s+(\S+:\d+)", served.out)[1]) as channel,
        ):
            generation = generation_pb2_grpc.GenerationStub(channel)
            tokenization = generation_pb2.TokenizeRequest(model="demo", prompt="hello")
            await generation.Tokenize(tokenization)
            async with kept_alive.get("/api/version") as reply:
                await reply.read()
            async with streaming.post("/api/generate", json=body) as stream:
                await stream.content.readline()
                served.process.terminate()
                async with asyncio.timeout(5):
                    while (await _health(served.url)) != 503:
                        await asyncio.sleep(0.02)
                for _ in range(2):
                    assert await _refused(kept_alive) == (503, "1")
                with pytest.raises(grpc.aio.AioRpcError, match="shutting down") as caught:
                    await generation.Tokenize(tokenization)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                served.process.terminate()
        assert await served.ended() == 0


async def _refused(session: aiohttp.ClientSession) -> tuple[int, str]:
    """Generates, and returns the status and the time after which to retry."""
    async with session.post("/api/generate", json={"model": "demo", "prompt": "hello"}) as reply:
        return reply.status, reply.headers.get("Retry-After", "")


async def test_the_next_request_after_the_last_stream_is_refused(tmp_path: Path) -> None:
    """The stream's end is the end of the drain, and its client asks at once again: it gets 503."""
    async with serving(tmp_path, *FAKE, "--engine-arg", "step_seconds=0.01") as served:
        await served.ready()
        body = {"model": "demo", "prompt": "hello", "options": {"num_predict": 100}}
        async with aiohttp.ClientSession(served.url, connector=aiohttp.TCPConnector(limit=1)) as session:
            async with session.post("/api/generate", json=body) as stream:
                await stream.content.readline()
                served.process.terminate()
                lines = [json.loads(line) async for line in stream.content]
            assert lines[-1]["done"] is True
            assert await _refused(session) == (503, "1")
        assert await served.ended() == 0


async def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """A second signal does not wait for streams."""
    async with serving(tmp_path, *FAKE, "--engine-arg", "step_seconds=1") as served:
        await served.ready()
        async with aiohttp.ClientSession(served.url) as session:
            request = {"model": "demo", "prompt": "hello", "options": {"num_predict": 1000}}
            async with session.post("/api/generate", json=request) as reply:
                await reply.content.readline()
                served.process.terminate()
                async with asyncio.timeout(5):
                    while (await _health(served.url)) != 503:
                        await asyncio.sleep(0.02)
                served.process.terminate()
                assert await served.ended(seconds=10) == 0


async def _health(url: str) -> int:
    async with aiohttp.ClientSession(url) as session, session.get("/health") as reply:
        return reply.status


@pytest.mark.parametrize("flag", ["--port", "--grpc-port"])
async def test_a_port_in_use_is_one_line_with_its_owner(tmp_path: Path, flag: str) -> None:
    """The line names the process that has the port and the flag to change; nothing was started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ports = {"--port": "0", "--grpc-port": "0"} | {flag: port}
        flags = [part for pair in ports.items() for part in pair]
        async with serving(tmp_path, "demo", "--engine", "fake", *flags) as served:
            assert await served.ended() == 1
    said = errors(tmp_path)
    assert said.count("\n") == 1 and f"(process {os.getpid()})" in said and flag in said


async def test_wrong_flags_end_with_status_2(tmp_path: Path) -> None:
    """A refused flag is one sentence and exit status 2."""
    async with serving(tmp_path, "--workers", "none") as served:
        assert await served.ended() == 2
    assert errors(tmp_path) == "vllama serve: --workers must be a whole number, 1 or more, not 'none'\n"


async def test_an_unknown_model_is_one_sentence(tmp_path: Path) -> None:
    """The sentence names the model and the ways to give one; nothing is left running."""
    async with serving(tmp_path, "nosuchmodel", "--port", "0", "--grpc-port", "0") as served:
        assert await served.ended() == 1
    assert "there is no model nosuchmodel:latest; give a known name" in errors(tmp_path).splitlines()[-1]


async def test_workers_that_cannot_start_end_the_balancer_with_the_cause(tmp_path: Path) -> None:
    """When no worker ever lives, the exit status is 1 and the last line is the worker's own explanation."""
    async with serving(tmp_path, *FAKE, "--engine-arg", "nonsense=1") as served:
        assert await served.ended(seconds=40) == 1
    last = errors(tmp_path).splitlines()[-1]
    found = re.search(r"nonsense.* \(all that the workers printed is in (\S+)\)$", last)
    assert found and "nonsense" in (Path(found[1]) / "worker-0.log").read_text()


async def test_static_workers_are_used_and_left_alone(tmp_path: Path) -> None:
    """A balancer on --worker addresses serves what they host, and leaves them running when it ends."""
    async with serving(tmp_path, *FAKE) as fleet:
        await fleet.ready()
        socket_path = next(iter(tmp_path.glob("vllama-*/worker-0.sock")))  # noqa: ASYNC240
        flags = ("--worker", f"unix:{socket_path}", "--port", "0", "--grpc-port", "0")
        async with serving(tmp_path, *flags) as second:
            await second.ready(workers=0)
            async with aiohttp.ClientSession(second.url) as session, session.get("/api/tags") as reply:
                listed = await reply.json()
            assert [model["name"] for model in listed["models"]] == ["demo:latest"]
            second.process.terminate()
            assert await second.ended() == 0
        assert all(is_alive(worker) for worker in fleet.workers)


async def test_models_are_pulled_loaded_swapped_and_removed(tmp_path: Path) -> None:
    """With one worker and no pinned model: pull, use, list as loaded, unload by keep_alive, alias, delete."""
    async with Hub() as hub:
        hub.repos["org/one"] = Repo({"config.json": b"{}", "model.safetensors": b"1" * 50})
        flags = ("--engine", "fake", "--port", "0", "--grpc-port", "0", "--models", str(tmp_path / "store"))
        async with serving(tmp_path, *flags, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path)) as served:
            await served.ready(workers=1)
            async with aiohttp.ClientSession(served.url) as session:
                ask = functools.partial(_ask, session)
                pulled = await ask("pull", model="org/one", stream=False)
                assert pulled == {"status": "success"}
                answer = await ask("generate", model="org/one", prompt="hello", stream=False)
                assert answer["done"] is True
                assert await _loaded(session) == ["org/one:latest"]
                await ask("create", model="mine", **{"from": "org/one"}, system="Be brief.", stream=False)
                answer = await ask("generate", model="mine", prompt="hello", stream=False)
                assert answer["model"] == "mine" and answer["done"] is True
                await ask("generate", model="smollm2:135m", prompt="hello", stream=False)
                assert await _loaded(session) == ["smollm2:135m"]
                gone = await ask("generate", model="smollm2:135m", keep_alive=0, stream=False)
                assert gone["done_reason"] == "unload" and await _loaded(session) == []
                async with session.delete("/api/delete", json={"model": "org/one"}) as reply:
                    assert reply.status == 200
                async with session.get("/api/tags") as reply:
                    names = {model["name"] for model in (await reply.json())["models"]}
                assert names == {"mine:latest", "smollm2:135m"}
            served.process.terminate()
            assert await served.ended() == 0


async def test_a_request_before_the_store_has_been_read_waits_for_it(tmp_path: Path) -> None:
    """An installed model is not "not found" meanwhile: a manifest that is slow to read is a pipe here."""
    weights, store = tmp_path / "weights", Store(tmp_path / "store")
    weights.mkdir()
    store.register(StoredModel("mine:1b", weights, "a" * 64, 0, "a test", datetime.now(UTC)))
    [manifest] = (store.directory / "manifests").glob("*.json")
    content = manifest.read_bytes()
    manifest.unlink()
    os.mkfifo(manifest)
    async with serving(tmp_path, "mine:1b", *FAKE[1:], "--models", str(store.directory)) as served:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{await _listening_port(served)}") as session:
            asking = asyncio.create_task(_ask(session, "generate", model="mine:1b", prompt="hi", stream=False))
            # Opening the pipe waits for its reader, so until then nothing of the store can have been read.
            async with asyncio.timeout(START_SECONDS):
                await asyncio.to_thread(manifest.write_bytes, content)
            assert (await asking)["done"] is True
        await served.ready()
        served.process.terminate()
        assert await served.ended() == 0


async def _listening_port(served: Served) -> int:
    """Waits until the process has bound its HTTP port, which comes before everything else."""
    process = psutil.Process(served.process.pid)
    async with asyncio.timeout(START_SECONDS):
        while True:
            bound = [one.laddr.port for one in process.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
            if bound:
                return bound[0]
            await asyncio.sleep(0.02)


async def _ask(session: aiohttp.ClientSession, call: str, **body: object) -> dict:
    async with session.post(f"/api/{call}", json=body) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def _loaded(session: aiohttp.ClientSession) -> list[str]:
    async with session.get("/api/ps") as reply:
        return [model["name"] for model in (await reply.json())["models"]]


@pytest.mark.parametrize("count", [1, 2])
async def test_a_rolling_restart_loses_no_request(tmp_path: Path, count: int) -> None:
    """Every worker is replaced, one after the other, while requests go on and all are answered; an only one too."""
    async with serving(tmp_path, *FAKE, "--workers", str(count)) as served:
        await served.ready(count)
        before = set(await served.pids())
        done = asyncio.Event()

        async def client() -> list[bool]:
            answers = []
            async with aiohttp.ClientSession(served.url) as session:
                while not done.is_set():
                    answer = await _ask(session, "generate", model="demo", prompt="hi", stream=False)
                    answers.append(answer["eval_count"] == 128)
            return answers

        clients = [asyncio.create_task(client()) for _ in range(4)]
        address = re.search(r"gRPC\s+(\S+)", served.out)[1]
        async with grpc.aio.insecure_channel(address) as channel:
            steps = fleet_pb2_grpc.FleetStub(channel).RestartWorkers(fleet_pb2.RestartWorkersRequest())
            last = [reply async for reply in steps][-1]
        done.set()
        answers = [answer for answers in await asyncio.gather(*clients) for answer in answers]
        assert len(answers) >= 4 and all(answers)
        assert all(worker.available for worker in last.workers)
        served.workers = psutil.Process(served.process.pid).children()
        assert before.isdisjoint(worker.pid for worker in served.workers) and len(served.workers) == count
        served.process.terminate()
        assert await served.ended() == 0


async def test_a_pinned_model_lends_a_worker_and_gets_it_back(tmp_path: Path) -> None:
    """Another model is served by one of its two workers, which returns when the other one is unloaded."""
    async with Hub() as hub:
        hub.repos["org/one"] = Repo({"config.json": b"{}", "model.safetensors": b"1" * 50})
        flags = (*FAKE, "--models", str(tmp_path / "store"))
        async with serving(tmp_path, *flags, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path)) as served:
            await served.ready()
            async with aiohttp.ClientSession(served.url) as session:
                await _ask(session, "pull", model="org/one", stream=False)
                await _ask(session, "generate", model="org/one", prompt="hello", stream=False)
                assert sorted(await _loaded(session)) == ["demo:latest", "org/one:latest"]
                await _ask(session, "generate", model="demo", prompt="hello", stream=False)
                await _ask(session, "generate", model="org/one", keep_alive=0, stream=False)
                assert await _loaded(session) == ["demo:latest"]
                async with asyncio.timeout(START_SECONDS):
                    while len(await served.pids()) < 2:
                        await asyncio.sleep(0.05)
            served.workers = psutil.Process(served.process.pid).children()
            served.process.terminate()
            assert await served.ended() == 0


async def test_idle_models_sleep_and_wake_as_the_same_processes(tmp_path: Path) -> None:
    """Two models take turns at one place: after their first loads they sleep and wake, and stop ends a sleeper."""
    async with Hub() as hub:
        hub.repos["org/one"] = Repo({"config.json": b"{}", "model.safetensors": b"1" * 50})
        flags = ("--engine", "fake", "--engine-arg", "can_sleep=1", "--port", "0", "--grpc-port", "0")
        store = ("--models", str(tmp_path / "store"))
        async with serving(tmp_path, *flags, *store, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path)) as served:
            await served.ready(workers=1)
            async with aiohttp.ClientSession(served.url) as session:
                await _ask(session, "pull", model="org/one", stream=False)
                await _ask(session, "generate", model="org/one", prompt="hello", stream=False)
                assert await _loaded(session) == ["org/one:latest"]
                assert await _asleep(session) == ["smollm2:135m"]
                processes = set(await served.pids())
                assert len(processes) == 2
                for model, other in (("smollm2:135m", "org/one:latest"), ("org/one:latest", "smollm2:135m")):
                    await _ask(session, "generate", model=model, prompt="hello", stream=False)
                    assert await _loaded(session) == [model] and await _asleep(session) == [other]
                assert set(await served.pids()) == processes
                await _ask(session, "generate", model="smollm2:135m", keep_alive=0, stream=False)
                assert await _asleep(session) == [] and len(await served.pids()) == 1
            served.workers = psutil.Process(served.process.pid).children()
            served.process.terminate()
            assert await served.ended() == 0


async def test_a_sleeping_worker_is_restarted_and_drained_like_any_other(tmp_path: Path) -> None:
    """A restart leaves the awake model serving, a drain ends the sleeper, and both models go on being served."""
    async with Hub() as hub:
        hub.repos["org/one"] = Repo({"config.json": b"{}", "model.safetensors": b"1" * 50})
        flags = ("--engine", "fake", "--engine-arg", "can_sleep=1", "--port", "0", "--grpc-port", "0")
        store = ("--models", str(tmp_path / "store"))
        async with serving(tmp_path, *flags, *store, HF_ENDPOINT=hub.url, HF_HOME=str(tmp_path)) as served:
            await served.ready(workers=1)
            address = re.search(r"gRPC\s+(\S+)", served.out)[1]
            async with aiohttp.ClientSession(served.url) as session, grpc.aio.insecure_channel(address) as channel:
                fleet = fleet_pb2_grpc.FleetStub(channel)
                await _ask(session, "pull", model="org/one", stream=False)
                await _ask(session, "generate", model="org/one", prompt="hello", stream=False)
                assert await _asleep(session) == ["smollm2:135m"]
                async with asyncio.timeout(START_SECONDS):
                    async for _ in fleet.RestartWorkers(fleet_pb2.RestartWorkersRequest()):
                        pass
                for model in ("org/one:latest", "smollm2:135m"):
                    answer = await _ask(session, "generate", model=model, prompt="hello", stream=False)
                    assert answer["done"] is True and await _loaded(session) == [model]
                assert await _asleep(session) == ["org/one:latest"]
                listed = await fleet.ListWorkers(fleet_pb2.ListWorkersRequest())
                [sleeper] = [worker.name for worker in listed.workers if not worker.available]
                drained = await fleet.DrainWorker(fleet_pb2.DrainWorkerRequest(worker=sleeper), timeout=START_SECONDS)
                assert drained.remaining_streams == 0 and await _asleep(session) == []
                await _ask(session, "generate", model="org/one", prompt="hello", stream=False)
                assert await _loaded(session) == ["org/one:latest"]
            served.workers = psutil.Process(served.process.pid).children()
            served.process.terminate()
            assert await served.ended() == 0


async def _asleep(session: aiohttp.ClientSession) -> list[str]:
    async with session.get("/health") as reply:
        return (await reply.json())["asleep"]
