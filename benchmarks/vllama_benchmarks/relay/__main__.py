"""Measures the relay: `python -m vllama_benchmarks.relay` with names of parts (see PARTS), or all of them without."""

from __future__ import annotations

import argparse

from vllama_benchmarks.relay import fairness, front, latency, memory, real_fairness, scaling, throughput
from vllama_benchmarks.relay.processes import NO_PACE, fleet

STREAMS = 50


def run_throughput(options: argparse.Namespace) -> None:
    """Target 3: steps that take no time, so the whole cost of the relay shows."""
    with fleet(1, NO_PACE) as running:
        throughput.measure(running, STREAMS, 100, 1, "warm-up")
        for repeat in range(options.repeats):
            found = throughput.measure(running, STREAMS, 400, options.rounds, f"run {repeat}")
            print(throughput.show(f"no pace, {STREAMS} x 400", found), flush=True)


def run_fast(options: argparse.Namespace) -> None:
    """An engine that generates more than the relay can carry, and never waits for its readers."""
    with fleet(1, ("step_seconds=0.0002", "step_seconds_per_stream=0", "prefill_tokens_per_second=0")) as running:
        throughput.measure(running, STREAMS, 100, 1, "warm-up")
        for repeat in range(options.repeats):
            found = throughput.measure(running, STREAMS, 4000, max(1, options.rounds // 5), f"run {repeat}")
            print(throughput.show(f"0.2 ms steps, {STREAMS} x 4000", found), flush=True)


def run_paced(options: argparse.Namespace) -> None:
    """The cost of a line when the relay keeps up and nothing is merged."""
    with fleet(1, ("step_seconds=0.02", "step_seconds_per_stream=0")) as running:
        throughput.measure(running, STREAMS, 20, 1, "warm-up")
        for repeat in range(options.repeats):
            found = throughput.measure(running, STREAMS, 200, 1, f"run {repeat}")
            print(throughput.show(f"20 ms steps, {STREAMS} x 200", found), flush=True)


PARTS = {
    "throughput": run_throughput,
    "fast": run_fast,
    "paced": run_paced,
    "front": front.run,
    "latency": latency.run,
    "fairness": fairness.run,
    "real-fairness": real_fairness.run,
    "scaling": scaling.run,
    "memory": memory.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; default: everything")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each kind")
    parser.add_argument("--rounds", type=int, default=5, help="replies of each stream in a throughput measurement")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the memory measurement streams")
    options = parser.parse_args()
    for part in options.parts or PARTS:
        PARTS[part](options)


if __name__ == "__main__":
    main()
