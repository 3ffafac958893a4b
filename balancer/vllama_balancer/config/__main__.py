"""`python -m vllama_balancer.config --help-all`: the flags alone, for shells; a server takes a second to import."""

import sys
from pathlib import Path

from vllama_balancer.config import parse

parse(sys.argv[1:], {}, home=Path.home())
