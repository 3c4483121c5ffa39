"""Finding the flow: what can be typed, and what is said when it leads nowhere."""

from __future__ import annotations

from tests.unit.cli.asserts import assert_refused


def test_the_attribute_is_flow_if_it_is_left_out(project):
    module = project.words()
    assert project("explain", module).exit_code == 0


def test_a_flow_is_found_by_its_file(project):
    project.path("in.txt").write_text("")
    project.path("deep").mkdir()
    module = project.write("import streamflow as sf\nfrom cli_neighbour import flow\n", "deep/cli_filed")
    project.write(
        'import streamflow as sf\nflow = sf.Flow("f")\nflow.source(sf.lines("in.txt"))\n', "deep/cli_neighbour"
    )
    assert project("explain", f"{module}.py:flow").exit_code == 0


def test_a_flow_is_found_inside_a_package_and_an_object(project):
    project.path("cli_package").mkdir()
    project.write("", "cli_package/__init__")
    project.write(
        "import streamflow as sf\nclass App:\n    flow = sf.Flow('f')\nApp.flow.source(sf.lines('in.txt'))\n",
        "cli_package/flows",
    )
    assert project("explain", "cli_package.flows:App.flow").exit_code == 0


def test_no_such_module(project):
    assert_refused(project("run", "nowhere:flow"), 2, "no module 'nowhere'", str(project.folder))
    assert_refused(project("run", "cli_x.nowhere:flow"), 2, "no module 'cli_x.nowhere'")


def test_no_such_file(project):
    assert_refused(project("run", "nowhere.py:flow"), 2, "no file nowhere.py")


def test_what_is_no_name_is_refused_before_anything_is_imported(project):
    for target in ("a b:flow", "../x:flow;", "m:flow()", "", ":flow", "os;system:flow", "-m:flow."):
        result = project("explain", "--", target)
        assert_refused(result, 2)


def test_no_such_attribute_names_the_flows_there_are(project):
    module = project.words()
    assert_refused(project("run", f"{module}:flwo"), 2, "no 'flwo'", f"{module}:flow")


def test_an_attribute_that_is_no_flow(project):
    module = project.words()
    assert_refused(project("run", f"{module}:words"), 2, "no Flow but a Stream", f"{module}:flow")
    empty = project.write("flow = 1\n")
    assert_refused(project("run", empty), 2, "no Flow but a int", "make one")


def test_a_module_that_raises_is_told_with_its_place(project):
    module = project.write("x = 1\n\ny = nonsense\n")
    assert_refused(project("run", module), 3, "NameError", f"{module}.py, line 3")


def test_a_module_that_does_not_parse_is_told_with_its_place(project):
    module = project.write("x = 1\ndef broken(:\n")
    assert_refused(project("run", module), 3, "SyntaxError", f"{module}.py, line 2")


def test_a_module_that_misses_another_one(project):
    module = project.write("import not_installed_anywhere\n")
    assert_refused(project("run", module), 3, "not_installed_anywhere", f"{module}.py, line 1")


def test_a_module_that_exits(project):
    module = project.write("raise SystemExit(0)\n")
    assert_refused(project("run", module), 3, "SystemExit")


def test_a_file_that_another_module_hides(project):
    project.write("flow = 1\n", "json")
    assert_refused(project("run", "json.py"), 2, "another module called 'json'", "Rename")


def test_the_whole_traceback_is_shown_on_request(project):
    module = project.write("y = nonsense\n")
    result = project("run", module, "--traceback")
    assert result.exit_code == 3
    assert "Traceback (most recent call last)" in result.stderr
    assert "NameError: name 'nonsense' is not defined" in result.stderr


def test_usage_errors_take_two_lines(project):
    assert_refused(project("run"), 2, "TARGET")
    assert_refused(project("runn"), 2, "runn")
    assert_refused(project("run", "x", "--frobnicate"), 2, "--frobnicate")


def test_without_a_command_the_help_is_shown(project):
    result = project()
    assert result.exit_code == 0
    for command in ("run", "explain", "check", "checkpoints", "state", "reset", "doctor", "new"):
        assert f"\n  {command} " in result.stdout


def test_every_command_has_a_help(project):
    for command in ("run", "explain", "check", "checkpoints", "state", "reset", "doctor", "new"):
        result = project(command, "--help")
        assert result.exit_code == 0
        assert "--traceback" in result.stdout
