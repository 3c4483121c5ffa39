"""Runs the tests part by part, one folder each, and says how long every part took."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent
# Fast parts first, so that a plain mistake shows at once; folders that are not named here come after them.
ORDER = ("unit", "typing", "golden", "docs", "connectors", "security", "simulation", "faults")
ANSI = re.compile(r"\x1b\[[0-9;]*m")
COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)\b")
NO_TESTS_COLLECTED = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one part went."""

    part: str
    exit_code: int
    seconds: float
    closing_line: str

    @property
    def succeeded(self) -> bool:
        """Whether nothing failed; a part without tests has not failed."""
        return self.exit_code in {0, NO_TESTS_COLLECTED}

    def count(self, *words: str) -> int:
        """Return how many tests pytest counted under any of the words."""
        return sum(int(number) for number, word in COUNT.findall(self.closing_line) if word in words)


def main() -> int:
    """Run the parts that the command line asks for, all by default; return the exit code."""
    options, pytest_arguments = _parse_arguments()
    parts = [part for part in _existing_parts() if not options.only or part in options.only]
    if not parts:
        print(f"Nothing to run yet: there are no tests in {', '.join(options.only or ['tests'])}.")
        return 0
    if options.long:
        pytest_arguments = ["--long", *pytest_arguments]
    outcomes = [_run(part, pytest_arguments) for part in parts]
    _print_summary(outcomes)
    return 0 if all(outcome.succeeded for outcome in outcomes) else 1


def _parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, epilog="Everything else is passed on to pytest.")
    parser.add_argument("--only", type=lambda text: text.split(","), help="parts, comma-separated")
    parser.add_argument("--long", action="store_true", help="long tests too, and more rounds of the others")
    return parser.parse_known_args()


def _existing_parts() -> list[str]:
    folders = {path.relative_to(TESTS).parts[0] for path in TESTS.glob("*/**/test_*.py")}
    return sorted(folders, key=lambda part: (ORDER.index(part) if part in ORDER else len(ORDER), part))


def _run(part: str, pytest_arguments: list[str]) -> Outcome:
    print(f"\n── {part} " + "─" * (70 - len(part)), flush=True)
    color = "yes" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else "no"
    command = [sys.executable, "-m", "pytest", f"--color={color}", "--durations=3", "--durations-min=1"]
    started = time.monotonic()
    with subprocess.Popen(
        [*command, f"{TESTS.name}/{part}", *pytest_arguments],
        cwd=TESTS.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        closing_line = _pass_on_output(process)
    return Outcome(part, process.returncode, time.monotonic() - started, closing_line)


def _pass_on_output(process: subprocess.Popen[bytes]) -> str:
    """Show the output as it comes (also half lines: the progress dots) and return its last line."""
    assert process.stdout is not None
    tail = b""
    while chunk := os.read(process.stdout.fileno(), 65536):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
        tail = (tail + chunk)[-4096:]
    lines = ANSI.sub("", tail.decode(errors="replace")).strip().splitlines()
    return lines[-1].strip("= ") if lines else ""


def _print_summary(outcomes: list[Outcome]) -> None:
    print("\n── time of each part " + "─" * 51)
    for outcome in outcomes:
        verdict = "ok    " if outcome.succeeded else "FAILED"
        print(f"{outcome.part:<12} {outcome.seconds:7.1f} s  {verdict}  {outcome.closing_line}")
    print(f"{'all':<12} {sum(outcome.seconds for outcome in outcomes):7.1f} s")
    passed = sum(outcome.count("passed", "xfailed") for outcome in outcomes)
    failed = sum(outcome.count("failed", "error", "errors", "xpassed") for outcome in outcomes)
    # A part that broke off (usage error, crash) counts no failed test and has failed all the same.
    failed += sum(1 for outcome in outcomes if not outcome.succeeded and not outcome.count("failed", "error", "errors"))
    skipped = sum(outcome.count("skipped") for outcome in outcomes)
    if passed or failed or skipped:
        print(f"{passed} passed, {failed} failed, {skipped} skipped")
    else:
        print("Nothing to run yet: no test was found.")


if __name__ == "__main__":
    sys.exit(main())
