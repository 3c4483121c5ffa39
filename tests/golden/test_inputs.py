"""The data of the golden cases: unchanged from its origin, and what the examples read is made from it."""

from hashlib import sha256

import pytest

from tests.golden.inputs import EXAMPLES, EXPECTED, GOLDEN, FixishQuoteCodec, contents, frames, opening_book

FILES = {
    "word_count": "word_count_count_this.txt",
    "alphabet_votes": "alphabet_votes.msg",
    "alphabet_partitioned": "alphabet_partitioned__test.txt",
}


@pytest.mark.parametrize("case", FILES)
def test_the_files_are_the_original_ones(case):
    assert sha256((GOLDEN / FILES[case]).read_bytes()).hexdigest() == EXPECTED[case]["sha256"]


def test_what_the_examples_read_is_made_from_them():
    wanted = contents()
    found = {file.name: file.read_bytes() for file in (EXAMPLES / "data").iterdir() if file.name != "ORIGIN"}
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if found[name] != wanted[name]] == []


def test_the_fixish_codec_gives_back_every_byte():
    codec = FixishQuoteCodec()
    for frame in frames(GOLDEN / "market_spread_350-symbols_initial-nbbo-fixish.msg"):
        assert codec.encode(codec.decode(frame)) == frame
    assert len({quote.symbol for quote in opening_book()}) == 350
