"""The placement group of a worker that a Ray actor has started: where vLLM's Ray executor may put its processes.

vLLM finds the group by itself inside an actor. A worker is a process beside its actor, so the actor tells the group's
id in a variable, and the engine's configuration carries the group to the engine's own processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLE = "VLLAMA_RAY_PLACEMENT_GROUP"
"""Hexadecimal id of the group; unset for a worker of its own."""


def use_group(config: Any, environ: Mapping[str, str]) -> None:
    """Lets an engine that runs on Ray use the group, when there is one; changes nothing otherwise."""
    group_id = environ.get(VARIABLE, "")
    if not group_id or config.parallel_config.distributed_executor_backend != "ray":
        return
    # Only here: a worker needs Ray for nothing else.
    from ray import PlacementGroupID
    from ray.util.placement_group import PlacementGroup

    config.parallel_config.placement_group = PlacementGroup(PlacementGroupID(bytes.fromhex(group_id)))
