"""Runs the tests part by part, one folder each, some at a time where that does no harm, and says how long each took."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TESTS = Path(__file__).parent
ORDER = (
    # a plain mistake shows at once
    "typing",
    "docs",
    "unit",
    # then what takes longest, so that all lanes end at about the same time
    "connectors/nats",
    "connectors/rabbitmq",
    "connectors/kafka",
    "faults/rabbitmq",
    "faults/nats",
    "faults/kafka",
    "faults/store",
    "faults/traps",
)
"""Parts that begin first; the others follow by name."""
SPLIT = ("connectors", "faults")
"""Folders whose own folders are parts: one for each broker."""
YIELDING = ("simulation",)
"""Parts that only compute, on all processors, from the beginning on: they take what the others leave."""
CALM = ("faults", "faults/event_time", "faults/traps")
"""Parts that measure how much of a processor something takes: they come after all others, one on each processor."""
PROCESSORS = os.cpu_count() or 1
LANES = min(4, PROCESSORS + 2)
"""So many of the other parts run at a time: a broker is waited for half of the time, and more."""
ANSI = re.compile(r"\x1b\[[0-9;]*m")
COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)\b")
NO_TESTS_COLLECTED = 5


@dataclass(frozen=True, slots=True)
class Part:
    """A folder of tests, without the folders in it that are parts of their own."""

    name: str
    without: tuple[str, ...] = ()

    @property
    def yields(self) -> bool:
        return self.name in YIELDING

    @property
    def calm(self) -> bool:
        return self.name in CALM

    def arguments(self) -> list[str]:
        """What pytest is told to run."""
        return [f"{TESTS.name}/{self.name}", *(f"--ignore={TESTS.name}/{folder}" for folder in self.without)]


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
    wanted = options.only or []
    parts = [part for part in _existing_parts() if not wanted or {part.name, part.name.partition("/")[0]} & {*wanted}]
    if not parts:
        print(f"Nothing to run yet: there are no tests in {', '.join(wanted or ['tests'])}.")
        return 0
    if options.longest or options.long:
        pytest_arguments = ["--longest" if options.longest else "--long", *pytest_arguments]
    began = time.monotonic()
    outcomes = Runner(pytest_arguments).run(parts)
    _print_summary(outcomes, time.monotonic() - began)
    return 0 if all(outcome.succeeded for outcome in outcomes) else 1


def _parse_arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, epilog="Everything else is passed on to pytest.")
    parser.add_argument("--only", type=lambda text: text.split(","), help="parts, comma-separated")
    parser.add_argument("--long", action="store_true", help="the long tests, and more rounds of some others")
    parser.add_argument("--longest", action="store_true", help="the same, with what takes longest")
    return parser.parse_known_args()


def _existing_parts() -> list[Part]:
    folders = [path.relative_to(TESTS).parent for path in TESTS.glob("*/**/test_*.py")]
    names = {"/".join(folder.parts[: 2 if folder.parts[0] in SPLIT else 1]) for folder in folders}
    parts = [Part(name, tuple(sorted(other for other in names if other.startswith(f"{name}/")))) for name in names]
    return sorted(parts, key=_place)


def _place(part: Part) -> tuple[int, str]:
    return (ORDER.index(part.name) if part.name in ORDER else len(ORDER)), part.name


class Runner:
    """Runs parts, several at a time, and after them those that must not be disturbed."""

    def __init__(self, pytest_arguments: Sequence[str]) -> None:
        self._pytest_arguments = pytest_arguments
        self._screen = threading.Lock()

    def run(self, parts: Sequence[Part]) -> list[Outcome]:
        """Run all of them; return the outcomes in their order."""
        live = len(parts) == 1
        yielding = [part for part in parts if part.yields]
        with ThreadPoolExecutor(max(1, len(yielding))) as background, ThreadPoolExecutor(LANES) as lanes:
            behind = background.map(lambda part: self._run(part, live=live), yielding)
            before = lanes.map(
                lambda part: self._run(part, live=live), [part for part in parts if not part.yields and not part.calm]
            )
            outcomes = [*before, *behind]
        with ThreadPoolExecutor(PROCESSORS) as lanes:
            calm = lanes.map(lambda part: self._run(part, live=live), [part for part in parts if part.calm])
            return [*outcomes, *calm]

    def _run(self, part: Part, *, live: bool) -> Outcome:
        """Run one part: its output is shown as it comes, or, beside another, when it is done."""
        title = f"── {part.name} " + "─" * max(3, 70 - len(part.name))
        print(f"\n{title}" if live else f"   {part.name} has begun", flush=True)
        color = "yes" if sys.stdout.isatty() and "NO_COLOR" not in os.environ else "no"
        command = [sys.executable, "-m", "pytest", f"--color={color}", "--durations=3", "--durations-min=1"]
        if part.yields:
            command = ["nice", "-n", "10", *command]
        began = time.monotonic()
        with subprocess.Popen(
            [*command, *part.arguments(), *self._pytest_arguments],
            cwd=TESTS.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            output = self._read(process, live=live)
        if not live:
            with self._screen:
                print(f"\n{title}", flush=True)
                sys.stdout.buffer.write(output)
                sys.stdout.buffer.flush()
        lines = ANSI.sub("", output[-4096:].decode(errors="replace")).strip().splitlines()
        closing_line = lines[-1].strip("= ") if lines else ""
        return Outcome(part.name, process.returncode, time.monotonic() - began, closing_line)

    @staticmethod
    def _read(process: subprocess.Popen[bytes], *, live: bool) -> bytes:
        """Return the output; show it as it comes (also half lines: the progress dots)."""
        assert process.stdout is not None
        output = bytearray()
        while chunk := os.read(process.stdout.fileno(), 65536):
            output += chunk
            if live:
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
        return bytes(output)


def _print_summary(outcomes: Sequence[Outcome], seconds: float) -> None:
    print("\n── time of each part " + "─" * 51)
    for outcome in outcomes:
        verdict = "ok    " if outcome.succeeded else "FAILED"
        print(f"{outcome.part:<19} {outcome.seconds:7.1f} s  {verdict}  {outcome.closing_line}")
    print(f"{'all':<19} {seconds:7.1f} s")
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
