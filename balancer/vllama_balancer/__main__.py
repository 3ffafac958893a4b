"""`python -m vllama_balancer`: the process behind `vllama serve`."""

from __future__ import annotations

import os
import sys

# Workers are started by exec: gRPC needs no preparation for forks and no warning at each. It reads the variable once,
# on import.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from vllama_balancer.main import main

if __name__ == "__main__":
    sys.exit(main())
