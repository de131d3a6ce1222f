"""Labels of joined samples: from the wire and from Parquet to a step's batch."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monolith.config import InputConfig, JobConfig, TableConfig, TaskConfig
from monolith.errors import ConfigError, CorruptError, EventError
from monolith.events import WATERMARK_END, Record, SampleEvent
from monolith.streaming.codec import FeatureDecoder, decode, encode
from monolith.streaming.joiner import Joiner
from monolith.streaming.labels import LabelBlocks
from monolith.streaming.reader_state import ReaderState
from monolith.streaming.refit import refitted
from monolith.streaming.source import open_source
from monolith.streaming.steps import StepReader
from monolith.tables.batch import Batch

CLICK, PRICE = TaskConfig(name="click"), TaskConfig(name="price", loss="squared")


def job_of(*tasks: TaskConfig, samples: str = "memory://samples") -> JobConfig:
    return JobConfig(
        name="t",
        input=InputConfig(samples=samples, follow=False),
        tables=[TableConfig(name="user", dim=5)],
        labels=list(tasks),
    )


def record(label: object, *, form: str = "msgpack", offset: int = 0, **fields: object) -> Record:
    sample = {"type": "sample", "request_id": f"r{offset}", "item_id": "i", "event_time_ms": offset}
    encoder = msgspec.json if form == "json" else msgspec.msgpack
    value = encoder.encode({**sample, "features": {"user": 1}, "label": label, **fields})
    return Record(None, value, offset, 1_000_000, 0, offset)


def batch_of(job: JobConfig, *records: Record) -> Batch:
    """What the decoder and the joiner make of the records."""
    decoder, blocks = FeatureDecoder(job), LabelBlocks(job)
    joiner = Joiner(job.join, blocks.size + decoder.schema.head_bytes)
    for one in records:
        joiner.add(one, decoder.decode(one, "samples"), 2, one.event_time_ms)
    return joiner.advance(WATERMARK_END).batch(decoder.schema, "user", blocks)


@pytest.mark.parametrize("form", ["msgpack", "json"])
@pytest.mark.parametrize(
    ("label", "number"), [(True, 1.0), (False, 0.0), (1, 1.0), (0.0, 0.0), ({"click": 1}, 1.0), ({"click": True}, 1.0)]
)
def test_the_one_binary_label_may_be_a_number_or_a_boolean_alone_or_by_task(form, label, number):
    batch = batch_of(job_of(CLICK), record(label, form=form))
    assert batch.labels.tolist() == [[number]]
    assert batch.label_weights is None
    assert batch.bags["user"].ids.tolist() == [1]


def test_each_task_has_a_column_and_a_missing_label_weighs_nothing():
    batch = batch_of(
        job_of(CLICK, PRICE),
        record({"click": 1, "price": -2.5}),
        record({"price": 7}, offset=1),
        record({"click": False, "price": None}, offset=2),
        record({}, offset=3),
    )
    assert batch.labels.tolist() == [[1, -2.5], [0, 7], [0, 0], [0, 0]]
    assert batch.label_weights.tolist() == [[1, 1], [0, 1], [1, 0], [0, 0]]


def test_labels_may_have_weights():
    batch = batch_of(
        job_of(CLICK, PRICE),
        record({"click": 1, "price": 3}, weights={"price": 0.5}),
        record({"click": 1, "price": 3}, offset=1, weights={"click": 0, "price": 2}),
    )
    assert batch.label_weights.tolist() == [[1, 0.5], [0, 2]]
    assert batch.labels.tolist() == [[1, 3], [0, 3]]
    assert batch_of(job_of(CLICK), record(1, weights=0.25)).label_weights.tolist() == [[0.25]]


@pytest.mark.parametrize(
    ("label", "says"),
    [
        (0.5, "task 'click': the label is 0.5, allowed: 0 and 1"),
        ({"clik": 1}, "label has the task 'clik', the job has click"),
        (math.nan, "nan"),
    ],
)
def test_a_binary_label_is_nothing_but_0_and_1(label, says):
    with pytest.raises(EventError, match=says) as caught:
        FeatureDecoder(job_of(CLICK)).decode(record(label), "samples")
    assert caught.value.reason == "label"


@pytest.mark.parametrize(
    ("label", "fields", "says"),
    [
        (1, {}, "the job has several tasks: send a mapping"),
        ({"price": math.inf}, {}, "task 'price': the label is inf"),
        ({"price": 1.1e6}, {}, "allowed: -1000000 to 1000000"),
        ({"price": 1}, {"weights": {"price": -1}}, "the weight is -1"),
        ({"price": 1}, {"weights": {"price": 1e7}}, "allowed: 0 to 1000000"),
        ({"price": 1}, {"weights": {"price": math.nan}}, "the weight is nan"),
        ({"price": 1}, {"weights": {"prise": 1}}, "weights has the task 'prise'"),
        ({"price": 1}, {"weights": 0.5}, "weights is 0.5, the job has several tasks"),
    ],
)
def test_labels_and_weights_that_do_not_fit_are_refused_by_name(label, fields, says):
    with pytest.raises(EventError, match=says) as caught:
        FeatureDecoder(job_of(CLICK, PRICE)).decode(record(label, **fields), "samples")
    assert caught.value.reason == "label"


@pytest.mark.parametrize("label", ["1", [1], {"price": "1"}])
def test_a_label_that_is_no_number_is_a_field_of_another_type(label):
    with pytest.raises(EventError) as caught:
        FeatureDecoder(job_of(CLICK, PRICE)).decode(record(label), "samples")
    assert caught.value.reason == "field_type"


@pytest.mark.parametrize("form", ["msgpack", "json"])
def test_a_sample_event_survives_the_wire_with_its_labels_and_weights(form):
    for event in (
        SampleEvent("r", "i", 5, {"user": 7}, {"click": 1.0, "price": None}),
        SampleEvent("r", "i", 5, {"user": 7}, {"price": 2.5}, 0.5, weights={"price": 0.25}),
        SampleEvent("r", "i", 5, {"user": 7}, 1.0, weights=2.0),
    ):
        assert decode(encode(event, form)) == event


# --- what waits -------------------------------------------------------------------------------------------------------


def state_of(job: JobConfig, joiner: Joiner, *, version: int, tasks: list[str]) -> ReaderState:
    features = msgspec.msgpack.encode(FeatureDecoder(job).schema.features)
    waits = {"joiner": joiner.state(), "letters": b"", "features": features, "tasks": tasks}
    return ReaderState(version, 1, 1, 0, ended=False, unpublished=False, lanes={}, **waits)


def test_samples_that_waited_before_rows_had_label_blocks_keep_their_label():
    job = job_of(CLICK)
    decoder, blocks = FeatureDecoder(job), LabelBlocks(job)
    older = Joiner(job.join, decoder.schema.head_bytes)
    for one in (record(1), record(0, offset=1)):
        event = decoder.decode(one, "samples")
        older.add(one, msgspec.structs.replace(event, row=blocks.without(event.row)), 2, one.event_time_ms)
    joiner = Joiner(job.join, blocks.size + decoder.schema.head_bytes)
    joiner.restore(refitted(state_of(job, older, version=3, tasks=[]), decoder.schema, blocks, joiner))
    batch = joiner.advance(WATERMARK_END).batch(decoder.schema, "user", blocks)
    assert batch.labels.tolist() == [[1], [0]]
    assert batch.label_weights is None
    assert batch.bags["user"].ids.tolist() == [1, 1]


def test_samples_that_wait_keep_their_labels_when_features_change():
    job = job_of(CLICK, PRICE)
    wider = msgspec.structs.replace(job, tables=[*job.tables, TableConfig(name="item", dim=5)])
    decoder, after, blocks = FeatureDecoder(job), FeatureDecoder(wider), LabelBlocks(job)
    held = Joiner(job.join, blocks.size + decoder.schema.head_bytes)
    one = record({"click": 1, "price": 2}, weights={"price": 0.5})
    held.add(one, decoder.decode(one, "samples"), 2, 0)
    joiner = Joiner(job.join, blocks.size + after.schema.head_bytes)
    joiner.restore(refitted(state_of(job, held, version=4, tasks=blocks.names), after.schema, blocks, joiner))
    batch = joiner.advance(WATERMARK_END).batch(after.schema, "user", blocks)
    assert (batch.labels.tolist(), batch.label_weights.tolist()) == ([[1, 2]], [[1, 0.5]])
    assert batch.bags["user"].ids.tolist() == [1]


def test_samples_that_wait_with_labels_of_other_tasks_are_refused():
    job, blocks = job_of(CLICK, PRICE), LabelBlocks(job_of(CLICK))
    schema = FeatureDecoder(job).schema
    joiner = Joiner(job.join, blocks.size + schema.head_bytes)
    with pytest.raises(CorruptError, match=r"labels of the tasks \['click', 'price'\], the job has \['click'\]"):
        refitted(state_of(job, joiner, version=4, tasks=["click", "price"]), schema, blocks, joiner)


# --- Parquet ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path):
    table = pa.table(
        {
            "user": pa.array([1, 2, 3], pa.int64()),
            "clicked": pa.array([True, False, None]),
            "paid": pa.array([9.5, None, 2.0], pa.float64()),
            "trust": pa.array([0.5, 1.0, None], pa.float32()),
            "t": pa.array([1, 2, 3], pa.int64()),
        }
    )
    pq.write_table(table, tmp_path / "shop.parquet")
    return f"parquet://{tmp_path / 'shop.parquet'}?time=t&item=user&features=user"


def whole(job: JobConfig, folder) -> Batch:
    with StepReader.open(job, folder) as reader:
        return reader.next(1.0).batch


def test_columns_of_a_file_are_labels_by_task(shop, tmp_path):
    url = f"{shop}&label=click:clicked,price:paid&weight=price:trust"
    batch = whole(job_of(CLICK, PRICE, samples=url), tmp_path / "journal")
    np.testing.assert_array_equal(batch.labels, np.array([[1, 9.5], [0, 0], [0, 0]], np.float32))
    np.testing.assert_array_equal(batch.label_weights, np.array([[1, 0.5], [1, 0], [0, 0]], np.float32))
    assert batch.bags["user"].ids.tolist() == [1, 2, 3]


def test_one_label_column_may_have_a_weight_column(shop, tmp_path):
    job = job_of(PRICE, samples=f"{shop}&label=paid&weight=trust")
    batch = whole(job, tmp_path / "journal")
    assert (batch.labels.tolist(), batch.label_weights.tolist()) == (
        [[9.5], [0]],
        [[0.5], [0]],
    )  # a row without its one label is refused


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("label=click:clicked,price:paid&threshold=1", "threshold makes one label"),
        ("label=click:clicked,click:paid", "must name each task once"),
        ("label=click:clicked,", "must name each task once"),
        ("weight=trust", "there is no label"),
        ("label=click:nowhere", "has no column 'nowhere'"),
    ],
)
def test_label_options_that_contradict_are_refused(shop, options, says):
    with pytest.raises(ConfigError, match=says):
        open_source(f"{shop}&{options}")
