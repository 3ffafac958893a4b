"""Ollama's JSON, and nothing else knows it: pure translations, and thin handlers."""

from vllama_balancer.edge.ollama.dialect import DIALECT

__all__ = ["DIALECT"]
