"""Base64 images."""

from __future__ import annotations

import base64
import binascii

from vllama_balancer.errors import InvalidRequest
from vllama_protos.v1 import generation_pb2


def decode_base64_image(text: str, field: str) -> generation_pb2.Image:
    """Decodes an image. Raises InvalidRequest, naming `field`, when the base64 is broken or empty."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _broken(field) from error
    if not data:
        raise _broken(field)
    return generation_pb2.Image(data=data)


def _broken(field: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: invalid image input: the base64 data is empty or broken", field=field)
