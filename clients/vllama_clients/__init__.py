"""Clients for vllama's gRPC services, and the `vllama` command."""
