"""`python -m vllama_benchmarks.demo`: what `vllama demo` becomes."""

import os
import sys

from vllama_benchmarks.command import run
from vllama_benchmarks.demo.command import command

if __name__ == "__main__":
    sys.exit(run("demo", command, sys.argv[1:], os.environ))
