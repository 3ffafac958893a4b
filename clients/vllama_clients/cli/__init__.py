"""The `vllama` command: one file for each subcommand, with a function `command` whose docstring is its help.

- `main` finds the command and turns failures (`failure`) into one sentence and an exit status.
- `passed_through` holds the commands that are programs of other packages: serve, worker, bench, demo, simulate, key,
  certs. `exec_module` becomes such a program.
- Commands over HTTP use `api`, those over gRPC `fleet_client`; `address` and `tls` read the environment for both.
- `run` answers one prompt (`chat`, `answer`) or opens a conversation (`repl`, `slash_commands`).
- Output: `columns`, `fleet_table`, `pull_progress`; help in two lengths: `long_help`; Ollama's flags: `ollama_flags`.
"""
