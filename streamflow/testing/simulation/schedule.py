"""A schedule: everything a seed decides about one run, but the flow and its inputs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

from streamflow.points import POINTS
from streamflow.runtime.settings import Settings
from streamflow.testing.simulation.loop import Order
from streamflow.testing.simulation.network import Faults

T = TypeVar("T")

RARE_POINTS: Final = ("fold.written", "record.buried", "record.buried", "spill.done", "stop.drained")
"""Points that few lives come to: they are named more often."""
KILLS_MAX: Final = 4
FAULTS_SECONDS: Final = 4.0
"""Virtual time in which faults strike; behind it they stop, and the flow must come to its end."""


@dataclass(frozen=True, slots=True)
class Kill:
    """How one life ends.

    Args:
        turn: At this callback of the life; 0 if a point is named.
        point: At this crash point.
        nth: At the so many-th time that the point is passed.
        zombie: It is frozen instead, and goes on when its successor has started.
        copy: The zombie keeps the disk, and its successor starts on a copy of it, as on a disk that fails over. It
            goes on once its successor has fenced every sink, and is killed when it hears of that.
    """

    turn: int = 0
    point: str = ""
    nth: int = 1
    zombie: bool = False
    copy: bool = False


@dataclass(frozen=True, slots=True)
class Schedule:
    """One run, but for the flow and its inputs.

    Args:
        seed: Where all that is random during the run comes from.
        order: How callbacks follow each other.
        faults: What goes wrong on the way to brokers.
        settings: Limits and paces of the flow.
        kills: How the first lives end, one after the other.
        store_seconds: The longest wait before, and after, each function of the store.
        restart_seconds: The longest time until the next life begins.
        feed_seconds: Inputs arrive over so much time; 0 is before the start.
        files: Whether the store lies in real files.
        closes: Whether inputs end, and the flow with them; otherwise it is stopped.
        again: Whether the flow is started once more when all is done.
    """

    seed: int = 0
    order: Order = field(default_factory=Order)
    faults: Faults = field(default_factory=Faults)
    settings: Settings = field(default_factory=Settings)
    kills: tuple[Kill, ...] = ()
    store_seconds: float = 0.0
    restart_seconds: float = 0.0
    feed_seconds: float = 0.0
    files: bool = False
    closes: bool = False
    again: bool = False


def quiet(*kills: Kill, settings: Settings | None = None) -> Schedule:
    """A schedule without chance: nothing goes wrong but the kills."""
    return Schedule(settings=settings or Settings(commit_min="0ms", checkpoint_share=1.0), kills=kills, closes=True)


def draw(seed: int) -> Schedule:
    """Draws a schedule. Rates themselves are drawn (swarm): many runs know only some kinds of faults."""
    chance = random.Random(seed)
    drawn = Schedule(
        seed=seed,
        order=_order(chance),
        faults=_faults(chance),
        settings=_settings(chance),
        kills=tuple(_kill(chance) for _ in range(chance.choice((0, 1, 1, 2, 2, 3, KILLS_MAX)))),
        store_seconds=chance.choice((0.0, 0.0, 0.001, 0.02)),
        restart_seconds=chance.choice((0.0, 0.05, 0.5)),
        feed_seconds=chance.choice((0.0, 0.0, 0.02, 0.5, 3.0)),
        closes=chance.random() < 0.4,
        again=chance.random() < 0.1,
    )
    memory_bytes_max = chance.choice((1, 300, 1 << 20, 1 << 20))
    return replace(drawn, settings=replace(drawn.settings, outbox_memory_bytes_max=memory_bytes_max))


def _order(chance: random.Random) -> Order:
    return Order(
        shuffled=chance.random() < 0.8,
        delay_rate=chance.choice((0.0, 0.0, 0.0, 0.02, 0.2)),
        delay_seconds=chance.choice((0.001, 0.02)),
        reading_seconds=chance.choice((0.0, 0.0, 0.0, 0.0, 1e-5, 1e-3)),
    )


def _faults(chance: random.Random) -> Faults:
    def rate(*rates: float) -> float:
        return chance.choice(rates) if chance.random() < 0.4 else 0.0

    return Faults(
        refused=rate(0.02, 0.2, 0.5),
        lost=rate(0.02, 0.2, 0.5),
        part=rate(0.1, 0.5),
        read=rate(0.02, 0.2),
        ack=rate(0.2, 1.0),
        latency_seconds=chance.choice((0.0, 0.0, 0.001, 0.02, 0.3)),
    )


def _settings(chance: random.Random) -> Settings:
    def one(*values: Any) -> Any:
        return chance.choice(values)

    return Settings(
        commit_min=one("0ms", "0ms", "1ms", "10ms"),
        commit_max=one("5ms", "100ms", "1s"),
        checkpoint_share=one(1.0, 1.0, 0.05),
        epoch_records_max=one(1, 3, 1000),
        epoch_bytes_max=one(1, 64, 1 << 20, 1 << 20),
        chunk_bytes=one(1, 32, 256, 1 << 18),
        outbox_bytes_max=one(1, 100, 1 << 20, 1 << 20),
        intake_records_max=one(1, 4, 8192),
        channel_fragments=one(1, 2, 2, 64),
        fragment_rows_max=one(1, 2, 7, 512),
        restarts_max=one(2, 10),
        plain=chance.random() < 0.15,
    )


def _kill(chance: random.Random) -> Kill:
    zombie = chance.random() < 0.3
    if chance.random() < 0.5:
        turn = 1 + int(chance.expovariate(1 / chance.choice((20, 60, 200))))
        return Kill(turn=turn, zombie=zombie, copy=zombie and chance.random() < 0.4)
    nth = 1 if chance.random() < 0.6 else 1 + int(chance.expovariate(1 / 4))
    return Kill(point=chance.choice((*POINTS, *RARE_POINTS)), nth=nth)


def spread(chance: random.Random, items: Sequence[T], seconds: float) -> list[tuple[float, T]]:
    """Gives each item a time, in order: at any, or in two bursts with a quiet time in between."""
    bursts = chance.random() < 0.5
    times = sorted(chance.random() * seconds for _ in items)
    if bursts:
        times = [at / 8 if at < seconds / 2 else seconds - (seconds - at) / 8 for at in times]
    return list(zip(times, items, strict=True))
