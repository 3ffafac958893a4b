"""`python -m vllama_balancer`: the process behind `vllama serve`."""

from __future__ import annotations

import sys

from vllama_balancer.main import main

if __name__ == "__main__":
    sys.exit(main())
