"""The Anthropic dialect: /v1/messages to and from the messages of the protos.

dialect.py has routes, handlers and the shape of errors; messages_request.py with blocks.py translates requests,
messages_reply.py makes replies and events.
"""

from vllama_balancer.edge.anthropic.dialect import DIALECT

__all__ = ["DIALECT"]
