"""The worker: one engine behind the gRPC services that every vllama worker speaks."""
