"""`python -m vllama_clients.cli`: the `vllama` command without its script."""

from vllama_clients.cli.main import main

main()
