"""`python -m vllama_balancer.config --help-all`: the flags for shells, without the import of a whole server."""

import sys
from pathlib import Path

from vllama_balancer.config import parse

parse(sys.argv[1:], {}, home=Path.home())
