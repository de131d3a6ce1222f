"""Parquet rows that become samples without passing through events: the same samples as the way through events."""

from __future__ import annotations

import datetime
import decimal
import math

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monolith.config import FeatureConfig, TableConfig, TaskConfig
from monolith.config.features import Log1p, Standardize
from monolith.errors import ConfigError, CorruptError
from monolith.streaming import memory
from monolith.streaming.bounded import SizeCutter
from monolith.streaming.codec import FeatureDecoder
from monolith.streaming.deadletters import DeadLetters
from monolith.streaming.inlets import open_inlets
from monolith.streaming.journal import UnwrittenJournal
from monolith.streaming.lanes import Inlet
from monolith.streaming.parquet_samples import ParquetSamples
from monolith.streaming.source import open_source
from monolith.streaming.steps import StepReader
from monolith.tables.batch_bytes import to_bytes

LETTERS = {"dead_letters": "memory://letters"}
HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000
FEATURES = [
    FeatureConfig(name="n"),
    FeatureConfig(name="n_own", missing="own_row"),
    FeatureConfig(name="n_default", default=7),
    FeatureConfig(name="n_must", missing="dead_letter"),
    FeatureConfig(name="s", type="string"),
    FeatureConfig(name="s_own", type="string", missing="own_row"),
    FeatureConfig(name="yes", type="bool"),
    FeatureConfig(name="step", type="float", boundaries=[-1.0, 0.0, 2.5]),
    FeatureConfig(name="ids", bag=True),
    FeatureConfig(name="tags", type="string", bag=True, missing="own_row"),
    FeatureConfig(name="hour", type="hour"),
    FeatureConfig(name="x", type="float", transforms=[Standardize(mean=1.0, std=3.0), Log1p()]),
    FeatureConfig(name="x_default", type="float", default=1.5),
    FeatureConfig(name="flag", type="bool"),
    FeatureConfig(name="v", type="float", width=2, transforms=[Standardize(mean=1.0, std=3.0)]),
]
DENSE = ("x", "x_default", "flag", "v")

NUMBERS = [0, 1, -1, 2.5, -0.0, 3.0, math.nan, math.inf, 1e300, 2.0**63, -(2.0**63), 2.0**53 + 2, -7.25]
INTS = [0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]
TEXTS = ["", "a", "b", "Zürich", "\0", "1", "long " * 9]


def _arrays(kind: pa.DataType, values: list, *, encoded: bool = False):
    """Arrow arrays of one type and a length that is given later."""

    def make(size: int) -> st.SearchStrategy:
        cells = st.lists(st.one_of(st.none(), *[st.sampled_from(values)] * 4), min_size=size, max_size=size)
        return cells.map(lambda xs: pa.array(xs, kind).dictionary_encode() if encoded else pa.array(xs, kind))

    return make


def _lists(inner: pa.DataType, values: list, kind=pa.list_):
    element = st.one_of(st.none(), *[st.sampled_from(values)] * 6)

    def make(size: int) -> st.SearchStrategy:
        cell = st.one_of(st.none(), st.lists(element, max_size=3), st.lists(element, min_size=2, max_size=2))
        return st.lists(cell, min_size=size, max_size=size).map(lambda xs: pa.array(xs, kind(inner)))

    return make


COLUMNS = [
    _arrays(pa.int64(), INTS),
    _arrays(pa.int64(), INTS, encoded=True),
    _arrays(pa.int8(), [0, 1, -128, 127]),
    _arrays(pa.uint64(), [0, 1, 2**63 - 1, 2**63, 2**64 - 1]),
    _arrays(pa.float64(), NUMBERS),
    _arrays(pa.float32(), [0.0, 1.0, 0.1, math.nan, math.inf, -0.0]),
    _arrays(pa.string(), TEXTS),
    _arrays(pa.large_string(), TEXTS),
    _arrays(pa.string(), TEXTS, encoded=True),
    _arrays(pa.bool_(), [True, False]),
    _arrays(pa.date32(), [datetime.date(2020, 1, 2)]),
    _arrays(pa.decimal128(5, 2), [decimal.Decimal("1.00"), decimal.Decimal("0.25")]),
    _arrays(pa.binary(), [b"x", b"\xff"]),
    lambda size: st.just(pa.nulls(size)),
    _lists(pa.int64(), INTS),
    _lists(pa.uint64(), [1, 2**64 - 1]),
    _lists(pa.float64(), NUMBERS),
    _lists(pa.string(), TEXTS),
    _lists(pa.string(), TEXTS, pa.large_list),
    _lists(pa.bool_(), [True, False]),
    lambda size: _lists(pa.float32(), [0.5, math.nan], lambda inner: pa.list_(inner))(size),
]
LABELS = [
    _arrays(pa.int8(), [0, 1, 1, 2]),
    _arrays(pa.float64(), [0, 1, 0.5, math.nan]),
    _arrays(pa.bool_(), [True, False]),
    _arrays(pa.string(), ["1", "0"]),
    _arrays(pa.decimal128(5, 2), [decimal.Decimal("1.00"), decimal.Decimal("0.25")]),
]
WEIGHTS = [
    _arrays(pa.float64(), [0, 1, 0.5, 2, -0.0, math.nan, -1, 1e7]),
    _arrays(pa.int8(), [0, 1, 3]),
    _arrays(pa.bool_(), [True, False]),
]
PRICES = [
    _arrays(pa.float64(), [0, -0.0, 9.5, -3, 1e-50, math.nan, math.inf, 1e7]),
    _arrays(pa.float32(), [0.0, 0.1, math.nan]),
    _arrays(pa.int64(), [0, 7, -1, 2**53 + 1]),
    *LABELS,
]
CLICK, PRICE = TaskConfig(name="click"), TaskConfig(name="price", loss="squared")
TASKS = [  # how the URL says labels, and the job's tasks
    ("", [TaskConfig()]),
    ("&threshold=1", [TaskConfig()]),
    ("&weight=trust", [TaskConfig()]),
    ("&label=paid&weight=trust", [PRICE]),
    ("&label=click:label", [CLICK]),
    ("&label=click:label,price:paid", [CLICK, PRICE]),
    ("&label=price:paid&weight=price:trust,click:label", [CLICK, PRICE]),
    ("&label=prise:paid", [PRICE]),
    ("&label=paid", [CLICK, PRICE]),
]
NO_FEATURES = ("time", "label", "item", "request", "paid", "trust")
FITTING = {
    **{key: [0, 1, 2, 4] for key in ["n", "n_own", "n_default"]},
    **{key: [6, 7, 8] for key in ["s", "s_own"]},
    **{key: [9] for key in ["yes", "flag"]},
    **{key: [0, 2, 3, 4, 5] for key in ["step", "x", "x_default"]},
    "ids": [14, 15],
    "tags": [17, 18],
    "v": [16, 14, 20],
}


@st.composite
def tables(draw) -> pa.Table:
    """Tables of the features, most columns of a type that the feature takes, in any order of time."""
    size = draw(st.integers(1, 12))
    columns = {}
    for feature in FEATURES:
        name = feature.name
        if name == "n_must":
            must = st.one_of(st.none(), *[st.integers(0, 9)] * 11)
            columns[name] = pa.array(draw(st.lists(must, min_size=size, max_size=size)), pa.int64())
        elif name in FITTING and draw(st.integers(0, 9)):
            which = draw(st.sampled_from(FITTING[name])) if draw(st.integers(0, 7)) else draw(st.integers(0, 20))
            columns[name] = draw(COLUMNS[which](size))
    odd = [None, -5, 1_700_000_000, START_MS * 1000, START_MS * 1_000_000, START_MS + 400 * 24 * HOUR_MS, 2**62 + 1]
    near = st.integers(START_MS, START_MS + 3 * HOUR_MS)
    time = st.one_of(*[near] * 9, st.sampled_from(odd))
    columns["time"] = pa.array(draw(st.lists(time, min_size=size, max_size=size)), pa.int64())
    columns["label"] = draw(draw(st.sampled_from(LABELS))(size))
    columns["paid"] = draw(draw(st.sampled_from(PRICES))(size))
    columns["trust"] = draw(draw(st.sampled_from(WEIGHTS))(size))
    columns["item"] = draw(draw(st.sampled_from([COLUMNS[i] for i in (0, 3, 4, 6, 7, 8, 9, 10, 11, 13)]))(size))
    if draw(st.booleans()):
        columns["request"] = draw(draw(st.sampled_from([COLUMNS[i] for i in (0, 1, 6, 8)]))(size))
    return pa.table(columns)


def _url(path, table: pa.Table, more: str = "") -> str:
    features = ",".join(name for name in table.column_names if name not in NO_FEATURES)
    request = "&request=request" if "request" in table.column_names else ""
    label = "" if "label=" in more else "&label=label"
    return f"parquet://{path}?time=time&item=item&features={features}{request}{label}{more}"


def _events_way(job) -> list[Inlet]:
    return [Inlet("samples", 2, open_source(job.input.samples), FeatureDecoder(job), in_order=False)]


def _run(job, inlets: list[Inlet]) -> list:
    """Everything that comes of a run: its steps, what it keeps between them, and its dead letters."""
    memory.forget("letters")
    cutter = SizeCutter(job, inlets)
    letters = DeadLetters(job.input.dead_letters)
    reader = StepReader(job, inlets, UnwrittenJournal(), letters, cutter=cutter, clock=lambda: 0.0)
    seen: list = []
    with reader:
        try:
            while not seen or not seen[-1][-1]:
                step = reader.next(timeout_s=1.0)
                assert step is not None
                seen.append((to_bytes(step.batch), [*step.keys], reader.state(), step.watermark_ms, step.ended))
        except ConfigError as error:  # a stream that is in another unit from its beginning
            seen.append(str(error))
        told = reader.progress()
        troubles = (told.held, told.jumps, told.stalled_s, told.dead_letters)
    return [seen, troubles, [record.value for record in open_source("memory://letters").poll(10**6, 0.0)]]


@pytest.fixture
def job_of(make_job):
    def make(url: str, **inputs):
        ids = [feature.name for feature in FEATURES if feature.name not in DENSE]
        return make_job(
            input={
                "features": None,
                "actions": None,
                "samples": url,
                "follow": False,
                "max_reject_share": 1.0,
                **LETTERS,
                **inputs,
            },
            train={"step_records": 3},
            tables=[TableConfig(name=name, dim=4) for name in ids],
            features=FEATURES,
        )

    return make


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=tables(), group_rows=st.integers(1, 12), agree=st.integers(1, 3), tasks=st.sampled_from(TASKS))
def test_any_table_gives_the_samples_and_refusals_of_the_way_through_events(
    tmp_path, job_of, table, group_rows, agree, tasks
):
    path = tmp_path / "t.parquet"
    pq.write_table(table, path, row_group_size=group_rows)
    options, labels = tasks
    job = job_of(_url(path, table, options), jump_records=agree, max_jump_s=3600.0)
    job = msgspec.structs.replace(job, labels=labels)
    columns = open_inlets(job)
    assert type(columns[0]) is ParquetSamples
    assert _run(job, columns) == _run(job, _events_way(job))


def _plain_table(rows: int, **columns) -> pa.Table:
    given = {"time": [START_MS + i for i in range(rows)], "item": ["i"] * rows, "label": [1] * rows}
    return pa.table({**given, "n_must": range(rows), **columns})


def test_rows_that_fit_become_no_records(tmp_path, job_of, drain, open_reader, monkeypatch):
    table = _plain_table(20, s=["a", None] * 10, ids=[[1, 2], []] * 10, v=[[1.0, None]] * 20, n=[1.0, None] * 10)
    pq.write_table(table, tmp_path / "t.parquet")
    monkeypatch.setattr(FeatureDecoder, "decode", lambda *_: pytest.fail("a row became an event"))
    steps = drain(open_reader(job_of(_url(tmp_path / "t.parquet", table))))
    assert sum(len(step.batch) for step in steps) == 20


def test_distinct_strings_are_hashed_once_and_those_of_other_rows_not_at_all(tmp_path, job_of, monkeypatch):
    texts = pa.DictionaryArray.from_arrays(pa.array([7, 7, None, 7], pa.int32()), [f"t{i}" for i in range(100)])
    table = _plain_table(4, s=texts)
    pq.write_table(table, tmp_path / "t.parquet")
    inlets = open_inlets(job_of(_url(tmp_path / "t.parquet", table)))
    hashed: list[str] = []
    column = inlets[0]._decoder.schema.columns["s"]
    of_text = column.id
    monkeypatch.setattr(column, "id", lambda text: hashed.append(text) or of_text(text))
    inlets[0].poll(10, 0.0, [0])
    assert hashed == ["t7"]


def test_replay_gives_the_digests_of_the_run_whose_polls_were_cut_elsewhere(tmp_path, job_of, open_reader, drain):
    """A row that cannot be used stands between others, and the replay begins in the middle of a row group."""
    table = _plain_table(40, n_must=[i if i != 11 else None for i in range(40)], s=["a", "b"] * 20)
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=16)
    job = job_of(_url(tmp_path / "t.parquet", table))
    first = drain(open_reader(job))
    reader = open_reader(job, replay_only=True)
    state = [reader.next(timeout_s=1.0), reader.next(timeout_s=1.0), reader.state()][-1]
    again = open_reader(job, replay_only=True)
    again.restore(state)
    rest = drain(again)
    assert [step.digest for step in rest if step.records] == [step.digest for step in first[2:] if step.records]
    assert [to_bytes(a.batch) for a in rest[:5]] == [to_bytes(b.batch) for b in first[2:7]]


def test_digest_tells_rows_from_others(tmp_path, job_of, open_reader, drain):
    digests = set()
    for i, label in enumerate([[0] * 5, [1] * 5, [0, 0, 0, 0, 1]]):
        path = tmp_path / "t.parquet"
        pq.write_table(_plain_table(5, label=label), path)
        steps = drain(open_reader(job_of(_url(path, _plain_table(5))), folder=f"journal{i}"))
        digests.add(tuple(step.digest for step in steps))
    assert len(digests) == 3


def test_text_that_is_not_utf8_is_corrupt(tmp_path, job_of, open_reader):
    broken = pa.array([b"ok", b"\xff\xfe"], pa.binary()).view(pa.string())
    table = _plain_table(2, s=broken)
    pq.write_table(table, tmp_path / "t.parquet")
    for url in (_url(tmp_path / "t.parquet", table), f"parquet://{tmp_path}/t.parquet?time=time&item=s"):
        with pytest.raises(CorruptError, match=r"cannot be read behind row 0.*UTF8"):
            open_reader(job_of(url)).next(timeout_s=1.0) if "label" in url else open_source(url).poll(9, 0.0)
