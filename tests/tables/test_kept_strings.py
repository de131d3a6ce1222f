"""Strings beside the tables: kept while their ids have rows, bounded, and a function of the samples alone."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from monolith.card import CardFeature, Read
from monolith.config.features import FeatureConfig
from monolith.config.load import load_job
from monolith.errors import ConfigError, CorruptError, VersionError
from monolith.tables import Table, TableConfig, expiry, kept_strings
from monolith.tables.hashing import hash_string, salted
from monolith.tables.kept_strings import KeptStrings
from monolith.tables.kept_texts import packed_texts, unpacked_texts
from monolith.tables.schema import FeatureSchema

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
MOMENT = 1_700_000_000_000


def feature(name="tag", *, keep=True, bag=False, is_salted=False, **settings):
    read = Read(table="tag", output=name, pooling="sum", salted=is_salted)
    config = FeatureConfig(name=name, type="string", keep_strings=keep, bag=bag, **settings)
    return CardFeature(config=config, seed=name, reads=[read])


def id_of(text, name="tag"):
    return hash_string(name, text)


def pairs(*texts):
    return {"tag": {id_of(text): text for text in texts}}


@pytest.fixture
def tables():
    return {"tag": Table(TableConfig(name="tag", dim=2, expiry=expiry.Idle(ttl_s=60)))}


def observe(tables, *texts, second=0):
    tables["tag"].observe(np.array([id_of(text) for text in texts], np.int64), event_time_ms=MOMENT + 1000 * second)


# --- in packed rows ---------------------------------------------------------------------------------------------------

SCHEMA = FeatureSchema(
    [feature(), feature("words", bag=True), feature("other", keep=False), feature("usual", default="d")],
    keep_strings=True,
)


def texts_of(schema, *rows):
    size = schema.head_bytes
    return schema.texts_of(b"".join(row[:size] for row in rows), b"".join(row[size:] for row in rows))


def test_packed_rows_carry_the_strings_of_the_features_that_ask_for_it():
    rows = [
        SCHEMA.pack({"tag": "a", "words": ["x", "y", "x"], "other": "o"}),
        SCHEMA.pack({}),
        SCHEMA.pack({"words": {"z": 2.0}, "usual": "\udc80"}),
    ]
    assert texts_of(SCHEMA, *rows) == {
        "tag": {id_of("a"): "a"},
        "usual": {id_of("d", "usual"): "d", id_of("\udc80", "usual"): "\udc80"},
        "words": {id_of(text, "words"): text for text in "xyz"},
    }


def test_strings_change_nothing_of_what_rows_are_unpacked_to():
    samples = [{"tag": "a", "words": ["x", "y"]}, {}, {"words": {"z": 2.0}, "other": "o"}]
    plain, times = FeatureSchema(SCHEMA.features), np.full(3, MOMENT)
    with_strings, without = (
        schema.unpack_rows([schema.pack(sample) for sample in samples], times) for schema in (SCHEMA, plain)
    )
    for name, bag in without.bags.items():
        assert np.array_equal(with_strings.bags[name].ids, bag.ids)
        assert np.array_equal(with_strings.bags[name].lengths, bag.lengths)
    assert not plain.keeps_strings
    assert texts_of(plain, *[plain.pack(sample) for sample in samples]) == {}


def test_the_fast_way_from_an_event_packs_the_same_bytes():
    sample = {"tag": "a", "words": ["x", "y"], "other": "o", "usual": None}
    wire = msgspec.json.decode(msgspec.json.encode(sample), type=SCHEMA.wire_type())
    assert SCHEMA.pack_wire(wire) == SCHEMA.pack(sample)


def test_rows_that_wait_keep_their_ids_when_strings_are_asked_for_or_no_longer():
    plain, sample = FeatureSchema(SCHEMA.features), {"tag": "a", "words": ["x", "y"]}
    kept_no_more = FeatureSchema([feature(keep=False), *SCHEMA.features[1:]], keep_strings=True)
    asked = FeatureSchema([feature(), feature("words", bag=True)], keep_strings=True)
    none = FeatureSchema([feature(keep=False), feature("words", bag=True, keep=False)], keep_strings=True)
    assert texts_of(kept_no_more, kept_no_more.repacked(SCHEMA.pack(sample), SCHEMA))["words"].keys() == {
        id_of("x", "words"),
        id_of("y", "words"),
    }
    assert none.repacked(asked.pack(sample), asked) == none.pack(sample)
    assert plain.repacked(SCHEMA.pack(sample), SCHEMA) == plain.pack(sample)
    later = asked.repacked(none.pack(sample), none)
    assert texts_of(asked, later) == {"tag": {}, "words": {}}
    columns = asked.unpack_rows([later], np.full(1, MOMENT))
    assert columns.bags["tag"].ids.tolist() == [id_of("a")]


@pytest.mark.parametrize("texts", [[], [[]], [["a"], []], [["", "long" * 99], ["\ud800"]]])
def test_strings_of_a_row_come_back_and_fill_whole_words(texts):
    data = packed_texts(texts)
    assert len(data) % 8 == 0
    assert unpacked_texts(data) == texts


# --- beside tables ----------------------------------------------------------------------------------------------------


def test_a_string_is_kept_when_its_id_has_a_row_and_goes_with_the_row(tables):
    kept = KeptStrings([feature()])
    observe(tables, "a", "b")
    kept.take(pairs("a", "b", "no row"), tables)
    assert sorted(kept.of("tag").values()) == ["a", "b"]
    observe(tables, "b", second=50)
    tables["tag"].advance(MOMENT + 100_000)
    again = KeptStrings([feature()])
    again.restore(kept.state(tables))
    assert list(again.of("tag").values()) == ["b"]


def test_state_is_the_same_whatever_was_forgotten_on_the_way(tables, monkeypatch):
    bounded, free = KeptStrings([feature()]), KeptStrings([feature()])
    for second in range(300):
        some = [f"t{second % 70}", f"t{second // 3}"]
        observe(tables, *some, second=second)
        tables["tag"].advance(MOMENT + 1000 * second)
        tables["tag"].sweep()
        for kept, slack in ((bounded, 0), (free, 10**9)):
            monkeypatch.setattr(kept_strings, "SLACK", slack)
            kept.take(pairs(*some), tables)
        if second % 41 == 0:
            restored = KeptStrings([feature()])
            restored.restore(bounded.state(tables))
            bounded = restored
        assert bounded.state(tables) == free.state(tables)
    assert len(bounded.of("tag")) <= 2 * len(tables["tag"])
    assert len(free.of("tag")) == 100


def test_keys_of_a_shared_table_are_found_by_their_salts(tables):
    kept = KeptStrings([feature(is_salted=True), feature("other", is_salted=True)])
    ids = [id_of("a"), id_of("a", "other")]
    keys = [int(salted(name, np.array([i]))[0]) for name, i in zip(("tag", "other"), ids, strict=True)]
    tables["tag"].observe(np.array(keys, np.int64), event_time_ms=MOMENT)
    kept.take({"tag": {ids[0]: "a"}, "other": {ids[1]: "a"}}, tables)
    assert kept.by_key("tag") == dict.fromkeys(keys, "a")
    assert KeptStrings.from_state(kept.state(tables)).by_key("tag") == dict.fromkeys(keys, "a")


def test_features_that_are_no_longer_kept_are_left_behind(tables):
    kept = KeptStrings([feature()])
    observe(tables, "a")
    kept.take(pairs("a"), tables)
    other = KeptStrings([feature(keep=False)])
    other.restore(kept.state(tables))
    assert other.features == []


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", CorruptError),
        (msgspec.msgpack.encode([9, {}]), VersionError),
        (msgspec.msgpack.encode([1, {"tag": [[["tag", False]], [1, 2], [b"a"]]}]), CorruptError),
    ],
)
def test_bytes_that_are_no_state_are_refused(data, error):
    with pytest.raises(error):
        KeptStrings.from_state(data)


# --- in the job -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", ["type: int", "type: float, boundaries: [1.0]", "type: bool"])
def test_only_strings_can_be_kept(tmp_path, settings):
    (tmp_path / "job.yaml").write_text(
        f"name: m\ninput: {{samples: 'log://x'}}\ntables: [{{name: tag, dim: 4}}]\n"
        f"features: [{{name: tag, {settings}, keep_strings: true}}]\n"
    )
    with pytest.raises(ConfigError, match="strings are kept beside the rows of a table that reads them"):
        load_job(tmp_path / "job.yaml", [])


# --- bytes ------------------------------------------------------------------------------------------------------------


def test_packed_row_and_state_have_the_bytes_that_the_formats_page_describes(tables):
    row, state = (bytes.fromhex(line) for line in (GOLDEN / "kept_strings_v1.hex").read_text().split())
    schema = FeatureSchema([feature(), feature("words", bag=True)], keep_strings=True)
    assert schema.pack({"words": ["x", "y"], "tag": "a"}) == row
    observe(tables, "a", "\ud800")
    kept = KeptStrings([feature()])
    kept.take(pairs("a", "\ud800"), tables)
    assert kept.state(tables) == state
