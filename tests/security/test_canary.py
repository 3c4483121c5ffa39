"""Credentials (S7): a canary password stands wherever settings take one, and then nowhere else, whatever happens."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import streamflow as sf
from streamflow.connect.secret import Secret, redact
from streamflow.errors import SettingsError, StreamflowError
from streamflow_nats import Creds, Nats, NKey, Token, UserPassword
from tests.brokers import NatsServer
from tests.brokers.server import free_port
from tests.connectors.nats.keys import make_seed, public
from tests.unit.cli.conftest import Project

CANARY = "c4n4ry-s3cret"
SEED = make_seed("U")
"""The canary of logins by key."""

MODULE = """
import streamflow as sf
from streamflow.connect.secret import Secret
from streamflow_nats import Creds, Nats, NKey, Token, UserPassword

nats = {nats}
flow = sf.Flow("far", state="far.db", settings=sf.Settings(stop_timeout="100ms"))
flow.source(nats.stream("S", value=str), name="orders").key_by(str, name="all").count(name="counts").to(
    sf.jsonl("out.jsonl"), name="out"
)
"""

PLACES = {
    "url": f'Nats("nats://ann:{CANARY}@HOST", timeout_seconds=2)',
    "token url": f'Nats("nats://{CANARY}@HOST", timeout_seconds=2)',
    "password": f'Nats("nats://HOST", auth=UserPassword("ann", "{CANARY}"), timeout_seconds=2)',
    "token": f'Nats("nats://HOST", auth=Token("{CANARY}"), timeout_seconds=2)',
    "secret": f'Nats("nats://HOST", auth=UserPassword("ann", Secret("{CANARY}")), timeout_seconds=2)',
    "nkey": 'Nats("nats://HOST", auth=NKey("user.nk"), timeout_seconds=2)',
    "creds": 'Nats("nats://HOST", auth=Creds("user.creds"), timeout_seconds=2)',
}
SECRETS_IN = ("user.nk", "user.creds")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("run", "--traceback"),
    ("run", "--json"),
    ("check",),
    ("check", "--json"),
    ("explain",),
    ("explain", "--format", "json"),
    ("state",),
    ("checkpoints",),
    ("reset", "--yes"),
)


@pytest.fixture
def all_logs(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.DEBUG)
    yield caplog
    assert_silent(caplog.text, "the log")


def assert_silent(text: str | bytes, where: str) -> None:
    """Nothing of either canary, nor half of one, stands in a text."""
    found = text.encode("utf-8", "replace") if isinstance(text, str) else text
    for canary in (CANARY, SEED, SEED[:20], "c4n4ry", "s3cret"):
        assert canary.encode() not in found, f"{canary} stands in {where}: {found[:2000]!r}"


def assert_folder_silent(folder: Path, but: set[str]) -> None:
    looked_at = 0
    for file in folder.rglob("*"):
        if file.is_file() and file.name not in but and "__pycache__" not in file.parts:
            assert_silent(file.read_bytes(), str(file))
            looked_at += 1
    assert looked_at


def write(project: Project, place: str, host: str) -> str:
    project.path("user.nk").write_text(SEED + "\n")
    project.path("user.creds").write_text(
        f"-----BEGIN NATS USER JWT-----\neyJ0{CANARY}\n------END NATS USER JWT------\n"
        f"-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n"
    )
    return project.write(MODULE.format(nats=PLACES[place].replace("HOST", host)))


@pytest.mark.parametrize("place", PLACES)
def test_a_broker_that_is_down(project: Project, place: str, all_logs: pytest.LogCaptureFixture) -> None:
    module = write(project, place, f"127.0.0.1:{free_port()}")
    failed = 0
    for command in COMMANDS:
        result = project(command[0], module, *command[1:])
        assert_silent(result.output + result.stderr, " ".join(command))
        failed += result.exit_code != 0
    assert failed >= 4
    project.path("none").touch()
    assert_folder_silent(project.folder, {f"{module}.py", *SECRETS_IN})


@pytest.mark.parametrize("place", PLACES)
def test_a_broker_that_refuses(project: Project, place: str, all_logs: pytest.LogCaptureFixture) -> None:
    with NatsServer(extra_config='authorization { user: somebody, password: "else" }') as server:
        module = write(project, place, server.url.removeprefix("nats://"))
        for command in COMMANDS[:3]:
            result = project(command[0], module, *command[1:])
            assert result.exit_code == 4
            assert "refuses the credentials" in result.output + result.stderr or place == "creds"
            assert_silent(result.output + result.stderr, " ".join(command))


def test_a_broker_that_stays_down_while_the_flow_waits(project: Project) -> None:
    module = write(project, "url", f"127.0.0.1:{free_port()}")
    process = project.start("run", module, "--wait")
    assert process.stderr is not None
    told = process.stderr.readline()
    assert "source 'orders' (nats stream S) failed: no NATS server answers at nats://127.0.0.1" in told
    process.terminate()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert_silent(out + told + err, "what run --wait says")
    assert_folder_silent(project.folder, {f"{module}.py", *SECRETS_IN})


LOGINS = {
    "url": f'authorization {{ user: ann, password: "{CANARY}" }}',
    "token": f'authorization {{ token: "{CANARY}" }}',
    "secret": f'authorization {{ user: ann, password: "{CANARY}" }}',
    "nkey": f"authorization {{ users: [ {{ nkey: {public(SEED)} }} ] }}",
}


@pytest.mark.parametrize(
    "place", ["url", "nkey", *(pytest.param(place, marks=pytest.mark.long) for place in ("token", "secret"))]
)
def test_a_flow_that_runs(project: Project, place: str, all_logs: pytest.LogCaptureFixture) -> None:
    """The canary opens the door, so it was there; then nothing that the flow leaves behind tells it."""
    with NatsServer(extra_config=LOGINS[place]) as server:
        host = server.url.removeprefix("nats://")
        module = write(project, place, host)
        asyncio.run(make_stream(eval(PLACES[place].replace("HOST", host))))
        process = project.start("run", module, "--json")
        deadline = time.monotonic() + 30
        while not project.path("out.jsonl").exists() or len(project.lines("out.jsonl")) < 3:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        results = [project(*command) for command in (("check", module, "--json"), ("state", module))]
        process.terminate()
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0
        results += [project(*command) for command in (("state", module), ("checkpoints", module), ("explain", module))]
        assert [result.exit_code for result in results] == [0] * 5
        assert_silent(out + err + "".join(result.output for result in results), "what the commands say")
        assert project.path("far.db").stat().st_size > 4096
        assert_folder_silent(project.folder, {f"{module}.py", *SECRETS_IN})


async def make_stream(nats: Nats) -> None:
    from streamflow_nats.link import Link

    link = await Link.connect(nats, "test")
    await link.request("$JS.API.STREAM.CREATE.S", b'{"name":"S","subjects":["s"],"storage":"memory"}')
    for word in (b"a", b"b", b"a"):
        await link.request("s", word)
    await link.close()


def test_doctor_says_nothing_of_it(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", f"nats://ann:{CANARY}@host")
    assert_silent(project("doctor", "--json").output + project("doctor").output, "doctor")


MISTAKES: dict[str, Callable[[], object]] = {
    "a slash in the password": lambda: Nats("nats://bob:12/c4n4ry@host"),
    "a hash in the password": lambda: Nats("nats://bob:12#c4n4ry@host"),
    "a question mark in the password": lambda: Nats("nats://bob:12?c4n4ry@host"),
    "a bad port": lambda: Nats("nats://bob:c4n4ry@host:port"),
    "a bad scheme": lambda: Nats("amqp://bob:c4n4ry@host"),
    "no host": lambda: Nats("nats://bob:c4n4ry@"),
    "two logins": lambda: Nats("nats://bob:c4n4ry@host", auth=Token("c4n4ry")),
    "a bracket": lambda: Nats("nats://bob:c4n4ry@[host"),
    "a comma in the password": lambda: Nats("nats://bob:c4,n4ry@host"),
    "the seed, not its file": lambda: NKey(SEED),
    "the credentials, not their file": lambda: Creds(f"-----BEGIN NATS USER JWT-----\n{CANARY}"),
    "the token, not its file": lambda: Creds(f"eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5{CANARY}"),
    "a stream's name": lambda: Nats(f"nats://ann:{CANARY}@h").stream("no good"),
    "a subject": lambda: Nats(f"nats://ann:{CANARY}@h").stream("S", subject=".."),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_settings_is_told_without_repeating_them(mistake: str) -> None:
    with pytest.raises(SettingsError) as caught:
        MISTAKES[mistake]()
    error = caught.value
    assert error.hint
    without_source = "".join(line for line in traceback.format_exception(error) if not line.startswith("  File"))
    assert_silent(str(error) + repr(error) + error.hint + without_source, mistake)


@pytest.mark.parametrize("mistake", ['NKey("{seed}")', 'Nats("nats://bob:{canary}@host:port")'])
def test_a_traceback_of_the_module_that_holds_it_is_redacted(project: Project, mistake: str) -> None:
    text = mistake.format(seed=SEED, canary=CANARY)
    module = project.write(f"from streamflow_nats import Nats, NKey\nauth = {text}\n")
    result = project("run", module, "--traceback")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr
    assert "***" in result.stderr
    assert_silent(result.output + result.stderr, "the traceback")


async def test_what_escapes_from_an_embedded_flow(tmp_path: Path, all_logs: pytest.LogCaptureFixture) -> None:
    with NatsServer(extra_config='authorization { user: somebody, password: "else" }') as server:
        host = server.url.removeprefix("nats://")
        for nats in (Nats(f"nats://ann:{CANARY}@{host}"), Nats(server.url, auth=Token(CANARY))):
            flow = sf.Flow("embedded", state=tmp_path / "embedded.db")
            flow.source(nats.stream("S", value=str)).to(sf.MemoryTopic("out"))
            with pytest.raises(StreamflowError) as caught:
                await flow.run()
            assert "refuses the credentials" in str(caught.value)
            assert_silent("".join(traceback.format_exception(caught.value)), "the traceback")
            assert_silent(repr(nats) + repr(flow) + repr(nats.stream("S")) + str(nats), "a repr")
    assert_folder_silent(tmp_path, set())


def test_settings_and_secrets_never_show() -> None:
    import copy
    import dataclasses

    nats = Nats("nats://host", auth=UserPassword("ann", CANARY))
    shown = [repr(nats), str(nats), f"{nats.auth}", repr(copy.deepcopy(nats)), repr(dataclasses.asdict(nats))]
    shown += [f"{Secret(CANARY)!s:>40} {Secret(CANARY)}", "%s %r" % (Secret(CANARY), Secret(CANARY))]  # noqa: UP031
    shown.append(repr(vars(nats) if hasattr(nats, "__dict__") else nats))
    assert_silent("".join(shown), "a repr")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no answer from amqp://bob:pw@host/vhost", "no answer from amqp://***@host/vhost"),
        ("nats://bob:p@ss@host", "nats://***@host"),
        ("nats://a:b@h1,nats://c:d@h2", "nats://***@h1,nats://***@h2"),
        ("kafka+ssl://token@host:1", "kafka+ssl://***@host:1"),
        ("http://host/path?user=x&password=hunter2&z=1", "http://host/path?user=x&password=***&z=1"),
        ("http://host/?token=abc", "http://host/?token=***"),
        ("mail ann@example.org about nats://host", "mail ann@example.org about nats://host"),
        (f"seed {'SU' + 'A' * 56} ends", "seed *** ends"),
        ("jwt eyJhbGciOiJIUzI1NiIsInR5.eyJzdWIiOiIx.sig", "jwt ***"),
    ],
)
def test_redaction(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_a_third_partys_error_is_redacted_in_every_output(project: Project) -> None:
    module = project.write(
        f"""
import logging
import streamflow as sf
from streamflow.errors import Unavailable

class Topic(sf.MemoryTopic):
    def source(self):
        logging.getLogger("streamflow").warning("tried amqp://bob:{CANARY}@host")
        raise OSError("cannot reach amqp://bob:{CANARY}@host")

flow = sf.Flow("third", state="third.db")
flow.source(Topic("in", value=str)).to(sf.jsonl("out.jsonl"))
"""
    )
    for command in (["run"], ["run", "--wait", "--traceback"], ["check"], ["check", "--json"], ["run", "--json"]):
        result = project(command[0], module, *command[1:])
        assert result.exit_code != 0
        assert "amqp://***@host" in result.output + result.stderr
        assert_silent(result.output + result.stderr, " ".join(command))


def test_the_canary_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "leak.db").write_bytes(b"x" * 5000 + CANARY.encode() + b"y" * 5000)
    with pytest.raises(AssertionError, match="stands in"):
        assert_folder_silent(tmp_path, set())
    with pytest.raises(AssertionError, match="stands in"):
        assert_silent(f"password {SEED}", "a text")
