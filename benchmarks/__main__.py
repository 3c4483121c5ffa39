"""Runs the benchmarks: all of them but those that take long, or those named on the command line."""

from __future__ import annotations

import importlib
import sys

ALL = ("keyed", "windows", "latency", "async", "host", "exactly_once", "nats_latency", "commits", "recovery")
BY_NAME = ("ordered", "store", "nats", "kafka", "rabbitmq", "rabbit_stream")
"""What `commits` and `recovery` sum up, in more detail; and what needs a broker that takes long to get."""


def main() -> None:
    names = sys.argv[1:] or list(ALL)
    known = [*ALL, *BY_NAME]
    unknown = [name for name in names if name not in known]
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    for name in names:
        print(f"== {name}", flush=True)
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
