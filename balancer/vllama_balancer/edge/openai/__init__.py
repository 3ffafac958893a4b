"""OpenAI's JSON, straight to and from the wire's messages."""

from vllama_balancer.edge.openai.dialect import DIALECT

__all__ = ["DIALECT"]
