"""Showing a graph: text, mermaid, dot, JSON, the plan, and the guarantees."""

from __future__ import annotations

import json

import streamflow as sf
from streamflow.cli.diagrams import as_data, dot, mermaid
from streamflow.cli.picture import picture
from tests.unit.cli.asserts import assert_refused


def large(number: int) -> bool:
    return number > 10


def tens(number: int) -> str:
    return str(number // 10)


def forked() -> sf.Flow:
    flow = sf.Flow("forked")
    one = flow.source(sf.MemoryTopic("one", value=int), name="one")
    two = flow.source(sf.MemoryTopic("two", value=int), name="two", on_error=sf.skip)
    both = one.map(abs, name="positive").merge(two, name="both")
    big, rest = both.branch(large, sf.otherwise, name="size")
    big.to(sf.MemoryTopic("big"), name="big")
    counts = rest.key_by(tens).count(name="counts")
    counts.to(sf.MemoryTopic("counts"), name="counts")
    rest.dedup(lambda n: n, within="90d", name="seen").to(sf.MemoryTopic("rest", blind=True), guarantee="at_least_once")
    return flow


def test_the_picture_indents_where_the_flow_forks_and_nowhere_else():
    assert picture(forked().graph(), lines=True) == [
        "one                  source  memory topic one",
        "positive             map",
        "→ both",
        "",
        "two                  source  memory topic two; errors are left out",
        "both                 merge",
        "size                 branch",
        "├─ [large] big       sink    memory topic big",
        "├─ [otherwise] tens  key_by",
        "│  counts            count   state 'counts': int per str",
        "│  counts            sink    memory topic counts",
        "└─ [otherwise] seen  dedup   state 'seen': bool per key, ttl 90d",
        "   rest              sink    memory topic rest",
    ]


def test_the_picture_is_ascii_where_the_terminal_is():
    drawn = picture(forked().graph(), lines=False)
    assert all(line.isascii() for line in drawn)
    assert drawn[2] == "-> both"


def test_mermaid_and_dot_name_every_step_and_edge():
    graph = forked().graph()
    edges = sum(len(step.inputs) for step in graph.steps)
    for text, arrow in ((mermaid(graph), "-->"), (dot(graph), " -> ")):
        assert all(step.name in text for step in graph.steps)
        assert text.count(arrow) == edges


def test_labels_cannot_break_out_of_a_diagram():
    flow = sf.Flow("sly")
    flow.source(sf.MemoryTopic('"]; evil <script>|'), name="one").to(sf.MemoryTopic("x"), name="out")
    assert "<script>" not in mermaid(flow.graph())
    assert '"]; evil' not in mermaid(flow.graph())
    assert '\\"]; evil' in dot(flow.graph())


def test_the_guarantee_of_each_path_is_told_with_its_reason(project):
    result = project("explain", project.words())
    assert result.exit_code == 0
    assert "lines → out  exactly_once" in result.stdout or "lines -> out  exactly_once" in result.stdout
    assert "the file is read again from the byte offset in the checkpoint" in result.stdout


def test_a_broken_path_is_shown_and_refused(project):
    module = project.words()
    with project.path(f"{module}.py").open("a") as file:
        file.write('words.to(sf.MemoryTopic("blind", blind=True), name="blind")\n')
    for form in ("text", "mermaid", "dot", "json"):
        result = project("explain", module, "--format", form)
        assert_refused(result, 3, "lines -> blind gives at_least_once, not exactly_once")
        assert "blind" in result.stdout
    assert "BROKEN" in project("explain", module).stdout


def test_json_is_the_graph_as_data(project):
    data = json.loads(project("explain", project.words(), "--json", "--plan").stdout)
    assert [step["id"] for step in data["steps"]] == [
        "source:lines",
        "step:split",
        "step:by_word",
        "step:counts",
        "step:row",
        "sink:out",
    ]
    assert data["steps"][3]["state"]["value"] == "int"
    assert data["guarantees"][0]["given"] == "exactly_once"
    assert "def make(env):" in data["plan"][0]["loop"]


def test_the_plan_shows_the_loop(project):
    result = project("explain", project.words(), "--plan")
    assert "stage 0: one loop for split, by_word, counts, row" in result.stdout
    assert "def make(env):" in result.stdout


def test_explaining_makes_no_file(project):
    module = project.words()
    before = sorted(path.name for path in project.folder.iterdir() if path.name != "__pycache__")
    assert project("explain", module, "--plan").exit_code == 0
    assert sorted(path.name for path in project.folder.iterdir() if path.name != "__pycache__") == before


def names() -> dict[str, str]:
    return {}


def enriched() -> sf.Flow:
    flow = sf.Flow("enriched")
    one = flow.source(sf.MemoryTopic("one", value=int), time=lambda n: n).rate_limit(100, per="1s")
    two = flow.source(sf.MemoryTopic("two", value=int), time=lambda n: n)
    keyed = one.key_by(tens, name="one-key")
    table = two.key_by(tens, name="two-key").to_table(name="table", ttl="1d")
    keyed.join(table, how="left", name="known").to(sf.MemoryTopic("known", blind=True), guarantee="at_least_once")
    one.join_broadcast(flow.table(names), by=tens, name="named").to(sf.MemoryTopic("named"))
    versions = two.key_by(tens, name="version-key")
    keyed.join_asof(versions, within="1h", allowed_lateness="5s", name="as-of").sample(fraction=0.1)
    one.dedup(tens, within="1h", time="event", name="once")
    keyed.process(state=int, tables=[table, flow.table(names, name="more")])(asking)
    return flow


def asking(ctx: sf.Context[str, int], n: int) -> None: ...


def test_tables_and_what_looks_them_up_are_named_with_what_they_keep():
    drawn = {line.split()[0]: " ".join(line.split()[1:]) for line in picture(enriched().graph(), lines=False) if line}
    found = "\n".join(picture(enriched().graph(), lines=False))
    for words in (
        "no more than 100 records in 1s",
        "left join with table 'table'",
        "inner join with table 'names'",
        "state 'table': int per str, ttl 1d",
        "inner join as of its time, no more than 1h old, allowed lateness 5s, keeps left records until the watermark",
        "remembers by event time for 1h",
        "static table from names",
        "looks up tables 'table', 'more'; state 'asking': int per str",
    ):
        assert words in found, words
    assert drawn["names"] == "table state 'names': str per str"
    assert "sample" in found


def test_diagrams_and_data_show_which_table_a_step_looks_up():
    graph = enriched().graph()
    assert mermaid(graph).count("-.->") == 4
    assert dot(graph).count("[style=dashed]") == 4
    data = {step["id"]: step for step in as_data(graph, [])["steps"]}
    assert (data["step:known"]["reads"], data["step:named"]["reads"]) == (["step:table"], ["step:names"])
    assert data["step:asking"]["reads"] == ["step:table", "step:more"]


def test_the_guarantee_of_a_path_holds_for_the_sources_of_a_table():
    given = {(path.source, path.sink): str(path.given) for path in enriched().guarantees()}
    assert given == {
        ("one", "known"): "at_least_once",
        ("two", "known"): "at_least_once",
        ("one", "named"): "exactly_once",
        ("names", "named"): "exactly_once",
    }
