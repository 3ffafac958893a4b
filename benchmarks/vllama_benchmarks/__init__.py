"""The measuring tools of vllama. This package may import every other one; none imports it.

- `bench/`: `vllama bench`, a load generator that measures servers in turn.
- `simulate/`: `vllama simulate`, placement policies on simulated fleets in virtual time.
- `demo/`: `vllama demo`, a fleet and many chats at once.
- `bare_engine`: vLLM's engine without server, balancer or HTTP: the baseline of `bench compare`.
- `relay/`: `python -m vllama_benchmarks.relay`, the cost of all that lies between an engine and a client.

Shared by them: `command` (a typer command as a program), `stoppable` (SIGTERM ends a command in order),
`server_process` (a server as a child process) and `fleet_process` (a balancer with its workers as one).
"""
