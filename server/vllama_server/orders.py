"""Check of the callers that order a worker to drain, sleep or wake: balancers, by the role in their certificate."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from vllama_protos.certificate_roles import BALANCER, hosts_of_caller, role_of_caller
from vllama_server.errors import NotAllowed

if TYPE_CHECKING:
    import grpc

logger = logging.getLogger(__name__)


class OrderCheck:
    """Checks the callers of one worker. Without certificates, every caller may give orders."""

    def __init__(self) -> None:
        self._without_role: set[str] = set()

    def check(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Raises NotAllowed for the certificate of a worker or a client; one without a role is accepted and logged."""
        role = role_of_caller(context)
        if role is None or role == BALANCER:
            return
        hosts = ", ".join(hosts_of_caller(context))
        if role:
            raise NotAllowed(
                f"the certificate of {hosts} has the role {role}; only a {BALANCER}'s may give this order."
            )
        if hosts not in self._without_role:
            self._without_role.add(hosts)
            logger.warning(
                "the certificate of %s has no role, and is accepted until it expires: see `vllama certs rotate`",
                hosts,
            )
