"""A deterministic simulated engine: no weights, no GPU, exact tokens, real timing, faults on demand.

It stands behind the same Engine protocol as vLLM and is for tests, balancing research, capacity
planning and demos. `steps` and what it imports are pure and depend on nothing else here, so a
simulator can drive them in its own time.
"""
