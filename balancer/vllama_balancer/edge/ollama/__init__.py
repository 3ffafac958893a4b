"""Ollama's JSON, and nothing else knows it: pure translations, and thin handlers."""
