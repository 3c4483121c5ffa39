"""Where a policy of attempts has a meaning, and what is said where it has none."""

from __future__ import annotations

from typing import Any

import pytest

import streamflow as sf
from streamflow.errors import DefinitionError
from tests.unit.operators.test_async_map import flow_in, topics


class Flaky:
    """Raises at its first call for each record."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, v: int) -> bool:
        self.calls.append(v)
        if self.calls.count(v) == 1:
            raise ConnectionError("not yet")
        return v > 2


def split(stream: Any, verb: str, function: Any, policy: Any) -> tuple[Any, Any]:
    if verb == "branch":
        high, low = stream.branch(function, sf.otherwise, name="s", on_error=policy)
    else:
        routes = stream.split(function, [True, False], name="s", on_error=policy)
        high, low = routes[True], routes[False]
    return high, low


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("verb", ["branch", "split"])
async def test_a_predicate_or_route_is_asked_again(tmp_path, verb, plain):
    source, sink = topics()
    flow, flaky = flow_in(tmp_path, plain=plain), Flaky()
    high, low = split(flow.source(source), verb, flaky, sf.retry(1))
    high.to(sink, name="high")
    low.map(lambda v: -v, name="minus").to(sink, name="low")
    source.send_all([1, 2, 3, 4])
    source.close_input()
    await flow.run()
    assert sorted(sink.values) == [-2, -1, 3, 4]
    assert flaky.calls == [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("verb", ["branch", "split"])
async def test_then_the_last_policy_decides(tmp_path, verb):
    source, sink = topics()
    flow = flow_in(tmp_path)
    calls = []

    def poison(v: int) -> bool:
        calls.append(v)
        if v == 2:
            raise ValueError("never")
        return v > 2

    high, low = split(flow.source(source), verb, poison, sf.retry(2).then(sf.dead_letter))
    high.merge(low).to(sink)
    source.send_all([1, 2, 3])
    source.close_input()
    await flow.run()
    assert (sink.values, calls) == ([1, 3], [1, 2, 2, 2, 3])


def wait_for(verb: str, stream: Any) -> Any:
    return split(stream, verb, lambda v: True, sf.retry(2, backoff="1s"))


@pytest.mark.parametrize("verb", ["branch", "split"])
def test_no_plain_function_waits(verb):
    with pytest.raises(DefinitionError, match="cannot wait between attempts"):
        wait_for(verb, sf.Flow("f").source(sf.MemoryTopic("in", value=int)))


PLACES: dict[str, Any] = {
    "source": lambda flow, s, p: flow.source(sf.MemoryTopic("more", value=int), on_error=p),
    "sink": lambda flow, s, p: s.to(sf.MemoryTopic("out"), on_error=p),
    "dedup": lambda flow, s, p: s.dedup(abs, name="d", on_error=p),
    "table": lambda flow, s, p: s.key_by(abs).to_table(name="t", of=int, on_error=p),
    "window": lambda flow, s, p: s.key_by(abs).window(sf.tumbling("1m")).count(name="w", on_error=p),
}


@pytest.mark.parametrize("place", PLACES)
def test_where_it_would_only_raise_again_it_is_refused_in_words(place):
    flow = sf.Flow("f")
    stream = flow.source(sf.MemoryTopic("in", value=int), time=lambda v: v)
    with pytest.raises(DefinitionError) as refused:
        PLACES[place](flow, stream, sf.retry(3).then(sf.skip))
    assert refused.value.message.startswith("sf.retry(3).then(sf.skip) is no error policy here: decoders, encoders")
    assert refused.value.hint == "Write on_error=sf.skip; retry is for steps that call a function of yours."
    with pytest.raises(DefinitionError, match=r"^sf.retry\(3\) is no error policy"):
        PLACES[place](flow, stream, sf.retry(3))
