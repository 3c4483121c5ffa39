"""A machine without RabbitMQ: what the tests ask Debian for to get it, with programs on the PATH that write it down."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.brokers import RABBITMQ, BrokerError, debian, rabbitmq

APT_GET = """#!/bin/sh
echo "apt-get $DEBIAN_FRONTEND $* | $(cat {folder}/policy | tail -1)" >>{folder}/log
case " $* " in
*" install "*)
    if [ -e {folder}/trouble ]; then cat {folder}/trouble >&2; exit 100; fi
    touch {folder}/rabbitmq-server ;;
*" update "*) rm -f {folder}/trouble ;;
esac
"""
SUDO = """#!/bin/sh
echo "sudo $1" >>{folder}/log
if [ -e {folder}/refuse ]; then echo "sudo: a password is required" >&2; exit 1; fi
shift
exec "$@"
"""
INSTALL = "install --no-install-recommends rabbitmq-server"


class Machine:
    """A folder that stands for a machine: its programs, its lists of packages, and what was run."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        self.script = folder / "rabbitmq-server"
        (folder / "bin").mkdir()
        (folder / "lists").mkdir()
        self.put("apt-get", APT_GET)
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
        monkeypatch.setattr(rabbitmq, "SERVER_SCRIPT", self.script)
        monkeypatch.setattr(debian, "LISTS", folder / "lists")
        monkeypatch.setattr(debian, "POLICY", folder / "policy")
        self.user(0)

    def put(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.write_text(text.replace("{folder}", str(self.folder)))
        path.chmod(0o755)

    def user(self, number: int) -> None:
        self._monkeypatch.setattr(os, "geteuid", lambda: number)

    def has_lists(self) -> None:
        (self.folder / "lists" / "debian_main_Packages.lz4").touch()

    def run(self) -> list[str]:
        """What was run, apt-get without the options that are always the same."""
        log = self.folder / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        same = "--quiet --yes --option DPkg::Lock::Timeout=60 --option Dpkg::Options::=--force-confold "
        assert all(same in line for line in lines if line.startswith("apt-get"))
        return [line.replace(same, "") for line in lines]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_lists_that_are_missing_are_fetched_first(machine: Machine) -> None:
    assert rabbitmq.server_script() == machine.script
    quiet = "| exit 101"  # what was said to who asked whether a service may start
    assert machine.run() == [f"apt-get noninteractive update {quiet}", f"apt-get noninteractive {INSTALL} {quiet}"]
    assert not debian.POLICY.exists()
    RABBITMQ.install()
    assert len(machine.run()) == 2


def test_a_policy_that_is_there_stays(machine: Machine) -> None:
    machine.has_lists()
    debian.POLICY.write_text("#!/bin/sh\nexit 104\n")
    rabbitmq.server_script()
    assert machine.run() == [f"apt-get noninteractive {INSTALL} | exit 104"]
    assert debian.POLICY.read_text() == "#!/bin/sh\nexit 104\n"


def test_old_lists_are_fetched_anew(machine: Machine) -> None:
    machine.has_lists()
    (machine.folder / "trouble").write_text("E: Failed to fetch rabbitmq-server_3.10.8: 404 Not Found\n")
    rabbitmq.server_script()
    assert [line.split()[2] for line in machine.run()] == ["install", "update", "install"]


def test_a_user_with_sudo(machine: Machine) -> None:
    machine.user(1000)
    machine.has_lists()
    machine.put("sudo", SUDO)
    rabbitmq.server_script()
    assert machine.run() == ["sudo -n", f"apt-get noninteractive {INSTALL} | exit 101"]


def test_a_user_whom_sudo_asks_for_a_password(machine: Machine) -> None:
    machine.user(1000)
    machine.put("sudo", SUDO)
    (machine.folder / "refuse").touch()
    with pytest.raises(BrokerError, match="as root: apt-get install") as caught:
        rabbitmq.server_script()
    assert "a password is required" in str(caught.value)
    assert set(machine.run()) == {"sudo -n"}


def test_no_such_package(machine: Machine) -> None:
    machine.has_lists()
    machine.put("apt-get", "#!/bin/sh\necho 'E: Unable to locate package rabbitmq-server' >&2\nexit 100\n")
    with pytest.raises(BrokerError, match="Unable to locate package") as caught:
        rabbitmq.server_script()
    assert "as root: apt-get install --no-install-recommends rabbitmq-server" in str(caught.value)
    assert not debian.POLICY.exists()


def test_a_package_without_the_script(machine: Machine) -> None:
    machine.has_lists()
    machine.put("apt-get", "#!/bin/sh\nexit 0\n")
    with pytest.raises(BrokerError, match=f"the package brought no {machine.script}"):
        rabbitmq.server_script()


@pytest.mark.parametrize("gone", ["apt-get", "sudo"])
def test_a_machine_of_another_kind(machine: Machine, monkeypatch: pytest.MonkeyPatch, gone: str) -> None:
    monkeypatch.setenv("PATH", str(machine.folder / "bin"))
    machine.user(1000)
    machine.put("sudo", SUDO)
    (machine.folder / "bin" / gone).unlink()
    with pytest.raises(BrokerError, match=f"there is no {gone} to do it by itself"):
        rabbitmq.server_script()
    assert machine.run() == []


def test_an_archive_that_does_not_answer(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.has_lists()
    machine.put("apt-get", "#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(debian, "INSTALL_SECONDS", 1)
    monkeypatch.setattr(debian, "UPDATE_SECONDS", 1)
    begun = time.monotonic()
    with pytest.raises(BrokerError, match=r"exit code 124"):
        rabbitmq.server_script()
    assert time.monotonic() - begun < 20
    assert not debian.POLICY.exists()
