"""top, drain, restart against a scripted Fleet service."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING

import grpc
import pytest

from tests.clients.cli.ollama_server import Answer, OllamaServer
from tests.clients.scripted_server import Refusal, Script, start_server
from vllama_clients.cli.fleet_table import fleet_text, state, summary, why
from vllama_protos.v1 import fleet_pb2, worker_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.clients.conftest import Server

READY = fleet_pb2.WorkerStatus(
    name="worker-0",
    available=True,
    leases=12,
    restarts=2,
    time_to_first_token_p50=timedelta(milliseconds=45),
    time_to_first_token_p99=timedelta(seconds=1.25),
    description=worker_pb2.DescribeResponse(models=["smollm2:135m"], max_streams=64),
    report=worker_pb2.WorkerReport(
        state=worker_pb2.WORKER_STATE_READY,
        running=12,
        waiting=3,
        kv_cache_use=0.25,
        decode_tokens_per_second=512.4,
        prefill_tokens_per_second=20000,
        prefix_hit_rate=0.5,
        step=timedelta(milliseconds=12.5),
        uptime=timedelta(hours=3),
    ),
)
STARTING = fleet_pb2.WorkerStatus(
    name="worker-1",
    reason="starting",
    report=worker_pb2.WorkerReport(
        state=worker_pb2.WORKER_STATE_STARTING, phase=worker_pb2.START_PHASE_WARM_UP, progress=0.5
    ),
)
FAILED = fleet_pb2.WorkerStatus(
    name="worker-2",
    reason="failed",
    report=worker_pb2.WorkerReport(state=worker_pb2.WORKER_STATE_FAILED, failure="No memory: lower --max-model-len."),
)
DRAINING = fleet_pb2.WorkerStatus(
    name="worker-3", reason="draining", report=worker_pb2.WorkerReport(state=worker_pb2.WORKER_STATE_DRAINING)
)
ASLEEP = fleet_pb2.WorkerStatus(
    name="worker-5", reason="is asleep", report=worker_pb2.WorkerReport(state=worker_pb2.WORKER_STATE_SLEEPING)
)
WAITING = fleet_pb2.WorkerStatus(name="worker-4", reason="lost", retry_in=timedelta(seconds=8))
FLEET = fleet_pb2.ListWorkersResponse(workers=[READY, STARTING, FAILED], queued_requests=7)


@pytest.fixture
def top(server: Server, vllama: Callable) -> Callable:
    """Runs a command against the scripted Fleet service."""

    async def run(*arguments: str) -> object:
        return await vllama(*arguments, VLLAMA_GRPC=server.target)

    return run


@pytest.mark.parametrize(
    ("worker", "word"),
    [
        (READY, "ready"),
        (STARTING, "warm up 50%"),
        (FAILED, "failed"),
        (DRAINING, "draining"),
        (WAITING, "retry in 8 s"),
        (ASLEEP, "asleep"),
        (fleet_pb2.WorkerStatus(name="w", reason="ejected"), "ejected"),
        (fleet_pb2.WorkerStatus(name="w"), "out"),
    ],
)
def test_state(worker: fleet_pb2.WorkerStatus, word: str) -> None:
    """Each state has its word."""
    assert state(worker) == word


def test_causes() -> None:
    """Only what does not serve, does not start and does not sleep needs a reason."""
    assert [why(worker) for worker in (READY, ASLEEP, STARTING, FAILED, WAITING)] == [
        "",
        "",
        "",
        "No memory: lower --max-model-len.",
        "lost",
    ]


def test_a_worker_that_dies_again_and_again_is_named_with_its_cause() -> None:
    """In its own words, also while it serves; a single death needs no line."""
    once, twice = (
        fleet_pb2.WorkerStatus(name=f"w{count}", available=True, deaths=count, last_death="CUDA error: illegal access")
        for count in (1, 2)
    )
    text = fleet_text(fleet_pb2.ListWorkersResponse(workers=[once, twice]), None)
    assert text.splitlines()[-1] == "w2: died 2 times, the last time: CUDA error: illegal access"
    assert "w1: " not in text


def test_columns() -> None:
    """A ready worker's numbers stand in its line, whatever the width when none is given."""
    line = fleet_text(FLEET, None).splitlines()[1]
    assert line.split() == [
        "worker-0",
        "ready",
        "smollm2:135m",
        "12/64",
        "3",
        "25%",
        "512",
        "45",
        "ms/1.2",
        "s",
        "20000",
        "12.5",
        "ms",
        "50%",
        "2",
        "3h",
    ]


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_a_narrow_terminal_loses_columns_and_no_names(width: int) -> None:
    """Whole columns go until the rest fits; names and states stay whole."""
    lines = fleet_text(FLEET, width).splitlines()[:4]
    assert max(len(line) for line in lines) <= width
    assert [line.split()[0] for line in lines] == ["WORKER", "worker-0", "worker-1", "worker-2"]
    assert "warm up 50%" in lines[2]


def test_summary() -> None:
    """The fleet's sums stand in one line."""
    assert summary(FLEET) == "1 of 3 workers serve   12 streams   7 queued   512 tokens/s"
    with_sleeper = fleet_pb2.ListWorkersResponse(workers=[READY, ASLEEP])
    assert summary(with_sleeper).startswith("1 of 2 workers serve, 1 asleep   12 streams")


async def test_top_off_a_terminal_prints_once(server: Server, top: Callable) -> None:
    """Every worker has a line, and a failed one its cause."""
    server.script.reply = FLEET
    done = await top("top")
    assert done.status == 0
    assert all(worker.name in done.out for worker in FLEET.workers)
    assert "worker-2: No memory: lower --max-model-len." in done.out


async def test_top_as_json(server: Server, top: Callable) -> None:
    """--json prints the message's fields by their names."""
    server.script.reply = FLEET
    fleet = json.loads((await top("top", "--json")).out)
    assert fleet["queued_requests"] == 7
    assert fleet["workers"][0]["report"]["waiting"] == 3


async def test_top_without_a_balancer(vllama: Callable) -> None:
    """The error says what to do; status 1."""
    done = await vllama("top", "--once", VLLAMA_GRPC="127.0.0.1:1")
    assert done.status == 1
    assert "No balancer answers at 127.0.0.1:1" in done.err


async def test_top_with_a_key(server: Server, top: Callable, vllama: Callable) -> None:
    """VLLAMA_API_KEY is sent to the Fleet service as well."""
    server.script.reply = FLEET
    await vllama("top", "--once", VLLAMA_GRPC=server.target, VLLAMA_API_KEY="s3cret")
    assert server.script.metadata[0]["authorization"] == "Bearer s3cret"


async def test_drain(server: Server, top: Callable) -> None:
    """Name and time reach the balancer."""
    server.script.reply = fleet_pb2.DrainWorkerResponse()
    done = await top("drain", "worker-0", "--timeout", "2.5")
    assert (done.out, done.status) == ("worker-0 is drained\n", 0)
    (request,) = server.script.requests
    assert (request.worker, request.deadline.ToMilliseconds()) == ("worker-0", 2500)


async def test_drain_without_a_time(server: Server, top: Callable) -> None:
    """The server has a time of its own."""
    server.script.reply = fleet_pb2.DrainWorkerResponse()
    await top("drain", "worker-0")
    assert not server.script.requests[0].HasField("deadline")


async def test_drain_that_leaves_streams(server: Server, top: Callable) -> None:
    """Streams that were still running are a failure."""
    server.script.reply = fleet_pb2.DrainWorkerResponse(remaining_streams=2)
    done = await top("drain", "worker-0", "--timeout", "0")
    assert done.status == 1
    assert "2 streams" in done.err


async def test_drain_of_an_unknown_worker(server: Server, top: Callable) -> None:
    """The balancer's own sentence is printed."""
    server.script.reply = Refusal(grpc.StatusCode.NOT_FOUND, "no worker is called 'x'")
    done = await top("drain", "x")
    assert (done.err, done.status) == ("Error: no worker is called 'x'\n", 1)


async def test_undrain(server: Server, top: Callable) -> None:
    """The name reaches the balancer."""
    server.script.reply = fleet_pb2.UndrainWorkerResponse()
    done = await top("undrain", "worker-0")
    assert (done.out, done.status) == ("worker-0 is back in service\n", 0)
    assert server.script.requests == [fleet_pb2.UndrainWorkerRequest(worker="worker-0")]


async def test_undrain_of_a_worker_that_serves(server: Server, top: Callable) -> None:
    """The balancer's own sentence is printed."""
    server.script.reply = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "worker w is not drained by this balancer")
    done = await top("undrain", "w")
    assert (done.err, done.status) == ("Error: worker w is not drained by this balancer\n", 1)


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (fleet_pb2.UNLOAD_OUTCOME_NOT_LOADED, "is not loaded"),
        (fleet_pb2.UNLOAD_OUTCOME_UNLOADED, "is unloaded; its next request loads it again"),
        (fleet_pb2.UNLOAD_OUTCOME_WHEN_IDLE, "is in use, and is unloaded when its requests have ended"),
    ],
)
async def test_stop_says_what_it_did(server: Server, ollama: OllamaServer, top: Callable, outcome, words) -> None:
    """The balancer unloads each model, pinned ones too, and the HTTP server is not asked."""
    server.script.reply = fleet_pb2.UnloadModelResponse(model="m:latest", outcome=outcome)
    done = await top("stop", "m", "n")
    assert (done.out, done.status) == (f"m:latest {words}\n" * 2, 0)
    assert [request.model for request in server.script.requests] == ["m", "n"]
    assert ollama.requests == []


async def test_stop_of_an_unknown_model(server: Server, top: Callable) -> None:
    """Is an error."""
    server.script.reply = Refusal(grpc.StatusCode.NOT_FOUND, "model 'x' not found")
    done = await top("stop", "x")
    assert (done.err, done.status) == ("Error: model 'x' not found\n", 1)


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION]
)
async def test_stop_where_no_order_is_taken_is_ollamas(
    server: Server, ollama: OllamaServer, top: Callable, code: grpc.StatusCode
) -> None:
    """An older balancer, one that takes no orders from here, one that loads no models: keep_alive 0 by HTTP."""
    server.script.reply = Refusal(code)
    ollama.answers["POST /api/generate"] = Answer([{"done": True, "done_reason": "unload"}])
    done = await top("stop", "m")
    assert (done.status, "unless the server was started with it" in done.out) == (0, True)
    assert ollama.requests == [("POST /api/generate", {"model": "m", "keep_alive": 0, "stream": False})]


async def test_restart_that_stops_half_way(server: Server, top: Callable) -> None:
    """What was done is printed, then the balancer's reason; status 1."""
    server.script.reply = one_worker(READY, 10)
    server.script.fleets = [
        one_worker(READY, 11),
        Refusal(grpc.StatusCode.FAILED_PRECONDITION, "worker worker-1 did not come back: it failed"),
    ]
    done = await top("restart")
    assert (done.out, done.status) == ("worker-0: ready, process 11\n", 1)
    assert done.err == "Error: worker worker-1 did not come back: it failed\n"


def one_worker(worker: fleet_pb2.WorkerStatus, pid: int) -> fleet_pb2.ListWorkersResponse:
    """Builds a fleet of that one worker, renamed, in the process with that id."""
    moved = fleet_pb2.WorkerStatus()
    moved.CopyFrom(worker)
    moved.name, moved.pid = "worker-0", pid
    return fleet_pb2.ListWorkersResponse(workers=[moved])


async def test_restart_tells_what_happens(server: Server, top: Callable) -> None:
    """Each change of a worker's state, and each new life, is a line."""
    server.script.reply = one_worker(READY, 10)
    server.script.fleets = [
        one_worker(DRAINING, 10),
        one_worker(DRAINING, 10),
        one_worker(STARTING, 11),
        one_worker(READY, 11),
    ]
    done = await top("restart", "worker-0")
    assert done.out.splitlines() == [
        "worker-0: draining, process 10",
        "worker-0: warm up 50%, process 11",
        "worker-0: ready, process 11",
        "restarted",
    ]
    assert list(server.script.requests[1].workers) == ["worker-0"]


async def test_restart_that_only_tells_the_end(server: Server, top: Callable) -> None:
    """A restarted worker is printed with its new process."""
    server.script.reply = one_worker(READY, 10)
    server.script.fleets = [one_worker(READY, 11)]
    assert (await top("restart", "--rolling")).out == "worker-0: ready, process 11\nrestarted\n"


async def test_restart_of_foreign_workers(server: Server, top: Callable) -> None:
    """A refusal is printed, and no success."""
    server.script.reply = FLEET
    server.script.fleets = [Refusal(grpc.StatusCode.FAILED_PRECONDITION, "worker-0 was not started by this balancer")]
    done = await top("restart")
    assert (done.out, done.status) == ("", 1)
    assert "was not started by this balancer" in done.err


@pytest.fixture
async def secure_server(certificate: tuple[bytes, bytes]) -> AsyncIterator[tuple[str, Script]]:
    """A Fleet service behind TLS."""
    chain, key = certificate
    script = Script(reply=FLEET)
    running, port = await start_server(script, "127.0.0.1:0", grpc.ssl_server_credentials([(key, chain)]))
    yield f"localhost:{port}", script
    await running.stop(None)


async def test_top_over_tls(
    secure_server: tuple[str, Script], vllama: Callable, certificate: tuple[bytes, bytes], tmp_path: object
) -> None:
    """VLLAMA_CA names the authority, and its presence turns TLS on."""
    authority = tmp_path / "ca.pem"
    authority.write_bytes(certificate[0])
    done = await vllama("top", "--once", VLLAMA_GRPC=secure_server[0], VLLAMA_CA=str(authority))
    assert (done.err, done.status) == ("", 0)
    assert "worker-0" in done.out
