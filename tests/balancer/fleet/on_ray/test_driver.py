"""Decisions of the driver before it connects to a cluster."""

from __future__ import annotations

import socket

import pytest

pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")

from vllama_balancer.fleet.on_ray.driver import check_reachable, connect, resources_for


@pytest.mark.parametrize(
    ("device", "tensor_parallel", "cluster_gpus", "gpus"),
    [("auto", 1, 6.0, 1), ("auto", 1, 0.0, 0), ("auto", 2, 0.0, 2), ("cpu", 1, 6.0, 0), ("cuda", 1, 0.0, 1)],
)
def test_a_worker_asks_for_gpus_where_there_are_any(
    device: str, tensor_parallel: int, cluster_gpus: float, gpus: int
) -> None:
    """Unless it is to compute on processors; the request is also worded for messages."""
    request = resources_for(device, tensor_parallel, cluster_gpus)
    assert request.gpus == gpus
    assert ("GPU" in request.words) == (gpus > 0)


def test_an_address_without_a_listener_is_an_error_at_once() -> None:
    """The message names the address and the command to start a cluster."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionError, match="ray start --head"):
            check_reachable(f"127.0.0.1:{taken.getsockname()[1]}")


def test_an_address_with_a_listener_and_a_word_pass() -> None:
    """Anything but host and port is left to Ray."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        check_reachable(f"127.0.0.1:{listening.getsockname()[1]}")
    check_reachable("auto")


def test_a_machine_without_a_cluster_names_the_command_that_starts_one() -> None:
    """In the balancer's own flags: Ray's message names flags that it has not."""

    def init(**_: object) -> None:
        raise ConnectionError("Could not find any running Ray instance. Please specify the one by setting `--address`")

    with pytest.raises(ConnectionError, match=r"`ray start --head` starts one.*--ray-address HOST:PORT") as error:
        connect("auto", init)
    assert "`--address`" not in str(error.value)
