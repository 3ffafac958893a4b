"""The cost of the relay between a worker and a client, measured with simulated engines that cost next to nothing.

`__main__` runs the parts by name: `throughput`, `front` (gRPC), `latency`, `fairness`, `real_fairness` (on vLLM),
`scaling`, `memory`. `processes` starts workers and balancer, `lean_client` sends /api/chat over raw sockets.
The targets and the measured values stand in benchmarks/EXPERIMENTS.md.
"""
