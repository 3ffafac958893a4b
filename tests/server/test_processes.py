"""The worker as a process of its own: signals, exit statuses, crashes, and the end of its parent."""

import asyncio
import os
import resource
import signal
import socket
import sys
import urllib.request

import grpc
import psutil
import pytest

from tests.server.statuses import all_of, error_of
from tests.server.worker_process import rest_of
from vllama_protos.v1 import generation_pb2, worker_pb2


async def test_sigterm_drains(spawn):
    """The running stream comes to its end, new ones are refused, the status is 0, the socket is gone."""
    worker = await spawn()
    call = await worker.begin(80)
    worker.signal(signal.SIGTERM)
    assert (await rest_of(call))[-1].finished.usage.completion_tokens == 80
    assert await worker.status() == 0
    assert not worker.socket.exists()


async def test_a_second_signal_aborts(spawn):
    """The stream ends UNAVAILABLE and the process with status 0, long before the stream's end."""
    worker = await spawn("--drain-timeout", "600")
    call = await worker.begin(4000)
    worker.signal(signal.SIGTERM)
    await worker.reached(worker_pb2.WORKER_STATE_DRAINING)
    worker.signal(signal.SIGINT)
    assert (await error_of(rest_of(call))).code() == grpc.StatusCode.UNAVAILABLE
    assert await worker.status() == 0


async def test_sigterm_while_starting_ends_the_start(spawn):
    """A worker that is still loading stops at once."""
    worker = await spawn("--engine-arg", "start_seconds=600", ready=False)
    await worker.worker.Describe(worker_pb2.DescribeRequest(), wait_for_ready=True)
    worker.signal(signal.SIGTERM)
    assert await worker.status() == 0


async def test_a_crash_ends_the_stream_and_the_process(spawn):
    """crash_after_tokens kills the process as a real fault would."""
    worker = await spawn("--engine-arg", "crash_after_tokens=10")
    call = await worker.begin(100)
    assert (await error_of(rest_of(call))).code() == grpc.StatusCode.UNAVAILABLE
    assert await worker.status() == -signal.SIGKILL


async def test_poison_kills_the_process(spawn):
    """A prompt that contains the text is the end of the worker, any other is not."""
    worker = await spawn("--engine-arg", "poison=cyanide")
    one = generation_pb2.GenerateRequest(prompt="tea", sampling=generation_pb2.Sampling(max_tokens=1))
    assert await all_of(worker.generation.Generate(one))
    one.prompt = "tea with cyanide"
    await error_of(all_of(worker.generation.Generate(one)))
    assert await worker.status() == -signal.SIGKILL


async def test_a_hung_engine_ends_with_status_3(spawn):
    """The watchdog notices, the stream ends UNAVAILABLE, the log says why."""
    worker = await spawn("--engine-arg", "hang_after_tokens=5", "--stall-seconds", "0.5")
    call = await worker.begin(100)
    assert (await error_of(rest_of(call))).code() == grpc.StatusCode.UNAVAILABLE
    assert await worker.status() == 3
    assert "no step" in worker.log()


@pytest.mark.parametrize(("start_seconds", "said"), [("0", b"1"), ("600", b"")])
async def test_the_supervisor_learns_that_the_worker_was_ready(spawn, start_seconds, said):
    """One byte, which lies in the socket until the supervisor asks why the worker ended; none for a start."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        flags = ("--parent-fd", str(theirs.fileno()), "--engine-arg", f"start_seconds={start_seconds}")
        worker = await spawn(*flags, pass_fds=(theirs.fileno(),), ready=start_seconds == "0")
        await worker.reached(worker_pb2.WORKER_STATE_READY if said else worker_pb2.WORKER_STATE_STARTING)
        theirs.close()
        worker.signal(signal.SIGKILL)
        await worker.status()
        assert ours.recv(2) == said


@pytest.mark.faults
async def test_the_worker_ends_with_its_supervisor(spawn):
    """When the other end of the pipe closes the worker is gone within 3 s, streams or not."""
    read, write = os.pipe()
    worker = await spawn("--parent-fd", str(read), pass_fds=(read,))
    os.close(read)
    await worker.begin(4000)
    os.close(write)
    async with asyncio.timeout(3):
        await worker.status()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "nope"], "--engine"),
        (["--parent-fd", "900"], "--parent-fd"),
        (["--listen", "unix:/no/such/directory/w.sock"], "does not exist"),
        (["--metrics", "192.0.2.1:9"], "--metrics"),
    ],
)
async def test_bad_flags_are_one_line_and_status_2(spawn, arguments, words):
    """The message names the flag; there is no traceback."""
    worker = await spawn(*arguments, ready=False)
    assert await worker.status() == 2
    (line,) = [line for line in worker.log().splitlines() if line.startswith("vllama worker: ")]
    assert words in line
    assert "Traceback" not in worker.log()


async def test_a_wrong_engine_argument_is_one_line_and_status_2(spawn):
    """The engine types its own arguments; what it refuses is a wrong flag, which no restart will cure."""
    worker = await spawn("--engine-arg", "sped=2", ready=False)
    assert await worker.status() == 2
    assert worker.log().startswith("vllama worker: --engine-arg: sped is no setting")


async def test_two_workers_cannot_share_an_address(spawn, tmp_path):
    """The second one says so, as a start that may be tried again, and leaves the first alone."""
    first = await spawn()
    second = await spawn(listen=f"unix:{tmp_path}/0.sock", ready=False)
    assert await second.status() == 1
    assert "in use" in second.log()
    assert_no_traceback(second)
    await first.begin(1)


@pytest.mark.parametrize("address", ["127.0.0.1:{taken}", "203.0.113.7:50061", "unix:/missing/folder/w.sock"])
async def test_an_address_that_cannot_be_had_is_one_line(spawn, address):
    """A port in use, an address of another machine, a folder that is missing: a sentence and no traceback."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        worker = await spawn(listen=address.format(taken=holder.getsockname()[1]), ready=False)
        assert await worker.status() in (1, 2)
    assert "--listen" in worker.log()
    assert_no_traceback(worker)


def assert_no_traceback(worker):
    """The log has the sentence and nothing of the interpreter's own."""
    assert "Traceback" not in worker.log()
    assert "Error in sys.excepthook" not in worker.log()
    assert "Exception ignored" not in worker.log()


async def test_a_worker_starts_again_on_the_socket_of_a_killed_one(spawn, tmp_path):
    """The socket of a killed worker is no obstacle."""
    first = await spawn()
    first.signal(signal.SIGKILL)
    await first.status()
    second = await spawn(listen=f"unix:{tmp_path}/0.sock")
    await second.begin(1)


async def test_the_limit_of_open_files_is_raised(spawn):
    """A worker that was started with a low limit uses what the hard limit allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    worker = await spawn(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard)))
    assert psutil.Process(worker.process.pid).rlimit(psutil.RLIMIT_NOFILE)[0] == min(hard, 65_536)


async def test_metrics_are_served_over_http(spawn):
    """The log has the port, and the page has our collectors."""
    worker = await spawn("--metrics", "127.0.0.1:0")
    await rest_of(await worker.begin(3))
    url = next(word for word in worker.log().split() if word.startswith("http://"))
    with await asyncio.to_thread(urllib.request.urlopen, url) as page:
        text = page.read().decode()
    assert "vllama_worker_completion_tokens_total 3.0" in text


async def test_json_logs_are_one_object_per_line(spawn):
    """--log-format json is for machines, to the last line."""
    import json

    worker = await spawn("--log-format", "json", "--name", "worker-9")
    await rest_of(await worker.begin(1))
    worker.signal(signal.SIGTERM)
    await worker.status()
    lines = [json.loads(line) for line in worker.log().splitlines()]
    assert {line["worker"] for line in lines} == {"worker-9"}
    assert any("ended OK" in line["message"] for line in lines)


async def test_the_simulated_engine_needs_no_vllm():
    """Starting one imports neither vLLM nor torch."""
    code = (
        "import sys; from vllama_server import main; from vllama_server.fake_engine import engine; "
        "sys.exit(any(name.split('.')[0] in ('vllm', 'torch') for name in sys.modules))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0
