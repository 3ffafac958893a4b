"""The `vllama` command: one file for each subcommand."""
