"""A deterministic simulated engine: no weights, no GPU, exact tokens, real timing, faults on demand.

It implements the same Engine protocol as the vLLM adapter, for tests, balancing research, capacity planning and demos.

- `engine`: FakeEngine, which runs the step model on the event loop.
- `generation`, `output`, `rendering`, `embedding`: one request: its prompt as bytes, its output, its vectors.
- `fault_injection`: crashes, hangs and failed requests.
- `steps`, `prefix_cache`, `rates`, `simulation_profile`, `tokens`: the step model and what it needs. They are pure and
  import nothing else of the worker, so that a simulator can run them in its own time.
- `clock`: the time in which the engine's steps pass.
"""
