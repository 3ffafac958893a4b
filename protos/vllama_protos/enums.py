"""Names of enum values for logs, metrics and texts on the wire."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=256)
def value_name(enum: Any, value: int) -> str:
    """Returns the name of a value without the prefix of its enum: "WARM_UP" for START_PHASE_WARM_UP.

    `enum` is a generated enum, such as `worker_pb2.StartPhase`. Raises ValueError for a value that it does not have.
    """
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.DESCRIPTOR.name).upper()
    name: str = enum.Name(value)
    return name.removeprefix(f"{prefix}_")
