"""``streamflow run``: runs a flow until its sources end or it is told to stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from streamflow.cli.options import with_json, with_target

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from streamflow.cli.progress import Progress
    from streamflow.cli.signals import Stopper
    from streamflow.flow import Flow, Running

SWITCH_SECONDS: Final = 0.0001
"""The store's thread gets the interpreter back this soon while the loop is busy; Python's own default is 5 ms."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What ``streamflow run`` was told besides the target; see its options."""

    wait: bool
    accept_missing: bool
    quiet: bool
    as_json: bool
    loop: str


@click.command("run", short_help="Run a flow.")
@with_target
@click.option("--wait", is_flag=True, help="Start although a broker cannot be reached, and try again until it answers.")
@click.option("--accept-missing", is_flag=True, help="Open a state file whose epoch witness is missing.")
@click.option("--loop", type=click.Choice(["auto", "asyncio", "uvloop"]), default="auto", help="The event loop.")
@click.option("--quiet", is_flag=True, help="Print only what is wrong.")
@with_json
def command(target: str, **given: Any) -> None:
    """Runs the flow TARGET until its sources end, or until SIGTERM or SIGINT (Ctrl-C).

    The first signal stops it cleanly: what was taken is committed and published, and the exit code is 0. The second
    ends the process at once with 130. Either way, and after a crash, the next run goes on where this one was.

    Before it starts, every source and sink is probed once; if one cannot be used, nothing is started and the exit
    code is 4. With --wait the flow starts all the same. Once it runs, a connector that fails is opened again for as
    long as it takes, with one line per attempt.

    Exit codes: 0 done or stopped, 1 the flow failed, 2 usage, 3 definition or settings, 4 connector, 5 state, 130
    interrupted.
    """
    from streamflow.cli.target import load

    options = RunOptions(**given)
    make_loop = _loop_factory(options.loop)
    flow = load(target)
    flow.check_guarantees()
    _own_the_process()
    _run(flow, options, make_loop)


def _run(flow: Flow, options: RunOptions, make_loop: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
    import asyncio
    import logging

    from streamflow.cli.progress import Progress
    from streamflow.cli.signals import Stopper
    from streamflow.cli.voices import VoiceHandler, choose_voice

    voice = choose_voice(quiet=options.quiet, as_json=options.as_json)
    progress = Progress(voice, _descriptions(flow))
    handler = VoiceHandler(voice)
    log = logging.getLogger("streamflow")
    # who set up logging in the flow's module gets our records there
    own = not log.hasHandlers()
    if own:
        log.addHandler(handler)
    try:
        with voice, Stopper(terminal=voice.live) as stopper, asyncio.Runner(loop_factory=make_loop) as runner:
            runner.run(_supervise(flow, options, progress, stopper))
    finally:
        if own:
            log.removeHandler(handler)


async def _supervise(flow: Flow, options: RunOptions, progress: Progress, stopper: Stopper) -> None:
    """Probes, runs and tells; returns after a clean stop."""
    import asyncio

    from streamflow.cli.probing import require_all

    host = asyncio.current_task()
    assert host is not None
    stopper.attach(host.cancel)
    unpublished: dict[str, int] = {}
    try:
        if not options.wait:
            await require_all(flow.graph())
        async with flow.running(progress, accept_missing=options.accept_missing) as run:
            stopper.attach(run.stop)
            ticker = asyncio.create_task(progress.tick())
            try:
                await run.wait()
            finally:
                ticker.cancel()
        unpublished = _unpublished(run)
    except asyncio.CancelledError:
        # cancelled by the first signal, before anything ran
        if not stopper.asked:
            raise
    progress.finished(unpublished)


def _unpublished(run: Running) -> dict[str, int]:
    """Per sink the records that are committed and not known to be published."""
    found = {}
    for name, outbox in getattr(run.engine, "outboxes", {}).items():
        known = outbox.progress.next_seq if outbox.progress is not None else 1
        if outbox.chunks and outbox.next_seq > known:
            found[name] = outbox.next_seq - known
    return found


def _descriptions(flow: Flow) -> dict[tuple[str, str], str]:
    from streamflow.graph import SINK, SOURCE

    graph = flow.graph()
    steps = [*graph.of_kind(SOURCE), *graph.of_kind(SINK)]
    return {(step.kind, step.name): step.options["spec"].describe() for step in steps}


def _own_the_process() -> None:
    """What a process of our own may do and an embedded flow must not."""
    import sys

    from streamflow.runtime.process import own_collector

    sys.setswitchinterval(SWITCH_SECONDS)
    own_collector()


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    from streamflow.errors import MissingExtraError

    if name == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        if name == "auto":
            return None
        raise MissingExtraError(
            "uvloop is not installed", hint="pip install 'streamflow-asyncio[uvloop]', or leave --loop out."
        ) from None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
