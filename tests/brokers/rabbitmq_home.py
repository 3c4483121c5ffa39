"""A home for a RabbitMQ server with the plugins that it runs with, and no others.

Erlang looks for a module in one folder of its path after the other, and Debian's package brings 70 plugins. A server
that starts asks for some 850 modules: 53,000 files that are not there, which is half of its start.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

APPLICATIONS: Final = ("rabbit", "rabbitmq_stream")
"""What servers run; each needs others."""
_NEEDS: Final = re.compile(r"\{\s*applications\s*,\s*\[([^\]]*)\]")


def own_script(script: Path, folder: Path) -> Path:
    """Make the home anew, and return the script in it that starts the server.

    Args:
        script: The one that is installed; `sbin` and `plugins` lie beside one another where it really is.
        folder: For the home.

    Returns:
        ``script`` itself where RabbitMQ is laid out in another way.
    """
    installed = script.resolve().parents[1]
    plugins = {path.stem: path for path in installed.glob("plugins/*/ebin/*.app")}
    if not plugins.keys() >= {*APPLICATIONS}:
        return script
    home = folder / "home"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(installed / "sbin", home / "sbin")
    (home / "plugins").mkdir()
    for name in _with_needs(APPLICATIONS, plugins):
        plugin = plugins[name].parents[1]
        (home / "plugins" / plugin.name).symlink_to(plugin)
    return home / "sbin" / script.name


def _with_needs(names: Sequence[str], plugins: Mapping[str, Path]) -> set[str]:
    """The plugins of these names, and all that they need; what comes with Erlang is no plugin."""
    found: set[str] = set()
    asked = [*names]
    while asked:
        name = asked.pop()
        if name in plugins and name not in found:
            found.add(name)
            needs = _NEEDS.search(plugins[name].read_text())
            asked += [] if needs is None else re.findall(r"\w+", needs[1])
    return found
