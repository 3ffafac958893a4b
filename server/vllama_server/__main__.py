"""Runs a worker: `python -m vllama_server MODEL`.

Processes that vLLM spawns import this module again; the guard keeps them from starting a worker.
"""

import sys

if __name__ == "__main__":
    from vllama_server.main import main

    sys.exit(main())
