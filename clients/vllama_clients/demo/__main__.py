"""`python -m vllama_clients.demo`: the same as `vllama demo`."""

import os
import sys

from vllama_clients.cli.main import run

sys.exit(run(["demo", *sys.argv[1:]], os.environ))
