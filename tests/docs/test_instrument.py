"""The table of what an instrument is told holds each of its methods, with its parameters."""

from __future__ import annotations

import inspect
import re

import streamflow as sf
from tests.docs.test_docs import ROOT


def test_the_table_holds_every_method() -> None:
    page = (ROOT / "docs" / "embedding.md").read_text()
    table = page[page.index("| `Instrument.` |") :]
    told = dict(re.findall(r"^\| `(\w+)\((.*?)\)` \|", table[: table.index("\n\n")], flags=re.MULTILINE))
    methods = {
        name: ", ".join(list(inspect.signature(method).parameters)[1:])
        for name, method in vars(sf.Instrument).items()
        if inspect.isfunction(method)
    }
    assert told == methods
