"""What a graph says about itself, in words: the labels of steps and of the edges between them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamflow.codecs import type_name
from streamflow.graph import SINK, SOURCE, Graph, OnError, Port, Step
from streamflow.operators.join_kinds import AsOf, Interval


def kind_of(step: Step) -> str:
    """The verb that the user wrote."""
    return str(step.options.get("verb", step.kind))


def words_of(step: Step) -> str:
    """What a step is, in a few words: what a connector reads or writes, what a stateful step keeps."""
    words = []
    if step.kind in (SOURCE, SINK):
        words.append(str(step.options["spec"].describe()))
    if step.options.get("event_time") is not None:
        words.append(_time_words(step.options["event_time"]))
    if step.options.get("ordering") is not None or step.options.get("ordered"):
        words.append("in the order of event time")
    if step.kind == "window":
        words.append(_window_words(step))
    if step.options.get("dedup") is not None:
        words.append(f"remembers by event time for {_span(step.options['dedup'].within_us // 1000)}")
    if step.reads:
        words.append(_reads_words(step))
    if (rate := step.options.get("rate")) is not None:
        words.append(f"no more than {rate.records} records in {_span(rate.per_ms)}")
    if step.kind == "join":
        words.append(_join_words(step))
    if step.traits.stateful:
        words.append(_state_words(step))
    if "limits" in step.options:
        words.append(_call_words(step))
    if (retry := step.options.get("retry")) is not None:
        words.append(f"{retry.times + 1} attempts")
    if step.options.get("on_error") is OnError.SKIP:
        words.append("errors are left out")
    if step.options.get("on_error") is OnError.DEAD_LETTER:
        words.append("errors become dead letters")
    return "; ".join(words)


def _time_words(event_time: Any) -> str:
    idle = "never" if event_time.idle_ms is None else f"after {_span(event_time.idle_ms)}"
    of = "the broker's time" if event_time.of is None else "event time"
    return f"{of}, lateness {_span(event_time.lateness_us // 1000)}, idle {idle}"


def _window_words(step: Step) -> str:
    options = step.options
    words = str(options["window"])
    if options["emit"] != "final":
        words += f", {options['emit']}"
    if options["allowed_us"]:
        words += f", allowed lateness {_span(options['allowed_us'] // 1000)}"
    if options["early"] is not None:
        words += f", early every {options['early']}"
    if options["early_us"] is not None:
        words += f", early every {_span(options['early_us'] // 1000)}"
    return words


def _reads_words(step: Step) -> str:
    names = ", ".join(repr(table.partition(":")[2]) for table in step.reads)
    if "how" in step.options:
        return f"{step.options['how']} join with table {names}"
    return f"looks up table{'s' * (len(step.reads) > 1)} {names}"


def _join_words(step: Step) -> str:
    kind, how = step.options["join"], step.options["how"]
    if isinstance(kind, Interval):
        left, right = (_span(stay_us // 1000) for stay_us in kind.stays_us)
        return f"{how} join {kind}, keeps left records for {left} and right ones for {right}"
    if isinstance(kind, AsOf):
        return f"{how} join {kind}, keeps left records until the watermark, and the latest right one of each key"
    return f"{how} join in windows {kind}, keeps records until their last window ends"


def _call_words(step: Step) -> str:
    limits = step.options["limits"]
    words = f"{limits.concurrency} calls at a time"
    if limits.size > 1:
        words += f" of up to {limits.size} records"
    words += "" if limits.ordered else ", in any order"
    if limits.timeout_seconds is not None:
        words += f", {_span(round(limits.timeout_seconds * 1000))} each"
    return f"{words}, deadline {_span(round(limits.deadline_seconds * 1000))}"


def _state_words(step: Step) -> str:
    facts = state_of(step)
    key = f" per {facts['key']}" if facts["key"] else " per key"
    words = f"state {step.name!r}: {facts['value']}{key}"
    if facts["ttl_ms"] is not None:
        words += f", ttl {_span(facts['ttl_ms'])}"
    if facts["timers"]:
        words += f"; timers {', '.join(facts['timers'])}"
    return words


def state_of(step: Step) -> Mapping[str, Any]:
    """What a stateful step stores: kind, value type, key type, time to live, timers."""
    spec, key = step.options["state"], step.options.get("key_type")
    value = " or ".join(map(type_name, step.options["types"])) if step.kind == "join" else type_name(spec.type)
    return {
        "name": step.name,
        "kind": spec.kind,
        "value": value if spec.kind == "value" else f"{spec.kind} of {value}",
        "key": "" if key is None else type_name(key),
        "ttl_ms": spec.ttl_ms,
        "timers": sorted([*step.options.get("timers", ()), *step.options.get("event_timers", ())]),
    }


def _span(milliseconds: int) -> str:
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds >= size and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def label_of(graph: Graph, port: Port) -> str:
    """What distinguishes one output of a step from its others; empty if there is only one."""
    step = graph.step(port.step)
    if step.ports == 1:
        return ""
    if step.kind == "branch":
        name = getattr(step.options["predicates"][port.out], "__name__", "")
        return name if name.isidentifier() else f"branch {port.out + 1}"
    if step.kind == "split":
        return str(step.options["routes"][port.out])
    if step.kind == "window":
        return "late" if port.out else ""
    if step.kind == "join":
        return ("", "late left", "late right")[port.out]
    return "" if port.out == 0 else str(step.options["outputs"][port.out - 1])
