"""Pictures one resident: for a decision, and for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.loading.state import ModelState
from vllama_protos.v1 import fleet_pb2

if TYPE_CHECKING:
    from vllama_balancer.loading.progress_watch import WatchedPool
    from vllama_balancer.loading.resident import Resident


def state_of(resident: Resident, pool: WatchedPool) -> ModelState:
    """Takes from a model and its first worker what decisions are made from."""
    worker = pool.find(resident.workers[0]) if resident.berths else None
    description = worker.description if worker is not None else None
    said_bytes = description.model_info.size_bytes if description is not None else 0
    return ModelState(
        key=resident.key,
        places=tuple(berth.place for berth in resident.berths),
        users=resident.users,
        is_loaded=resident.is_loaded,
        is_leaving=resident.is_leaving,
        is_yielding=resident.is_yielding,
        is_pinned=resident.is_pinned,
        can_sleep=description is not None and description.can_sleep,
        size_bytes=said_bytes or resident.model.size_bytes,
        share=resident.share,
        ready_at=resident.ready_at,
        deadlines=tuple(resident.deadlines),
        load_seconds=resident.load_seconds,
        is_back=resident.is_back,
        last_used=resident.last_used,
        full_since=resident.full_since,
        stays_small_until=resident.stays_small_until,
    )


def status_of(resident: Resident) -> fleet_pb2.ModelStatus:
    """Tells where a model stands."""
    return fleet_pb2.ModelStatus(
        model=resident.name,
        state=_model_state(resident),
        workers=resident.workers,
        requests=resident.users,
        pinned=resident.is_pinned,
    )


def _model_state(resident: Resident) -> fleet_pb2.ModelState:
    if resident.is_leaving:
        return fleet_pb2.MODEL_STATE_LEAVING
    if resident.is_loaded:
        return fleet_pb2.MODEL_STATE_LOADED
    return fleet_pb2.MODEL_STATE_LOADING if resident.berths else fleet_pb2.MODEL_STATE_WAITING
