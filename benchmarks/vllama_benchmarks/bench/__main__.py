"""`python -m vllama_benchmarks.bench`: what `vllama bench` becomes."""

import os
import sys

from vllama_benchmarks.bench.command import command
from vllama_benchmarks.command import run

if __name__ == "__main__":
    sys.exit(run("bench", command, sys.argv[1:], os.environ))
