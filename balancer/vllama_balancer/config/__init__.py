"""The balancer's configuration: flags and environment in, one frozen BalancerConfig out."""

from vllama_balancer.config.config import EMBEDDED_MODEL, BalancerConfig, parse

__all__ = ["EMBEDDED_MODEL", "BalancerConfig", "parse"]
