"""Apache Kafka itself, in a cache: its jars from Maven, an empty log folder, its classes as Java has loaded them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.brokers.kind import BrokerError
from tests.brokers.process import POLL_SECONDS, start_tied
from tests.brokers.server import free_port

KAFKA_VERSION = "4.3.0"
SCALA_VERSION = "2.13"
LOGGING_VERSION = "2.25.4"
DOWNLOAD_SECONDS = 400.0
FORMAT_SECONDS = 60.0
CLUSTER_ID = "AAAAAAAAAAAAAAAAAAAAAQ"
"""Of the folder in the cache; each server's copy of it gets an id of its own."""
CLASSES = "classes.jsa"
"""The archive of loaded classes (class data sharing): a start takes half as long with it. Java passes over an archive
that does not fit its version, or is empty since none could be made."""
LOAD_SECONDS = 60.0

_POM = f"""\
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>streamflow</groupId>
  <artifactId>kafka-for-tests</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_{SCALA_VERSION}</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOGGING_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""
# Kafka says hundreds of lines when it starts; only what is wrong is of use.
_LOGGING = """\
status = error
rootLogger.level = error
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n%throwable{2}
"""


def kafka_home() -> Path:
    """Return the folder with Kafka's jars and the rest, fetched and made first where that was never done.

    Two processes may ask at once: one fetches, and what it makes gets its name when it is complete.

    Raises:
        BrokerError: No Java, no Maven, or nothing to be had from the registry.
    """
    java_binary()
    home = _cache_folder() / f"kafka-{KAFKA_VERSION}"
    if (home / CLASSES).exists():
        return home
    with _locked(home.with_suffix(".lock")):
        if not home.exists():
            made = Path(tempfile.mkdtemp(prefix=".kafka-", dir=home.parent))
            try:
                _fetch(made)
                made.rename(home)
            finally:
                shutil.rmtree(made, ignore_errors=True)
        if not (home / CLASSES).exists():
            _archive_classes(home)
    return home


def java_binary() -> str:
    """Return the path of `java`.

    Raises:
        BrokerError: There is none.
    """
    found = shutil.which("java")
    if found is None:
        raise BrokerError("java is not installed; Kafka needs 17 or newer (apt-get install openjdk-17-jre-headless)")
    return found


def java_command(home: Path, main_class: str, arguments: Sequence[str], options: Sequence[str] = ()) -> list[str]:
    """Return the command that runs a class of Kafka's.

    Args:
        home: What `kafka_home` returned.
        main_class: The class.
        arguments: For the class.
        options: For Java.
    """
    # Servers live for seconds: the quick compiler alone, and one thread for garbage.
    quick = [
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Xshare:auto",
        f"-XX:SharedArchiveFile={home / CLASSES}",
        f"-Dlog4j2.configurationFile={home}/log4j2.properties",
    ]
    return [java_binary(), *quick, *options, "-cp", f"{home}/libs/*", main_class, *arguments]


def format_folder(home: Path, config: Path, scram_users: Sequence[str] = ()) -> None:
    """Make the log folder that a configuration names.

    Args:
        home: What `kafka_home` returned.
        config: A server configuration.
        scram_users: Each as `StorageTool` takes it after `--add-scram`.

    Raises:
        BrokerError: Kafka says no, with its last words.
    """
    arguments = ["format", "-t", CLUSTER_ID, "-c", str(config)]
    for user in scram_users:
        arguments += ["--add-scram", user]
    _run(
        java_command(home, "kafka.tools.StorageTool", arguments, ["-Xmx128m"]),
        "kafka.tools.StorageTool",
        FORMAT_SECONDS,
    )


def _fetch(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise BrokerError("mvn is not installed, and Kafka is not in the cache (apt-get install maven)")
    (folder / "pom.xml").write_text(_POM)
    (folder / "log4j2.properties").write_text(_LOGGING)
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={folder}/libs"]
    _run([maven, "-q", "-B", "-f", str(folder / "pom.xml"), *goal], "mvn", DOWNLOAD_SECONDS)
    empty = folder / "empty"
    config = folder / "format.properties"
    config.write_text(_config(empty, 2, 1))
    format_folder(folder, config)


def _archive_classes(home: Path) -> None:
    """Runs a node until it serves clients, and has Java write down which classes that took."""
    with tempfile.TemporaryDirectory(prefix=".kafka-", dir=home.parent) as name:
        folder = Path(name)
        shutil.copytree(home / "empty", folder / "data")
        config, made, port = folder / "server.properties", folder / CLASSES, free_port()
        config.write_text(_config(folder / "data", port, free_port()))
        command = java_command(home, "kafka.Kafka", [str(config)])
        command = [word for word in command if "SharedArchiveFile" not in word]
        command.insert(1, f"-XX:ArchiveClassesAtExit={made}")
        node = start_tied(command, folder / "kafka.log")
        deadline = time.monotonic() + LOAD_SECONDS
        while node.poll() is None and time.monotonic() < deadline and not _accepts(port):
            time.sleep(POLL_SECONDS)
        node.terminate()
        try:
            node.wait(LOAD_SECONDS)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()
        made.touch()
        made.rename(home / CLASSES)


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _config(data: Path, port: int, controller_port: int) -> str:
    return (
        f"process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller_port}\n"
        f"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}\n"
        f"controller.listener.names=CONTROLLER\nlog.dirs={data}\n"
    )


def _run(command: Sequence[str], name: str, seconds: float) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise BrokerError(f"{name} took longer than {seconds:.0f} s") from error
    if done.returncode != 0:
        said = (done.stdout + done.stderr).strip()[-1000:]
        raise BrokerError(f"{name} ended with {done.returncode}:\n{said}")


def _cache_folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "streamflow"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
