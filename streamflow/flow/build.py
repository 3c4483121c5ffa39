"""Building: turns calls of verbs into steps; finds out names, types and whether a function wants its context."""

from __future__ import annotations

import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from streamflow.errors import DefinitionError
from streamflow.graph import SINK, SOURCE, Graph, OnError, Port, Step
from streamflow.operators.context import Context
from streamflow.operators.stateful import all_of
from streamflow.policy import Retry

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def check_name(name: str, what: str) -> str:
    """Returns a name that is fit for stores, fences and file names.

    Raises:
        DefinitionError: It is not.
    """
    if not _NAME.fullmatch(name):
        raise DefinitionError(
            f"{name!r} cannot be the name of a {what}",
            hint="Use up to 64 letters, digits, _ and -, beginning with a letter or digit.",
        )
    return name


class GraphBuilder:
    """Collects the steps of one flow.

    Args:
        flow: Name of the flow.
    """

    def __init__(self, flow: str) -> None:
        self.flow = check_name(flow, "flow")
        self._steps: dict[str, Step] = {}
        self._counters: dict[str, int] = {}

    def graph(self) -> Graph:
        """The graph as it is now, validated."""
        graph = Graph(self.flow, tuple(self._steps.values()))
        graph.validate()
        return graph

    def step(self, id: str) -> Step:
        return self._steps[id]

    def add(
        self, kind: str, name: str, inputs: Iterable[Port], function: Callable[..., Any] | None = None, **more: Any
    ) -> Step:
        """Adds a step under a name that nobody else has.

        Args:
            kind: Its kind.
            name: Its name.
            inputs: What it reads.
            function: The user's function.
            **more: ``keyed``, ``ports``, ``reads`` and the step's options.

        Raises:
            DefinitionError: The name is taken or unfit, or an input belongs to another flow.
        """
        space = kind if kind in (SOURCE, SINK) else "step"
        check_name(name, space)
        id = f"{space}:{name}"
        if id in self._steps:
            raise DefinitionError(
                f"flow {self.flow!r} has two {space}s called {name!r}", hint='Give one of them another name: name="..."'
            )
        ports = tuple(inputs)
        for port in ports:
            if port.step not in self._steps:
                raise DefinitionError(f"{space} {name!r} reads a stream of another flow")
        keyed, count, reads = more.pop("keyed", False), more.pop("ports", 1), more.pop("reads", ())
        step = Step(id, kind, name, function, ports, more, keyed, count, reads)
        self._steps[id] = step
        return step

    def amend(self, step: Step, **options: Any) -> None:
        """Adds options to a step that is there."""
        now = self._steps[step.id]
        self._steps[step.id] = replace(now, options={**now.options, **options})

    def stateless_name(self, kind: str, function: Callable[..., Any] | None, name: str | None) -> str:
        """A step's name: as given, else the function's, else the kind's, with a number where that is taken."""
        if name is not None:
            return name
        base = function_name(function) or kind
        candidate, count = base, 1
        while f"step:{candidate}" in self._steps:
            count += 1
            candidate = f"{base}-{count}"
        return candidate


def function_name(function: Callable[..., Any] | None) -> str:
    """A function's own name where it is fit to be a step's; empty for lambdas and the like."""
    name = getattr(function, "__name__", "")
    return name if _NAME.fullmatch(name) else ""


def stable_name(kind: str, function: Callable[..., Any] | None, name: str | None) -> str:
    """The name of a stateful step: as given or the function's; state is found again by it.

    Raises:
        DefinitionError: There is none.
    """
    found = name or function_name(function)
    if not found:
        raise DefinitionError(
            f"this {kind} step needs a stable name, since its state is stored under it", hint='Write name="..."'
        )
    return found


def check_options(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuses options of another name, which would else be left out without a word.

    Args:
        what: Who was given them, for people.
        given: Their names.
        known: Those that there are.

    Raises:
        DefinitionError: One is unknown.
    """
    names = sorted(known)
    for name in sorted(set(given).difference(names)):
        hint = f"It takes {', '.join(f'{each}=' for each in names)}." if names else ""
        raise DefinitionError(f"{what} takes no {name}=", hint=hint)


def hints(function: Callable[..., Any] | None) -> Mapping[str, Any]:
    """A function's annotations as types; what cannot be resolved is left out."""
    if function is None:
        return {}
    target = function if inspect.isroutine(function) else getattr(function, "__call__", function)  # noqa: B004
    try:
        return typing.get_type_hints(target)
    except Exception:  # annotations may name anything, also what does not exist at run time
        return {
            key: value for key, value in getattr(target, "__annotations__", {}).items() if not isinstance(value, str)
        }


def returns(function: Callable[..., Any] | None) -> Any:
    """What a function says it returns; None if it does not say."""
    return hints(function).get("return")


def element(kind: Any) -> Any:
    """The type of the elements of an iterable type; None if it does not say."""
    parts = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, None):
        return None
    return parts[0] if parts else None


def wants_context(function: Callable[..., Any]) -> bool:
    """Whether a function's first parameter is annotated as `Context`; decided once, when the graph is built."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    if not parameters:
        return False
    note = hints(function).get(parameters[0].name, parameters[0].annotation)
    if isinstance(note, str):
        return note.split("[")[0].rpartition(".")[2] == "Context"
    return (typing.get_origin(note) or note) is Context


def check_callable(kind: str, function: Any) -> None:
    """Refuses what cannot be called.

    Raises:
        DefinitionError: It cannot.
    """
    if not callable(function):
        raise DefinitionError(f"{kind} takes a function, not {function!r:.60}")


def check_function(kind: str, function: Any) -> None:
    """Refuses what cannot be the function of a synchronous step.

    Raises:
        DefinitionError: It is not callable, or is async.
    """
    check_callable(kind, function)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise DefinitionError(
            f"{kind} got the async function {function_name(function) or 'lambda'!r}, and takes a plain one",
            hint="Await in a map, filter, flat_map, map_batch or process step before it.",
        )


def check_policy(on_error: Any) -> OnError:
    """Returns an error policy that only says what becomes of a record.

    Raises:
        DefinitionError: It is none, or one of attempts, where what raises would only raise again.
    """
    if isinstance(on_error, Retry):
        raise DefinitionError(
            f"{on_error} is no error policy here: decoders, encoders, windows, joins, tables and dedup would raise for "
            "the same record again",
            hint=f"Write on_error=sf.{on_error.last}; retry is for steps that call a function of yours.",
        )
    try:
        return OnError(on_error)
    except ValueError:
        raise DefinitionError(
            f"{on_error!r} is no error policy here", hint="Use sf.stop, sf.skip or sf.dead_letter."
        ) from None


def retrying(function: Callable[..., Any], on_error: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A stateless function that is called again as its policy says, and the options of its step.

    Again at once: a wait would be one of the whole event loop. An iterator that it returns is read within the attempt.

    Raises:
        DefinitionError: The policy asks for a wait.
    """
    options = policy_options(on_error, waits=False)
    retry = options.pop("retry", None)
    if retry is None:
        return function, options

    @functools.wraps(function)
    def again(*arguments: Any) -> Any:
        failures = 0
        while True:
            try:
                made = function(*arguments)
                return all_of(made) if isinstance(made, Iterator) else made
            except Exception as error:
                failures += 1
                if retry.wait_after(failures, error) is None:
                    raise

    return again, options


def policy_options(on_error: Any, *, waits: bool = True) -> dict[str, Any]:
    """The options of a step whose policy may begin with attempts.

    Raises:
        DefinitionError: It is no policy.
    """
    if not isinstance(on_error, Retry):
        return {"on_error": check_policy(on_error)}
    if not waits and on_error.wait_seconds:
        raise DefinitionError(
            "a plain function cannot wait between attempts: it would keep the whole event loop waiting",
            hint="Leave backoff= out, or make the function async.",
        )
    return {"on_error": on_error.last, "retry": on_error}
