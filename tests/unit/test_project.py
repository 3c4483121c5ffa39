"""The shape of the project: what the wheel holds, who owns which folder, and that the pieces agree."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONNECTORS = sorted(path.name for path in (ROOT / "connectors").iterdir() if path.name.startswith("streamflow_"))
SOURCE_LINES_MAX = 500


@pytest.fixture(scope="module")
def wheel_names(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_wheel_holds_the_import_packages_and_nothing_else(wheel_names):
    top_level = {name.partition("/")[0] for name in wheel_names}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"streamflow", *CONNECTORS}


def test_wheel_is_typed_and_carries_the_licence(wheel_names):
    for package in ("streamflow", *CONNECTORS):
        assert f"{package}/py.typed" in wheel_names
    assert any(name.endswith("licenses/LICENSE") for name in wheel_names)


def test_wheel_holds_every_file_that_is_not_python(wheel_names):
    for folder, packages in ((ROOT, ["streamflow"]), (ROOT / "connectors", CONNECTORS)):
        for package in packages:
            for path in (folder / package).rglob("*"):
                if path.is_file() and "__pycache__" not in path.parts:
                    assert path.relative_to(folder).as_posix() in wheel_names


def test_connectors_is_a_plain_folder():
    assert not (ROOT / "connectors" / "__init__.py").exists()


@pytest.mark.parametrize("package", CONNECTORS)
def test_a_connector_is_declared_everywhere(package):
    extra = package.removeprefix("streamflow_")
    extras = PROJECT["project"]["optional-dependencies"]
    assert extra in extras
    assert re.search(rf"\[[^]]*\b{extra}\b", extras["all"][0])
    assert PROJECT["project"]["entry-points"]["streamflow.connectors"][extra] == package
    assert f"connectors/{package}" in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    layers = configparser.ConfigParser()
    layers.read(ROOT / ".importlinter")
    assert package in layers["importlinter"]["root_packages"].split()
    assert package in layers["importlinter:contract:layers"]["layers"]
    assert package in layers["importlinter:contract:connectors-use-public-contracts"]["source_modules"].split()


def test_every_part_of_the_core_has_a_layer():
    layers = (ROOT / ".importlinter").read_text()
    for path in (ROOT / "streamflow").iterdir():
        is_module = path.suffix == ".py" or (path.is_dir() and any(path.rglob("*.py")))
        if is_module and not path.name.startswith("__"):
            assert f"(streamflow.{path.stem})" in layers, f"{path.name} has no layer in .importlinter"


def test_published_requirements_have_lower_bounds_only():
    requirements = [*PROJECT["project"]["dependencies"]]
    for extra in PROJECT["project"]["optional-dependencies"].values():
        requirements += [one for one in extra if not one.startswith("streamflow-asyncio[")]
    for requirement in requirements:
        assert re.fullmatch(r"[\w-]+>=[\d.]+", requirement.partition(";")[0].strip()), requirement


def test_every_file_says_in_its_first_line_what_it_holds():
    for path in sorted(ROOT.glob("streamflow/**/*.py")) + sorted(ROOT.glob("connectors/**/*.py")):
        text = path.read_text()
        assert not text or text.startswith(('"""', 'r"""')), path


def test_no_file_outgrows_the_reader():
    too_long = {
        str(path.relative_to(ROOT)): lines
        for folder in ("streamflow", "connectors", "tests", "examples", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > SOURCE_LINES_MAX
    }
    assert not too_long
