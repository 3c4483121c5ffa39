"""The story: publish the text, count its words, kill the flow on the way, and check every single result.

make demo                              all of it, with 5 kills
make demo ARGS="--kills 20 --seed 7"   more of them, at other places
make demo ARGS=--no-kill               undisturbed
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import nats
from nats.aio.client import Client

from examples.demo.audit import Audit
from examples.demo.broker import RESULTS, make_streams, publish_lines, results_published, results_settled
from examples.demo.corpus import count_words, find_files, read_lines
from examples.demo.kills import KillPlan
from examples.demo.results import StreamHole, read_stream
from examples.demo.screen import Screen, choose_screen
from examples.demo.worker import COMMAND, FlowDied, FlowProcess
from tests.brokers import BrokerError, NatsServer

TOP_WORDS = 10
POLL_SECONDS = 0.02
STANDSTILL_SECONDS = 30.0
INTERRUPTED = 130


@dataclass(frozen=True)
class Text:
    """What is counted: the files, their lines, and the truth about their words."""

    files: list[Path]
    lines: int
    words: Counter[str]


async def tell_story(options: argparse.Namespace, screen: Screen) -> bool:
    """Runs the demo and returns whether all is right."""
    began = time.monotonic()
    kills = "undisturbed" if not options.kills else f"killed {options.kills} times with SIGKILL on the way"
    screen.title(f"streamflow counts every word of Python's standard library on a real NATS server,\n{kills}")
    text = read_text(options.words, screen)
    plan = KillPlan(options.kills, text.words.total(), options.seed)
    with tempfile.TemporaryDirectory(prefix="streamflow-demo-") as folder:
        # sync="2m" is the server's own default: it answers before the disk has the data. That is enough here, where
        # only the flow is killed, never the server. In production say sync_interval: always, or a power failure takes
        # back what the server had acknowledged.
        async with NatsServer(sync="2m") as server:
            async with await nats.connect(server.url) as nc:
                await make_streams(nc.jetstream())
                screen.begin("publish the lines", text.lines, "lines")
                await publish_lines(nc, read_lines(text.files), screen.at)
                screen.end("to stream LINES")
                await run_flow(nc, FlowProcess(server.url, Path(folder)), plan, screen)
                messages = await results_published(nc.jetstream())
            audit, holes = await read_back(server.url, messages, text.words, screen)
    problems = [*audit.problems(messages), *holes]
    if len(plan.done) < plan.kills:
        problems.append(f"only {len(plan.done)} of {plan.kills} kills took place: give it more --words")
    screen.verdict(audit.top(TOP_WORDS), summary(audit, plan, time.monotonic() - began), problems)
    return not problems


def read_text(words: int | None, screen: Screen) -> Text:
    """Counts in the files, without any stream: what the flow must arrive at."""
    files = find_files()
    screen.begin("count in the files", len(files), "files")
    taken, truth = count_words(files, words)
    lines = sum(1 for _ in read_lines(taken))
    screen.end(f"{truth.total():,} words", total=len(taken))
    return Text(taken, lines, truth)


async def run_flow(nc: Client, process: FlowProcess, plan: KillPlan, screen: Screen) -> None:
    """Runs the flow until every word is counted; kills and starts its process as planned."""
    js = nc.jetstream()
    screen.begin("count with streamflow", plan.total, "results")
    screen.event(COMMAND)
    async with process:
        published, moved, killed = 0, time.monotonic(), 0.0
        while published < plan.total:
            await asyncio.sleep(POLL_SECONDS)
            process.check()
            before, published = published, await results_published(js)
            screen.at(published)
            if published > before:
                moved = time.monotonic()
                if killed:
                    screen.event(f"goes on, {moved - killed:.1f} s after the kill")
                    killed = 0.0
            elif time.monotonic() - moved > STANDSTILL_SECONDS:
                raise FlowDied(f"the flow published nothing for {STANDSTILL_SECONDS:.0f} s")
            if plan.is_due(published):
                await process.kill()
                killed = time.monotonic()
                published = await results_settled(js)
                plan.done.append(published)
                screen.event(f"SIGKILL {len(plan.done)} at {published / plan.total:.0%}: {published:,} out", bad=True)
                await process.start()
        await process.stop()
    screen.end(f"{len(plan.done)} kills")


async def read_back(url: str, messages: int, truth: Counter[str], screen: Screen) -> tuple[Audit, list[str]]:
    """Reads the whole results stream and checks it record by record."""
    audit = Audit(truth)
    screen.begin("check every result", messages, "results")
    try:
        if messages:
            async for payloads in read_stream(url, RESULTS):
                audit.take(payloads)
                screen.at(audit.records)
    except StreamHole as hole:
        return audit, [str(hole)]
    screen.end("from stream RESULTS")
    return audit, []


def summary(audit: Audit, plan: KillPlan, seconds: float) -> list[str]:
    """Returns what was done and checked, in a few lines."""
    places = ", ".join(f"{place / plan.total:.0%}" for place in plan.done)
    return [
        f"{len(plan.done)} kills with SIGKILL" + (f", at {places} of the way (--seed {plan.seed})" if places else ""),
        f"{len(audit.counts):,} words: every count compared with a count made from the files",
        f"{audit.records:,} results read back: each word's must be 1, 2, 3 ... in order, each once",
        f"{seconds:.1f} seconds in all; nothing is left running, no file is left behind",
    ]


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=5, help="how often the flow is killed (default: 5)")
    parser.add_argument("--no-kill", dest="kills", action="store_const", const=0, help="do not kill it")
    parser.add_argument("--seed", type=int, help="where it is killed; another place each time by default")
    parser.add_argument("--words", type=int, help="stop after about so many words of the 1.3 million")
    options = parser.parse_args()
    if options.kills < 0 or (options.words is not None and options.words < 1):
        parser.error("--kills and --words take positive numbers")
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10_000)
    return options


async def run(options: argparse.Namespace) -> int:
    """Runs the demo and returns the exit code; SIGTERM ends it as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with choose_screen() as screen:
        try:
            return 0 if await tell_story(options, screen) else 1
        except (BrokerError, FlowDied, OSError, nats.errors.Error) as error:
            screen.verdict([], [], [str(error) or type(error).__name__])
            return 1


def main() -> int:
    """Runs the demo and returns the exit code."""
    try:
        return asyncio.run(run(parse_arguments()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("\ninterrupted; nothing is left running", file=sys.stderr)
        return INTERRUPTED


sys.exit(main())
