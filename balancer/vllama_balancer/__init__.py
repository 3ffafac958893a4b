"""The balancer process: clients' requests come in over HTTP and gRPC, a fleet of vLLM workers serves them.

From the top: `main` and `app` start and end the process with the parts of `startup`. `edge` serves HTTP, `front` gRPC;
both call the `gateway`. `dispatch` queues, places and retries requests; `scheduler` decides which models are loaded
where. `workers` are the connections to the workers, `models` what can be installed, `fleet` where workers come from,
`routing` the policies. The rest are leaves that import none of these. docs/architecture.md has a picture and the terms.
"""
