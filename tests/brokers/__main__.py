"""The shared brokers on the command line: `python -m tests.brokers up|down|status [nats ...]`."""

from __future__ import annotations

import argparse
import sys

from tests.brokers import BROKERS, BrokerError, BrokerKind, down, status, up


def main(arguments: list[str] | None = None) -> int:
    """Run one command over the named brokers, all by default; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.brokers", description=__doc__)
    parser.add_argument("command", choices=sorted(COMMANDS))
    parser.add_argument("brokers", nargs="*", metavar="broker", help=f"of {', '.join(BROKERS)}; all by default")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.brokers if name not in BROKERS]
    if unknown:
        parser.error(f"unknown broker {unknown[0]}; there are: {', '.join(BROKERS)}")
    exit_code = 0
    for name in options.brokers or BROKERS:
        try:
            succeeded, line = COMMANDS[options.command](BROKERS[name])
        except BrokerError as error:
            succeeded, line = False, str(error)
        print(f"{name:<10} {line}")
        exit_code = exit_code if succeeded else 1
    return exit_code


def _up(kind: BrokerKind) -> tuple[bool, str]:
    shared = up(kind)
    said = "started" if shared.started_now else "already there"
    log = f", log {shared.log_path}" if shared.log_path else ""
    return True, f"{said}: {shared.url}: {shared.detail} ({shared.how}{log})"


def _down(kind: BrokerKind) -> tuple[bool, str]:
    return True, down(kind)


COMMANDS = {"up": _up, "down": _down, "status": status}

if __name__ == "__main__":
    sys.exit(main())
