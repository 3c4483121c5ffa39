"""Alphabet votes: binary records in, a running total per letter out.

Shows: decoding a record layout of your own, and `aggregate`, which folds each key's records into an accumulator.

    streamflow run examples.alphabet_votes:flow
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import streamflow as sf

HERE = Path(__file__).parent
LAYOUT = struct.Struct(">IcI")  # big-endian: length of what follows (always 5), letter, votes


@dataclass(frozen=True)
class Votes:
    letter: str
    votes: int


flow = sf.Flow("alphabet-votes", state=HERE / "out/alphabet_votes.db")
records = flow.source(sf.lines(HERE / "data/votes.hex"))  # one binary record per line, as hex digits


@records.map
def ballots(line: str) -> Votes:
    # Whatever raises here stops the flow and names the line; with on_error=sf.skip it is counted and left out.
    length, letter, votes = LAYOUT.unpack(bytes.fromhex(line))
    if length != LAYOUT.size - 4:
        raise ValueError(f"a vote has {LAYOUT.size - 4} bytes, this one says {length}")
    return Votes(letter.decode(), votes)


def add(total: int, ballot: Votes) -> int:
    return total + ballot.votes


totals = ballots.key_by(lambda ballot: ballot.letter).aggregate(int, add, name="totals")
totals.map(lambda pair: Votes(*pair), name="update").to(sf.jsonl(HERE / "out/alphabet_votes.jsonl", value=Votes))
