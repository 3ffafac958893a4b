"""Messages between the balancer and its driver survive the pipe."""

import pytest

from vllama_balancer.fleet.assignment import HostedModel, WorkerSpec
from vllama_balancer.fleet.events import Added, Changed, ProcessState, Removed
from vllama_balancer.fleet.on_ray.messages import Close, Connected, Restart, Retire, decode, encode, start_command

SPEC = WorkerSpec(
    3, HostedModel("/models/a b", ("a:latest", "a")), "fake", "auto", ("--max-streams", "4"), {"A": "é\n"}
)


@pytest.mark.parametrize(
    "message",
    [
        Restart("worker-0", 1.5),
        Retire("worker-0", 0.0),
        Close(30.0),
        Connected("10.0.0.1:6379"),
        Added("worker-0", "10.0.0.2:4000", ("a",), restarts=2),
        Changed("worker-0", ProcessState.PLACING, "waits\nfor room", retry_in_seconds=0.5),
        Removed("worker-0", "was stopped"),
    ],
)
def test_messages_are_read_as_they_were_written(message: object) -> None:
    """Each message is one line, and equal after decoding."""
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode(line) == message


def test_a_start_carries_the_whole_specification() -> None:
    """The specification is equal after decoding."""
    command = decode(encode(start_command(SPEC, fail_fast=True)))
    assert command.fail_fast
    assert command.worker_spec() == SPEC


@pytest.mark.parametrize("line", [b"hello\n", b'["Nothing", {}]\n', b'["Retire", {"name": 3}]\n', b"\n"])
def test_other_lines_are_refused(line: bytes) -> None:
    """Anything else raises ValueError."""
    with pytest.raises(ValueError, match="not a message"):
        decode(line)
