"""Lists the services of a server from its address alone, over the reflection service, as grpcurl does.

python -m tests.server.reflection_listing ADDRESS
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import grpc
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

if TYPE_CHECKING:
    from google.protobuf.descriptor_pb2 import MethodDescriptorProto


async def listing(channel: grpc.aio.Channel) -> str:
    """Writes every service with its calls, in the order in which the server names them."""
    call = ServerReflectionStub(channel).ServerReflectionInfo()
    await call.write(ServerReflectionRequest(list_services=""))
    names = [service.name for service in (await call.read()).list_services_response.service]
    parts = []
    for name in names:
        await call.write(ServerReflectionRequest(file_containing_symbol=name))
        answer = await call.read()
        files = [FileDescriptorProto.FromString(text) for text in answer.file_descriptor_response.file_descriptor_proto]
        parts.append("\n".join([name, *(f"  {line}" for line in _calls(files, name))]))
    call.cancel()
    return "\n".join(parts)


def _calls(files: list[FileDescriptorProto], name: str) -> list[str]:
    return [
        _signature(method)
        for file in files
        for service in file.service
        if f"{file.package}.{service.name}" == name
        for method in service.method
    ]


def _signature(method: MethodDescriptorProto) -> str:
    sent = "stream " * method.client_streaming + method.input_type.lstrip(".")
    returned = "stream " * method.server_streaming + method.output_type.lstrip(".")
    return f"rpc {method.name}({sent}) returns ({returned})"


async def main(address: str) -> None:
    """Prints the listing of the server at an address."""
    async with grpc.aio.insecure_channel(address) as channel:
        print(await listing(channel))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
