"""What waits in the joiner outlives an upgrade of the build and a change of the job's features."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from monolith.config import FeatureConfig, InputConfig, JobConfig, JoinConfig, TableConfig
from monolith.errors import CorruptError
from monolith.events import WATERMARK_END
from monolith.streaming.joiner import Joiner
from monolith.streaming.joiner_state import JoinCounters
from monolith.streaming.labels import LabelBlocks
from monolith.streaming.reader_state import ReaderState
from monolith.streaming.refit import refitted
from monolith.tables.schema import FeatureSchema, card_features

USER, TAGS = TableConfig(name="user", dim=4), TableConfig(name="tags", dim=4)
TAGGED = FeatureConfig(name="tags", type="string", bag=True)
JOIN = JoinConfig(window_s=10.0, early_s=5.0, dedup_s=30.0, positive_actions=["like"])

NO_BLOCKS = LabelBlocks(
    JobConfig(name="t", input=InputConfig(features="memory://f", actions="memory://a"), tables=[USER])
)


def schema_of(*tables: TableConfig, features: tuple[FeatureConfig, ...] = ()) -> FeatureSchema:
    return FeatureSchema(
        card_features(JobConfig(name="t", input=InputConfig(), tables=[*tables], features=[*features]))
    )


def old_state() -> ReaderState:
    golden = bytes.fromhex((Path(__file__).parents[1] / "golden" / "joiner_state_v1.hex").read_text())
    return ReaderState(2, 1, 1, 0, ended=False, unpublished=False, lanes={}, joiner=golden, letters=b"")


def test_state_of_version_1_goes_on_as_it_would_have():
    schema = schema_of(USER, TAGS, features=(TAGGED,))
    joiner = Joiner(JOIN, schema.head_bytes)
    joiner.restore(refitted(old_state(), schema, NO_BLOCKS, joiner))
    samples = joiner.advance(WATERMARK_END)
    batch = samples.batch(schema, "user")
    assert list(samples.keys) == [("r2", "i"), ("s", "i"), ("r1", "i"), ("p", "i")]
    assert batch.labels[:, 0].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert batch.rates.tolist() == [1.0, 0.25, 1.0, 1.0]
    assert batch.event_time_ms.tolist() == [3000, 5400, 2000, 5000]
    assert batch.bags["user"].ids.tolist() == [2, 4, 1, 9]
    tags = schema.columns_of([{"tags": t} for t in (["a", "b"], ["c"], ["a"], None)], batch.event_time_ms).bags["tags"]
    assert batch.bags["tags"].ids.tolist() == tags.ids.tolist()
    assert batch.bags["tags"].lengths.tolist() == [2, 1, 1, 0]
    assert joiner.counters == JoinCounters(positives=2, negatives=2, passed=1, unmatched_actions=1, ignored_actions=1)


def test_features_that_did_not_change_stay_with_what_waits_and_new_ones_are_missing():
    before = schema_of(USER, TAGS, features=(TAGGED,))
    joiner = Joiner(JOIN, before.head_bytes)
    joiner.restore(refitted(old_state(), before, NO_BLOCKS, joiner))
    state = ReaderState(
        *(3, 1, 1, 0, False, False, {}),
        joiner=joiner.state(),
        letters=b"",
        features=msgspec.msgpack.encode(before.features),
    )
    new = FeatureConfig(name="city", type="string", missing="own_row")
    after = schema_of(USER, TableConfig(name="city", dim=4), features=(new,))
    other = Joiner(JOIN, after.head_bytes)
    other.restore(refitted(state, after, NO_BLOCKS, other))
    batch = other.advance(WATERMARK_END).batch(after, "user")
    assert batch.bags["user"].ids.tolist() == [2, 4, 1, 9]
    assert len(set(batch.bags["city"].ids.tolist())) == 1
    assert batch.bags["city"].one_each


def test_state_whose_rows_are_not_of_its_features_is_refused():
    before = schema_of(USER, TAGS, features=(TAGGED,))
    joiner = Joiner(JOIN, before.head_bytes)
    joiner.restore(refitted(old_state(), before, NO_BLOCKS, joiner))
    wide = schema_of(*(TableConfig(name=f"f{i}", dim=4) for i in range(40)))
    state = ReaderState(
        *(3, 1, 1, 0, False, False, {}),
        joiner=joiner.state(),
        letters=b"",
        features=msgspec.msgpack.encode(wide.features),
    )
    with pytest.raises(CorruptError, match="not of the features"):
        refitted(state, before, NO_BLOCKS, joiner)
