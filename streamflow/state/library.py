"""The SQLite library that Python was built with: its version, and what is wrong with it."""

from __future__ import annotations

import sqlite3
from typing import Final

VERSION_MIN: Final = (3, 34, 0)
"""Views, upserts and JSON functions that the store uses are all there from this version on."""
WAL_RESET_BUG: Final = ((3, 7, 0), (3, 51, 2))
"""First and last version in which two writing connections can corrupt a WAL; the store has only one."""


def library_version() -> str:
    """Version of the library."""
    return sqlite3.sqlite_version


def library_problem() -> str:
    """What makes the library unfit; empty if nothing does."""
    if sqlite3.sqlite_version_info < VERSION_MIN:
        return f"SQLite {sqlite3.sqlite_version} is older than {'.'.join(map(str, VERSION_MIN))}"
    if sqlite3.threadsafety == 0:
        return "SQLite was built without threads"
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("SELECT json_extract('[1]', '$[0]')")
    except sqlite3.Error as error:
        return f"SQLite has no JSON functions: {error}"
    finally:
        connection.close()
    return ""


def library_note() -> str:
    """What is known of this version and does no harm here."""
    first, last = WAL_RESET_BUG
    if first <= sqlite3.sqlite_version_info <= last:
        return "has the WAL-reset bug, which needs two writers; never write to a state file with another program"
    return ""
