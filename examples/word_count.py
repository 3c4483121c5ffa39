"""Word count: how often each word of a text has been seen, updated with every word.

Shows: a file as source and sink, `flat_map`, `key_by`, `count`, and typed JSON out of a dataclass.

    streamflow run examples.word_count:flow
"""

import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import streamflow as sf

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Count:
    word: str
    count: int


flow = sf.Flow("word-count", state=HERE / "out/word_count.db")
text = flow.source(sf.lines(HERE / "data/bill_of_rights.txt"))


@text.flat_map
def words(line: str) -> Iterator[str]:
    for word in line.lower().split():
        if bare := word.strip(string.punctuation):
            yield bare


# count() keeps one number per key and gives (key, count) for every record: a stream of updates, not one final table.
counts = words.key_by(lambda word: word).count(name="counts")
counts.map(lambda pair: Count(*pair), name="update").to(sf.jsonl(HERE / "out/word_count.jsonl", value=Count))
