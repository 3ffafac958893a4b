"""The worker: one engine behind the gRPC services vllama.v1.Generation, Embedding and Worker.

How a request goes through it:

- `rpc_log` gives the call its id, logs it and turns its error into a status.
- `service`, `embedding_service`, `worker_service` and `health_service` implement the services; `relay/` carries many
  generations on one call.
- `limiter` admits the call or refuses it; `wire/` validates the request. `orders` refuses callers that are no balancer.
- `generation_runner` drives the engine behind `engine/`: `vllm_adapter/`, or the simulated `fake_engine/`.

The process:

- `main` wires everything from `config` (one table of flags, read with `values`) and `tls`.
- `serving` runs the worker from bind (`binding`) to stop, on `signals`; `lifecycle` is its state, which `reporter` and
  `health_service` publish. `sleep` moves the weights, `watchdog` detects a hung engine.
- `join` keeps the worker joined to balancers, `supervisor_watch` ends it with its supervisor, `drain` is a command.
- `memory/` says before loading whether the model fits; `metrics` and `utilization` are what others read of the load.
- `identity`, `errors`, `logs`, `open_files`: names, exceptions, log format, the limit of descriptors.
"""
