"""The details of a gRPC status, read as a client reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

if TYPE_CHECKING:
    from collections.abc import Awaitable


async def error_of(call: Awaitable[object]) -> grpc.aio.AioRpcError:
    """Awaits a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def all_of(call: grpc.aio.UnaryStreamCall) -> list:
    """Reads a stream to its end."""
    return [message async for message in call]


def details_of(error: grpc.aio.AioRpcError) -> tuple[error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo | None]:
    """Unpacks ErrorInfo and, where there is one, RetryInfo."""
    status = rpc_status.from_call(_Synchronous(error))
    assert status is not None
    assert status.message == error.details()
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(info)
    found = any(detail.Unpack(retry) for detail in status.details[1:])
    return info, retry if found else None


class _Synchronous:
    """An asyncio error in the form of a synchronous call, for the ready-made reader."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self._error = error

    def trailing_metadata(self) -> tuple[object, ...]:
        """Key and value as attributes."""
        from collections import namedtuple

        pair = namedtuple("pair", ("key", "value"))
        return tuple(pair(key, value) for key, value in self._error.trailing_metadata())

    def code(self) -> grpc.StatusCode:
        """The code."""
        return self._error.code()

    def details(self) -> str:
        """The message."""
        return self._error.details()
