"""Target: finds the flow that ``module:attribute`` or ``path/to/file.py:attribute`` names."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from streamflow.cli.failing import UsageError
from streamflow.errors import DefinitionError, StreamflowError
from streamflow.flow import Flow

DEFAULT_ATTRIBUTE: Final = "flow"
_DOTTED: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def load(target: str) -> Flow:
    """Imports a module and returns its flow.

    Args:
        target: ``module``, ``module:attribute`` or ``path/to/file.py:attribute``; the attribute may have dots and
            is ``flow`` if it is left out. The working directory is searched first.

    Raises:
        UsageError: There is no such module or attribute, or it is no flow.
        DefinitionError: The module raises when it is imported.
    """
    place, colon, attribute = target.rpartition(":")
    if not colon:
        place, attribute = target, DEFAULT_ATTRIBUTE
    if not _DOTTED.fullmatch(attribute):
        raise UsageError(
            f"{target!r} does not name a flow: {attribute!r} is no attribute", hint="Write module:attribute."
        )
    module = _load_file(Path(place)) if place.endswith(".py") or os.sep in place else _load_module(place)
    return _flow_in(module, place, attribute)


def load_function(target: str) -> Callable[..., Any]:
    """Imports a module and returns the function that ``module:function`` names.

    Raises:
        UsageError: There is no such module or function.
        DefinitionError: The module raises when it is imported.
    """
    place, _, attribute = target.rpartition(":")
    module = _load_file(Path(place)) if place.endswith(".py") or os.sep in place else _load_module(place)
    found = getattr(module, attribute, None)
    if not callable(found):
        raise UsageError(f"{place} has no function {attribute!r}", hint="Write module:function.")
    return found  # type: ignore[no-any-return]


def _load_module(name: str) -> ModuleType:
    if not _DOTTED.fullmatch(name):
        raise UsageError(
            f"{name!r} is no module name", hint="Write module:attribute, such as orders:flow, or path/to/file.py:flow."
        )
    _search_first(os.getcwd())
    return _import(name)


def _load_file(path: Path) -> ModuleType:
    try:
        there = path.is_file()
    except OSError:  # a name that is too long, for one
        there = False
    if not there:
        raise UsageError(f"there is no file {path}", hint=f"Check the path; the working directory is {Path.cwd()}.")
    name = path.stem
    if not name.isidentifier():
        raise UsageError(f"{path} cannot be imported: {name!r} is no module name", hint="Rename the file.")
    _search_first(os.getcwd())
    _search_first(str(path.parent.resolve()))
    module = _import(name)
    found = getattr(module, "__file__", None)
    if found is None or not os.path.samefile(found, path):
        raise UsageError(
            f"{path} cannot be imported: another module called {name!r} is loaded already, {found or 'built in'}",
            hint="Rename the file.",
        )
    return module


def _search_first(folder: str) -> None:
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except StreamflowError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise UsageError(
                f"there is no module {name!r}",
                hint=f"Check the name; it is looked for in {os.getcwd()} and in the installed packages.",
            ) from None
        raise DefinitionError(
            f"module {name!r} cannot be imported: {error}", hint="Install what it imports, or correct the import."
        ) from error
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        said = f": {error}" if str(error) else ""
        raise DefinitionError(
            f"module {name!r} cannot be imported: {type(error).__name__}{said}",
            hint=f"Correct it; `python -c 'import {name}'` shows the same.",
        ) from error


def _flow_in(module: ModuleType, place: str, attribute: str) -> Flow:
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{place} has no {attribute!r}", hint=_flows_there(module, place))
        found = getattr(found, part)
    if not isinstance(found, Flow):
        kind = type(found).__name__
        raise UsageError(f"{place}:{attribute} is no Flow but a {kind}", hint=_flows_there(module, place))
    return found


def _flows_there(module: ModuleType, place: str) -> str:
    names = sorted(name for name, value in vars(module).items() if isinstance(value, Flow))
    if not names:
        return 'It holds no flow; make one: flow = sf.Flow("name").'
    return "It holds " + ", ".join(f"{place}:{name}" for name in names) + "."
