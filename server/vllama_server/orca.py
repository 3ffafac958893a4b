"""The load of a worker in the form that gRPC clients and Envoy weigh: an ORCA report in the trailers.

An `xds.data.orca.v3.OrcaLoadReport` needs four of its fields here; requests per second and utilization
make the weight that `weighted_round_robin` gives a worker. They are written by hand: the package that
defines the message brings all of Envoy's API along, and its wire format is fixed.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vllama_server.engine.protocol import EngineLoad
    from vllama_server.occupancy import Occupancy

TRAILER = "endpoint-load-metrics-bin"

_MEM_UTILIZATION = 2
_RPS_FRACTIONAL = 6
_NAMED_METRICS = 8
_APPLICATION_UTILIZATION = 9
_FIXED64 = 1
_LENGTH_DELIMITED = 2


def load_report(load: EngineLoad, occupancy: Occupancy, max_streams: int) -> bytes:
    """Encodes a load; the application's utilization passes 1 when requests wait for long."""
    named = {
        "vllama.running": float(load.running),
        "vllama.waiting": float(load.waiting),
        "vllama.queued_prompt_tokens": float(load.queued_prompt_tokens),
    }
    return (
        _double(_MEM_UTILIZATION, load.kv_cache_use)
        + _double(_RPS_FRACTIONAL, occupancy.completed_per_second)
        + _map(_NAMED_METRICS, named)
        + _double(_APPLICATION_UTILIZATION, occupancy.streams / max_streams)
    )


def _double(number: int, value: float) -> bytes:
    return bytes((number << 3 | _FIXED64,)) + struct.pack("<d", value)


def _map(number: int, entries: Mapping[str, float]) -> bytes:
    return b"".join(_field(number, _field(1, key.encode()) + _double(2, value)) for key, value in entries.items())


def _field(number: int, content: bytes) -> bytes:
    # Every content here is shorter than 128 bytes, so one byte states its length.
    return bytes((number << 3 | _LENGTH_DELIMITED, len(content))) + content
