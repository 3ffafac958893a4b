"""The balancer's configuration: command line and environment come in, one frozen BalancerConfig goes out.

`settings` is the table: each field of BalancerConfig with its flag, environment twin, default and help. `values` reads
single values. `config` reads flags and environment by the table and refuses contradictions. `__main__` prints the
flags alone. Nothing else in the balancer reads flags or VLLAMA_ and OLLAMA_ variables.
"""

from vllama_balancer.config.config import parse
from vllama_balancer.config.settings import EMBEDDED_MODEL, BalancerConfig

__all__ = ["EMBEDDED_MODEL", "BalancerConfig", "parse"]
