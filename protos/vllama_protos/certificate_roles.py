"""Roles in certificates: `vllama certs` writes them, and workers and balancers read them off a caller's certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import grpc

ROLE_PREFIX = "urn:vllama:role:"
"""Before the role, in a URI among the certificate's names."""
BALANCER = "balancer"
_NAMES = "x509_subject_alternative_name"


def hosts_of_caller(context: grpc.aio.ServicerContext[Any, Any]) -> list[str]:
    """Returns the host names and addresses in the certificate of a call; none without a certificate."""
    return [name for name in _names(context) if not name.startswith(ROLE_PREFIX)]


def role_of_caller(context: grpc.aio.ServicerContext[Any, Any]) -> str | None:
    """Returns the role in the certificate of a call: empty for one that has none, None without a certificate."""
    names = _names(context)
    if not names:
        return None
    return next((name.removeprefix(ROLE_PREFIX) for name in names if name.startswith(ROLE_PREFIX)), "")


def _names(context: grpc.aio.ServicerContext[Any, Any]) -> list[str]:
    return [name.decode(errors="replace") for name in context.auth_context().get(_NAMES, ())]
