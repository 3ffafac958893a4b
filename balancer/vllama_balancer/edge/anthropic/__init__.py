"""Anthropic's Messages, straight to and from the wire's messages."""

from vllama_balancer.edge.anthropic.dialect import DIALECT

__all__ = ["DIALECT"]
