"""Crash points: named instants of the commit protocol at which a test may end the process; production does nothing.

A random kill hits the few instants that matter once in a hundred tries. So the code names them, and tests raise,
kill or fail there. The catalogue below is all that any flow may pass; each is reached by tests. Kafka's sink has one of
its own, ``sink.repairing``: see ``streamflow_kafka.repair``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Point = Callable[[str], None]
"""Called with the name of the point that is passed now."""


def no_point(name: str) -> None:
    """What production passes: nothing happens."""


POINTS: Final = (
    # the start, and the way back
    "store.claimed",  # the new generation is written, its transaction still open
    "store.opened",  # the checkpoint is read
    "state.loaded",
    "source.opened",  # nothing is pinned yet
    "source.pinned",  # a new partition's start is stored
    "sink.fenced",  # older instances are shut out, nothing was asked yet
    "sink.asked",  # the broker has said what it holds, nothing is noted
    "sink.baseline",  # a new sink's baseline is stored
    # an epoch
    "number.formed",  # records have their number, no stage has seen them
    "barrier.formed",
    "stage.sealed",
    "epoch.encoded",
    "commit.begun",
    "commit.written",  # everything is written, COMMIT is next
    "commit.done",  # durable; the witness does not know
    "epoch.appended",  # its outputs are in the outboxes
    "spill.done",
    "fold.written",
    # what leaves
    "publish.begun",
    "publish.part",  # in a connector, between two parts of one call of publish
    "record.buried",  # the broker refuses a record, and it is given up; nothing behind it is published
    "publish.done",  # the broker has confirmed, nobody knows it yet
    "progress.noted",
    "ack.begun",
    "ack.done",
    "stop.drained",  # everything has left, the store is not closed
)
"""The catalogue, in the order of an epoch's life."""
