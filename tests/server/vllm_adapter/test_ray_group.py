"""The placement group that an actor tells its worker of."""

from types import SimpleNamespace

import pytest

from vllama_server.vllm_adapter.ray_group import VARIABLE, use_group

GROUP_ID = "ab" * 18


def config_of(backend):
    """An engine's configuration, as far as it matters here."""
    parallel = SimpleNamespace(distributed_executor_backend=backend, placement_group=None)
    return SimpleNamespace(parallel_config=parallel)


def test_an_engine_on_ray_takes_the_actors_group():
    """The group of the given id goes into the configuration, without a connection to any cluster."""
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    config = config_of("ray")
    use_group(config, {VARIABLE: GROUP_ID})
    assert config.parallel_config.placement_group.id.hex() == GROUP_ID


@pytest.mark.parametrize(("backend", "environ"), [("ray", {}), ("mp", {VARIABLE: GROUP_ID}), (None, {})])
def test_any_other_engine_is_left_alone(backend, environ):
    """Without a group, or without Ray, nothing changes."""
    config = config_of(backend)
    use_group(config, environ)
    assert config.parallel_config.placement_group is None
