"""Pictures in messages: data URIs are decoded, addresses refused.

Fetching an address would let any client make the server call any host, so the bytes must come
with the request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllama_balancer.edge.wire.images import decode_base64_image
from vllama_balancer.errors import InvalidRequest

if TYPE_CHECKING:
    from vllama_protos.v1 import generation_pb2

_PREFIXES = (
    "data:image/jpeg;base64,",
    "data:image/jpg;base64,",
    "data:image/png;base64,",
    "data:image/webp;base64,",
    "data:;base64,",
)


def decode_data_uri(url: str, field: str) -> generation_pb2.Image:
    """Decodes a data URI of a JPEG, PNG or WebP picture.

    Raises InvalidRequest, naming `field`, for an http(s) address, another media type or broken base64.
    """
    if url.startswith(("http://", "https://")):
        message = f"{field}: image URLs are not currently supported, please use base64 encoded data instead"
        raise InvalidRequest(message, field=field)
    for prefix in _PREFIXES:
        if url.startswith(prefix):
            return decode_base64_image(url.removeprefix(prefix), field)
    message = f"{field}: invalid image input: expected a data URI of a JPEG, PNG or WebP picture in base64"
    raise InvalidRequest(message, field=field)
