"""How a detached step stands in the graph: inputs into the state, results out of an internal source, both by key.

```
records ----> X_arrived --+
                          +--> X_merged --> X_key --> X_waiting (state) --> X --> what comes behind it
X_results (internal) -----+
```
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from streamflow.codecs import JsonCodec
from streamflow.errors import DefinitionError
from streamflow.flow import build
from streamflow.graph import SOURCE, OnError, Port
from streamflow.operators.bind import StateSpec
from streamflow.operators.detached import BEGIN, InputCodec, ResultCodec, arrive, hold, key_of, outcome
from streamflow.policy import CallLimits
from streamflow.runtime.detached import DetachedResults

if TYPE_CHECKING:
    from streamflow.flow.stream import Stream

VERBS = ("map", "filter", "flat_map")


def add_detached(
    stream: Stream[Any], verb: str, function: Callable[..., Any], name: str, on_error: Any, limits: CallLimits
) -> Port:
    """Adds the steps of an async step whose calls no commit waits for.

    Args:
        stream: What it reads.
        verb: ``map``, ``filter`` or ``flat_map``.
        function: The user's async function.
        name: Its name; inputs are stored under it.
        on_error: What happens when all attempts of a call have failed.
        limits: Bounds of the calls.

    Returns:
        The port of its outputs.

    Raises:
        DefinitionError: The verb has no detached form.
    """
    if verb not in VERBS:
        raise DefinitionError(f"{verb} step {name!r} cannot be detached", hint=f"Detach {', '.join(VERBS)} steps.")
    builder, keyed = stream._flow._builder, stream._step.keyed
    key_type = getattr(stream, "_key_type", None) if keyed else str
    policy = build.policy_options(on_error)
    results = DetachedResults(
        name,
        f"step:{name}_waiting",
        verb,
        function,
        build.wants_context(function),
        keyed,
        limits,
        policy.pop("retry", None),
        ResultCodec(JsonCodec(list[_output_type(stream, verb, function)]), key_type),  # type: ignore[misc]
    )
    held = _held(stream, results, keyed, key_type)
    last = builder.add("flat_map", name, [held], outcome, keyed=keyed, verb=f"detached {verb}", limits=limits, **policy)
    return Port(last.id)


def _held(stream: Stream[Any], results: DetachedResults, keyed: bool, key_type: Any) -> Port:
    """Adds what keeps inputs until their results come: the port of results."""
    builder, name = stream._flow._builder, results.step
    stops: dict[str, Any] = {"on_error": OnError.STOP}
    source = builder.add(SOURCE, results.name, [], spec=results, message=False, event_time=None, detached=name, **stops)
    arrived = builder.add("map", f"{name}_arrived", [stream._port], arrive, keyed=keyed, context=True, **stops)
    merged = builder.add("merge", f"{name}_merged", [Port(arrived.id), Port(source.id)])
    by_key = builder.add(
        "key_by", f"{name}_key", [Port(merged.id)], key_of, keyed=True, key_type=key_type, context=False, **stops
    )
    kind = Any if stream._type is None else stream._type
    held = builder.add(
        "process",
        results.waiting.removeprefix("step:"),
        [Port(by_key.id)],
        hold,
        keyed=True,
        ports=2,
        state=StateSpec("list", kind, codec=InputCodec(JsonCodec(kind))),
        key_type=key_type,
        timers={},
        event_timers={},
        outputs=(BEGIN.name,),
        context=True,
        **stops,
    )
    return Port(held.id)


def _output_type(stream: Stream[Any], verb: str, function: Callable[..., Any]) -> Any:
    """The type of an output, as far as annotations tell it."""
    if verb == "filter":
        found = stream._type
    elif verb == "flat_map":
        found = build.element(build.returns(function))
    else:
        found = build.returns(function)
    return Any if found is None else found
