"""A Ray cluster of several raylets on this machine, as a process that reads commands from its standard input.

A process of its own, so that Ray's threads, signal handlers and exits stay out of the test process.
"""

import os
import sys

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_worker_prestart": "0", "RAY_worker_niceness": "0"}

from ray.cluster_utils import Cluster

STORE = {"object_store_memory": 80 << 20}
# A dead raylet is noticed within two seconds instead of half a minute.
SYSTEM = {
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 4,
    "health_check_timeout_ms": 5000,
    "health_check_initial_delay_ms": 0,
}


def main() -> None:
    """Makes a head without resources and the nodes, prints the address, executes commands until the input ends."""
    count, gpus = int(sys.argv[1]), int(sys.argv[2])
    outlet = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": SYSTEM, **STORE},
    )
    try:
        nodes = [cluster.add_node(num_cpus=1, num_gpus=gpus, **STORE) for _ in range(count)]
        outlet.write(f"{cluster.address}\n")
        for line in sys.stdin:
            command, _, index = line.strip().partition(" ")
            if command == "add":
                nodes.append(cluster.add_node(num_cpus=1, num_gpus=gpus, **STORE))
            else:
                cluster.remove_node(nodes[int(index)], allow_graceful=command == "stop")
            outlet.write("done\n")
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
