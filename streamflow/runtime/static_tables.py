"""Static tables: their content is loaded at each start, and what changed since the last one enters first.

What enters is part of the numbered log like every other record: it is stored with the epoch that takes it in. So the
content that records were joined with is known, whatever became of the file since.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamflow.connect.static import RowCodec
from streamflow.errors import StreamflowError
from streamflow.graph import SOURCE, Graph, Step
from streamflow.keys import Key
from streamflow.runtime.cut import Pushed
from streamflow.state.keyed import MISSING, Table

Aside = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Calls a function that may block, without keeping the event loop waiting."""


async def at_once(work: Callable[[], Any]) -> Any:
    """An `Aside` for tests and simulation, whose time does not wait for threads: calls the function here and now."""
    return work()


@dataclass(frozen=True, slots=True)
class Content:
    """Where the content of a static table comes from.

    Args:
        load: A file of JSON lines, or a function that gives the rows, plain or async.
        key: Gives a row's key; None where the content is a mapping.
        codec: Encodes rows.
    """

    load: Path | Callable[[], Any]
    key: Callable[[Any], Key] | None
    codec: RowCodec


async def changed_rows(graph: Graph, tables: Mapping[str, Table[Any]], aside: Aside, epoch: int) -> list[Pushed]:
    """What is to enter before all else, so that each static table holds what its content is now.

    Args:
        graph: The graph.
        tables: All tables, loaded.
        aside: Runs what blocks.
        epoch: The last committed one: rows that enter behind it again, after a crash, have the same identity.

    Raises:
        StreamflowError: The content of a table cannot be loaded.
    """
    found: list[Pushed] = []
    for source in graph.of_kind(SOURCE):
        content: Content | None = source.options.get("content")
        if content is not None:
            rows = await _loaded(source, content, aside)
            changed = enumerate(_difference(content, rows, tables[source.name]))
            found += [_push(source.name, row, content.codec.encode(row), f"{epoch}.{n}") for n, row in changed]
    return found


def static_sources(graph: Graph) -> frozenset[str]:
    """Names of the sources whose rows are loaded."""
    return frozenset(step.name for step in graph.of_kind(SOURCE) if "content" in step.options)


async def _loaded(source: Step, content: Content, aside: Aside) -> dict[Key, Any]:
    try:
        load = content.load
        if isinstance(load, Path):
            made: Any = await aside(lambda: _lines(load, content.codec))
        elif inspect.iscoroutinefunction(load) or inspect.isasyncgenfunction(load):
            made = load()
        else:
            made = await aside(load)
        if inspect.isawaitable(made):
            made = await made
        rows = [row async for row in made] if isinstance(made, AsyncIterable) else made
        return _by_key(rows, content.key)
    except Exception as error:
        raise StreamflowError(
            f"table {source.name!r} cannot be loaded: {type(error).__name__}: {error}",
            hint="Its content is loaded at each start, before any record is taken; nothing was changed.",
        ) from error


def _lines(path: Path, codec: RowCodec) -> list[Any]:
    return [codec.values.decode(line) for line in path.read_bytes().splitlines() if line.strip()]


def _by_key(rows: Mapping[Any, Any] | Iterable[Any], key: Callable[[Any], Key] | None) -> dict[Key, Any]:
    if isinstance(rows, Mapping):
        return dict(rows)
    if key is None:
        raise TypeError("without key= it must be a mapping of keys to values")
    return {key(row): row for row in rows}


def _difference(content: Content, rows: Mapping[Key, Any], table: Table[Any]) -> list[tuple[Key, Any]]:
    """Rows that are new, changed or gone, those that are gone first."""
    gone = [(key, None) for key in table.snapshot() if key not in rows]
    encode = content.codec.values.encode
    new = [(key, row) for key, row in rows.items() if (old := table.peek(key)) is MISSING or encode(old) != encode(row)]
    return [*gone, *new]


def _push(name: str, row: tuple[Key, Any], payload: bytes, id: str) -> Pushed:
    done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    done.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody waits for it
    return Pushed(name, row, payload, done, id)
