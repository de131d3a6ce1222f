"""A history names what each published sequence was made from."""

from __future__ import annotations

import msgspec
import pytest

from monolith.config import InputConfig, JobConfig, TableConfig
from monolith.config.deciding import settings_of
from monolith.errors import CorruptError, VersionError
from monolith.training import history as history_module
from monolith.training.history import History

JOB = JobConfig(name="t", input=InputConfig(samples="memory://samples"), tables=[TableConfig(name="user", dim=5)])


def made(steps: list[bytes], job: JobConfig = JOB) -> History:
    """A history of which every step publishes."""
    history = History(settings_of(job))
    for sequence, step in enumerate(steps, start=1):
        history.extend(step)
        history.cut(sequence)
    return history


def test_equal_steps_have_equal_digests_and_one_that_differs_changes_all_after_it():
    left, right = made([b"a", b"b", b"c"]), made([b"a", b"x", b"c"])
    assert left.digest(3) == made([b"a", b"b", b"c"]).digest(3)
    assert left.digest(1) == right.digest(1)
    assert left.digest(2) != right.digest(2)
    assert left.digest(3) != right.digest(3)


def test_steps_cut_at_other_places_are_another_history():
    twice = History(settings_of(JOB))
    twice.extend(b"a")
    twice.extend(b"b")
    twice.cut(1)
    assert twice.digest(1) != made([b"ab"]).digest(1)


@pytest.mark.parametrize(
    ("change", "same"),
    [({"seed": 1}, False), ({"state": "elsewhere"}, True), ({"store": "lmdb://elsewhere"}, True)],
)
def test_settings_count_where_they_decide_bits(change, same):
    other = made([b"a"], msgspec.structs.replace(JOB, **change))
    assert (other.digest(1) == made([b"a"]).digest(1)) is same


def test_a_sequence_that_is_not_made_or_was_forgotten_has_no_digest(monkeypatch):
    monkeypatch.setattr(history_module, "KEPT", 2)
    history = made([b"a", b"b", b"c"])
    assert [history.digest(sequence) is None for sequence in range(6)] == [True, True, False, False, True, True]


def test_a_restored_history_goes_on_as_it_would_have():
    first = made([b"a", b"b"])
    second = History(settings_of(JOB))
    second.restore(first.state(), "history.bin")
    assert second.state() == first.state()
    for history in (first, second):
        history.extend(b"c")
        history.cut(3)
    assert second.digest(3) == first.digest(3)
    assert second.digest(1) == first.digest(1)


def test_reach_counts_what_the_journal_will_make_again():
    history = made([b"a", b"b"])
    history.expect(2)
    assert history.reach == 4
    for sequence in (3, 4, 5):
        history.extend(b"x")
        history.cut(sequence)
    assert history.reach == 5


def test_a_chain_that_begins_late_proves_nothing_before():
    history = History(settings_of(JOB))
    history.begin_after(7, b"a snapshot without a history")
    assert history.digest(7) is None
    history.extend(b"a")
    history.cut(8)
    assert history.digest(8) != made([b"a"]).digest(1)


def test_bytes_that_are_no_history_are_refused_by_name():
    with pytest.raises(CorruptError, match=r"history\.bin cannot be read"):
        History(settings_of(JOB)).restore(b"\xc1", "history.bin")
    with pytest.raises(VersionError, match="version 9, this build reads 1"):
        History(settings_of(JOB)).restore(msgspec.msgpack.encode([9, b"", 0, b""]), "history.bin")
