"""The joiner in segments: what a snapshot writes is what changed, and what it holds is the state."""

from __future__ import annotations

import zlib

import msgspec
import pytest
from batches import PlainJoiner, row_of

from monolith.config import JoinConfig
from monolith.errors import CorruptError, VersionError
from monolith.events import WATERMARK_END, ActionEvent, Record, Shown
from monolith.streaming.joiner_segments import JoinerIndex, no_files, read_joiner
from monolith.streaming.joiner_state import encode_joiner_state

CONFIG = JoinConfig(window_s=1.0, early_s=1.0, dedup_s=2.0)


class Kept:
    """The files of a joiner's saves, as snapshots keep them; ``written``: bytes that the last one gave."""

    def __init__(self, joiner: PlainJoiner) -> None:
        self.joiner, self.files, self.index, self.written = joiner, dict[str, bytes](), b"", 0

    def save(self, *, whole: bool = False) -> None:
        saved = self.joiner.save(whole=whole)
        self.written = len(saved.index) + sum(len(data) for data in saved.files.values() if data is not None)
        self.files = {name: self.files[name] if data is None else data for name, data in saved.files.items()}
        self.index = saved.index

    def state(self) -> bytes:
        return encode_joiner_state(read_joiner(self.index, self.files.__getitem__))


@pytest.fixture
def kept() -> Kept:
    return Kept(PlainJoiner(CONFIG))


def show(joiner: PlainJoiner, numbers: range) -> None:
    """A feature event a millisecond, which waits."""
    for i in numbers:
        joiner.add(Record(None, b"", i, i, 0, i), Shown(f"r{i}", "i", i, row_of(i)), 0, i)
    joiner.advance(numbers.stop - 1)


def act(joiner: PlainJoiner, numbers: range, at_ms: int) -> None:
    for i in numbers:
        joiner.add(Record(None, b"", at_ms, at_ms, 0, i), ActionEvent(f"r{i}", "i", "click", at_ms), 1, at_ms)
    joiner.advance(at_ms)


def test_what_is_written_is_what_changed(kept):
    show(kept.joiner, range(900))
    kept.save()
    whole = kept.written
    show(kept.joiner, range(900, 909))
    act(kept.joiner, range(100, 109), 910)
    kept.save()
    assert kept.written < whole / 20
    kept.save()
    assert kept.written < whole / 100  # the index alone
    assert kept.state() == kept.joiner.state()


def test_an_ended_window_writes_its_status_and_not_its_row(kept):
    show(kept.joiner, range(900))
    kept.save()
    kept.joiner.advance(1450)  # half of them are negatives now, whose rows wait for late positives
    kept.save()
    assert list(kept.files) == ["joiner/waiting-000001.rows"]
    assert kept.state() == kept.joiner.state()


def test_a_segment_with_nothing_left_goes_and_one_that_is_mostly_gone_is_written_anew(kept):
    show(kept.joiner, range(100))
    kept.save()
    show(kept.joiner, range(1000, 1100))
    kept.save()
    assert [*kept.files] == ["joiner/waiting-000001.rows", "joiner/waiting-000002.rows"]
    kept.joiner.advance(2060)  # the memory for duplicates of sixty is over
    kept.save()
    assert [*kept.files] == ["joiner/waiting-000002.rows", "joiner/waiting-000003.rows"]
    kept.joiner.advance(2500)
    kept.save()
    assert [*kept.files] == ["joiner/waiting-000002.rows"]
    kept.joiner.advance(9000)
    kept.save()
    assert [*kept.files] == []
    assert kept.state() == kept.joiner.state()


def test_many_small_saves_leave_few_segments_and_write_each_row_few_times(kept):
    total = 0
    for number in range(400):
        show(kept.joiner, range(2 * number, 2 * number + 2))
        kept.save()
        total += kept.written - len(kept.index)
        assert len(kept.files) <= 64
    assert kept.state() == kept.joiner.state()
    kept.save(whole=True)
    assert len(kept.files) == 1
    assert total < 4 * kept.written


def test_whole_gives_every_file_anew_under_names_that_were_not_used(kept):
    show(kept.joiner, range(10))
    kept.save()
    before = set(kept.files)
    show(kept.joiner, range(10, 20))
    kept.files = {}
    kept.save(whole=True)
    assert before.isdisjoint(kept.files)
    assert kept.state() == kept.joiner.state()


def test_a_state_that_was_restored_is_written_whole_once(kept):
    show(kept.joiner, range(10))
    kept.save()
    kept.joiner.restore(kept.state())
    kept.files = {}
    kept.save()
    assert kept.state() == kept.joiner.state()


def test_records_on_their_way_and_parked_actions_have_segments_of_their_own(kept):
    kept.joiner.add(Record(None, b"", 5, 5, 1, 0), ActionEvent("a", "i", "click", 5), 1, 5)
    kept.joiner.advance(6)
    kept.joiner.add(Record(None, b"", 9, 9, 0, 0), Shown("b", "i", 9, row_of(1)), 0, 9)
    kept.save()
    assert sorted(kept.files) == ["joiner/parked-000001.rows", "joiner/pending-000001.rows"]
    state = kept.joiner.state()
    assert kept.state() == state
    again = PlainJoiner(CONFIG)
    again.restore(read_joiner(kept.index, kept.files.__getitem__))
    assert again.advance(WATERMARK_END) == kept.joiner.advance(WATERMARK_END)


@pytest.mark.parametrize("how", ["cut", "longer", "no rows", "another version", "no list"])
def test_a_segment_that_does_not_fit_is_refused(kept, how):
    show(kept.joiner, range(10))
    kept.save()
    (name,) = kept.files
    version, numbers, lengths, texts = msgspec.msgpack.decode(kept.files[name])
    wrong = {
        "cut": (version, numbers, lengths, texts[:-1]),
        "longer": (version, numbers + bytes(8), lengths, texts),
        "no rows": (version, b"", b"", b""),
        "another version": (9, numbers, lengths, texts),
        "no list": 5,
    }
    kept.files[name] = msgspec.msgpack.encode(wrong[how])
    with pytest.raises(VersionError if how == "another version" else CorruptError):
        kept.state()


def test_an_index_that_does_not_fit_is_refused(kept):
    show(kept.joiner, range(10))
    kept.save()
    index = msgspec.msgpack.decode(kept.index, type=JoinerIndex)
    for statuses in (b"no zlib", zlib.compress(b"\1" * 9), zlib.compress(b"\1" * 11)):
        index.groups[1].statuses = statuses
        with pytest.raises(CorruptError, match="index or a segment"):
            read_joiner(msgspec.msgpack.encode(index), kept.files.__getitem__)


def test_an_index_without_its_snapshot_is_refused(kept):
    show(kept.joiner, range(10))
    kept.save()
    with pytest.raises(CorruptError, match=r"names the file joiner/waiting-000001\.rows"):
        read_joiner(kept.index, no_files)
