"""What the progress line, the last page and `inspect` say of records that made no sample."""

from __future__ import annotations

from monolith.commands.progress import left_out
from monolith.streaming.progress import Progress


def progress(letters: dict[str, int]) -> Progress:
    return Progress(step=1, records=99, dead_letters=letters)


def test_counts_of_rejected_records_add_up_whatever_the_number_of_reasons():
    told = left_out(progress({"future": 2, "malformed": 11, "ahead": 1, "feature_type": 1_020, "unknown_feature": 15}))
    assert told == ["rejected 1,049 (feature_type 1,020, unknown_feature 15, malformed 11, other reasons 3)"]


def test_three_reasons_are_all_told_by_name():
    assert left_out(progress({"a": 1, "b": 2, "c": 3})) == ["rejected 6 (c 3, b 2, a 1)"]
