"""Runs the benchmarks: all of them, or those named on the command line."""

from __future__ import annotations

import importlib
import sys

ALL = ("keyed", "latency", "exactly_once", "store")


def main() -> None:
    names = sys.argv[1:] or list(ALL)
    unknown = [name for name in names if name not in ALL]
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}; there are {', '.join(ALL)}")
    for name in names:
        print(f"== {name}", flush=True)
        importlib.import_module(f"benchmarks.{name}").main()


if __name__ == "__main__":
    main()
