"""`vllama bench`: load tests that measure one target against another."""
