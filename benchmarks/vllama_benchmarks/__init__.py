"""What measures vllama and takes no part in serving. It may import every package; none imports it.

- `bench/`: `vllama bench`, a load generator that measures servers in turn.
- `simulate/`: `vllama simulate`, placement policies on simulated fleets in virtual time.
- `demo/`: `vllama demo`, a fleet and many chats at once.
- `bare_engine`: vLLM's engine without any of our chain, what `bench` compares with.
- `relay/`: `python -m vllama_benchmarks.relay`, what lies between an engine and a client, measured alone.

Shared by them: `command` (a typer command as a program), `stoppable` (SIGTERM ends a command in order),
`server_process` (a server as a child process) and `fleet_process` (a balancer with its workers as one).
"""
