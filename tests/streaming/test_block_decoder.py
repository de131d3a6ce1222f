"""Blocks of records through the native decoder: the events, samples, letters and states of one record at a time."""

from __future__ import annotations

import math
import struct
from random import Random

import msgspec
import pytest
import xxhash
from batches import told
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monolith.config import FeatureConfig, InputConfig, JobConfig, TableConfig, TaskConfig
from monolith.config.features import Clip, Log1p, Standardize
from monolith.errors import ConfigError, EventError, RejectedError
from monolith.events import ActionEvent, FeatureEvent, Joined, Record, Shown
from monolith.streaming import lanes, memory
from monolith.streaming.bounded import SizeCutter
from monolith.streaming.codec import FeatureDecoder, encode
from monolith.streaming.deadletters import DeadLetters
from monolith.streaming.event_block import ActionColumns, EventBlock, JoinedColumns, ShownColumns
from monolith.streaming.inlets import open_inlets
from monolith.streaming.joiner import draw
from monolith.streaming.journal import UnwrittenJournal
from monolith.streaming.record_block import RecordBlock
from monolith.streaming.source import open_source
from monolith.streaming.steps import StepReader

START_MS = 1_700_000_000_000
SEEDS = st.integers(0, 2**32 - 1)
IDS = [
    FeatureConfig(name="n"),
    FeatureConfig(name="n_own", missing="own_row"),
    FeatureConfig(name="n_default", default=7),
    FeatureConfig(name="n_must", missing="dead_letter"),
    FeatureConfig(name="s", type="string"),
    FeatureConfig(name="s_own", type="string", missing="own_row"),
    FeatureConfig(name="s_default", type="string", default="x"),
    FeatureConfig(name="yes", type="bool"),
    FeatureConfig(name="step", type="float", boundaries=[-1.0, 0.0, 2.5], transforms=[Clip(min=-3.0)]),
    FeatureConfig(name="step_own", type="float", boundaries=[0.5], missing="own_row", transforms=[Log1p()]),
    FeatureConfig(name="step_default", type="float", boundaries=[0.5], default=3),
    FeatureConfig(name="bag", bag=True),
    FeatureConfig(name="tags", type="string", bag=True, missing="own_row"),
    FeatureConfig(name="hour", type="hour"),
]
DENSE = [
    FeatureConfig(name="x", type="float", transforms=[Standardize(mean=1.0, std=3.0), Log1p()]),
    FeatureConfig(name="x_default", type="float", default=1.5),
    FeatureConfig(name="x_must", type="float", missing="dead_letter"),
    FeatureConfig(name="flag", type="bool"),
    FeatureConfig(name="v", type="float", width=2),
]
FEATURES = [*IDS, *DENSE]
TEXTS = ["", "a", "Zürich", "\0", "東京", "😀", "long " * 60, "1" * 17, "ab" * 80]
INTS = [0, 1, -1, 127, 128, -32, -33, 255, 256, 2**15, 2**16, 2**31, 2**32, 2**63 - 1, -(2**63), 2**63, 2**64 - 1]
NUMBERS = [*INTS, 0.0, -0.0, 1.5, math.nan, math.inf, 1e300, 0.1, 1e6, -1e6, 1e6 + 1]
TASKS = [[TaskConfig()], [TaskConfig(name="price", loss="squared")], [TaskConfig(name="click"), TaskConfig(name="buy")]]


def job_of(stream: str, *, labels=TASKS[0], **inputs) -> JobConfig:
    urls = {"samples": "memory://samples"} if stream == "samples" else {}
    urls = urls or {"features": "memory://features", "actions": "memory://actions"}
    return JobConfig(
        name="job",
        input=InputConfig(**urls, **{"max_future_s": 60.0, **inputs}),
        tables=[TableConfig(name=feature.name, dim=4) for feature in IDS],
        features=FEATURES,
        labels=labels,
    )


# --- bytes ------------------------------------------------------------------------------------------------------------


def sized(random: Random, size: int, small: tuple[int, int] | None, codes: list[tuple[int, str]]) -> bytes:
    """A length in one of the forms that it fits into."""
    forms = [struct.pack(">B" + kind, code, size) for code, kind in codes if size < 1 << 8 * struct.calcsize(kind)]
    if small is not None and size < small[1]:
        forms = [bytes([small[0] | size])] * 3 + forms
    return random.choice(forms)


def packed(random: Random, value: object) -> bytes:
    """``value`` as MessagePack, in any form that it has there. A list of pairs in a tuple is a map."""
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        kinds = [(0xCC, "B"), (0xCD, "H"), (0xCE, "I"), (0xCF, "Q"), (0xD0, "b"), (0xD1, "h"), (0xD2, "i"), (0xD3, "q")]
        forms = [struct.pack("b", value)] * 3 if -32 <= value < 128 else []
        for code, kind in kinds:
            try:
                forms.append(struct.pack(">B" + kind, code, value))
            except struct.error:
                continue
        return random.choice(forms)
    if isinstance(value, float):
        as_float32 = abs(value) < 1e38 or not math.isfinite(value)
        return (
            struct.pack(">Bf", 0xCA, value) if as_float32 and random.random() < 0.3 else struct.pack(">Bd", 0xCB, value)
        )
    if isinstance(value, str | bytes):
        data = value.encode() if isinstance(value, str) else value
        codes = [(0xD9, "B"), (0xDA, "H"), (0xDB, "I")] if isinstance(value, str) else [(0xC4, "B"), (0xC5, "H")]
        return sized(random, len(data), (0xA0, 32) if isinstance(value, str) else None, codes) + data
    if isinstance(value, list):
        head = sized(random, len(value), (0x90, 16), [(0xDC, "H"), (0xDD, "I")])
        return head + b"".join(packed(random, one) for one in value)
    pairs = value if isinstance(value, tuple) else tuple(value.items())
    head = sized(random, len(pairs), (0x80, 16), [(0xDE, "H"), (0xDF, "I")])
    return head + b"".join(packed(random, part) for pair in pairs for part in pair)


def feature_value(random: Random, feature: FeatureConfig) -> object:
    """Mostly one that the feature takes."""
    if random.random() < 0.03:
        return random.choice([None, True, 1, 1.0, "a", b"a", [], {}, [None], [1, "a"], {"a": True}, [[1]], ((1, 2),)])
    if random.random() < 0.1:
        return None
    kind = {
        "int": lambda: random.choice(INTS[:15] if random.random() < 0.9 else INTS),
        "bool": lambda: random.random() < 0.5,
    }
    kind |= {"string": lambda: random.choice(TEXTS), "hour": lambda: 3}
    kind["float"] = lambda: random.choice(NUMBERS if random.random() < 0.1 else [0, 1, -7, 1.5, -0.0, 2.5, math.nan])
    one = kind[feature.type]
    if feature.width > 1:
        return [None if random.random() < 0.1 else one() for _ in range(2 if random.random() < 0.95 else 3)]
    if not feature.bag:
        return one()
    if random.random() < 0.5:
        return [one() for _ in range(random.randrange(5))]
    return tuple((one(), random.choice([1, 0.5, -2.0, 1e6])) for _ in range(random.randrange(4)))


def changed(random: Random, pairs: list[tuple[object, object]]) -> tuple[tuple[object, object], ...]:
    """Now and then in another order, without one, with one twice, or with one more."""
    turn = random.random()
    if turn < 0.1:
        random.shuffle(pairs)
    elif turn < 0.15 and pairs:
        pairs.pop(random.randrange(len(pairs)))
    elif turn < 0.18 and pairs:
        pairs.append(random.choice(pairs))
    elif turn < 0.25:
        extra = random.choice(["extra", "label", "action", "rate", "weights", b"bin", 7, "Zürich"])
        pairs.insert(
            random.randrange(len(pairs) + 1), (extra, random.choice([1, "x", None, [1, {"a": b"b"}], 0.5, TEXTS]))
        )
    return tuple(pairs)


def label_of(random: Random, job: JobConfig, usual: list, odd: list) -> object:
    def one() -> object:
        return random.choice(usual if random.random() < 0.95 else odd)

    if len(job.labels) == 1 and random.random() < 0.8:
        return one()
    return changed(random, [(task.name, one()) for task in job.labels])


def event_bytes(random: Random, job: JobConfig, stream: str) -> bytes:
    """One record's value, seldom of another stream, and damaged now and then."""
    kind = {"features": "feature", "actions": "action", "samples": "sample"}[stream]
    if random.random() < 0.03:
        kind = random.choice(["feature", "action", "sample", "purchase"])
    time = random.choice([START_MS, START_MS + 59_000] * 9 + [START_MS + 61_000, -1, START_MS * 1000, START_MS // 1000])
    key = random.choice(TEXTS), random.choice(TEXTS)
    pairs: list = [("type", kind), ("request_id", key[0]), ("item_id", key[1]), ("event_time_ms", time)]
    if kind == "action":
        pairs.append(("action", random.choice(["click", "like", "Zürich", ""])))
    else:
        values = [(feature.name, feature_value(random, feature)) for feature in job.features if feature.type != "hour"]
        pairs.append(("features", changed(random, values)))
    if kind == "sample":
        usual = [0, 1, True, False, 1.0, -0.0, None] if len(job.labels) > 1 else [0, 1, True, False, 1.0, 0.0]
        if job.labels[0].loss == "squared":
            usual += [2.5, -7, 1e6, 0.1]
        pairs.append(("label", label_of(random, job, usual, [None, "1", 2, math.nan, 1e7, []])))
        pairs += [("rate", random.choice([1, 1.0, 0.5, 0.1] if random.random() < 0.95 else [0, 2.0, math.nan, "a"]))]
        if random.random() < 0.3:
            pairs.append(("weights", label_of(random, job, [0, 1, 0.25, 3], [None, True, -1, math.nan, 1e7])))
    if random.random() < 0.5:
        pairs.append(("v", 1 if random.random() < 0.95 else random.choice([2, "1", 1.0, None])))
    data = packed(random, changed(random, pairs))
    turn = random.random()
    if turn < 0.05:
        return data[: random.randrange(len(data))]
    if turn < 0.1:
        place = random.randrange(len(data))
        return data[:place] + bytes([random.randrange(256)]) + data[place + 1 :]
    if turn < 0.12:
        return data + random.choice([b"\0", b"\xc0"])
    return random.choice([b"", b"{", b"\xc1", b"{}", msgspec.json.encode({"type": "x"})]) if turn < 0.13 else data


# --- events -----------------------------------------------------------------------------------------------------------


def one_by_one(block: EventBlock) -> list[object]:
    """The block's events as `FeatureDecoder` gives them; of features with their draws."""

    def cut(strings, i: int) -> bytes:
        return strings.data[strings.ends[i] : strings.ends[i + 1]].tobytes()

    events: list[object] = []
    for i in range(len(block)):
        key = cut(block.keys, 2 * i).decode(), cut(block.keys, 2 * i + 1).decode(), int(block.event_time_ms[i])
        columns = block.columns
        if isinstance(columns, ActionColumns):
            events.append(ActionEvent(key[0], key[1], columns.names[columns.numbers[i]], key[2]))
            continue
        row = columns.packed.heads[i].tobytes() + cut(columns.packed.bag_data, i)
        if isinstance(columns, JoinedColumns):
            events.append(Joined(*key, row, float(columns.labels[i]), float(columns.rates[i])))
        else:
            assert isinstance(columns, ShownColumns)
            assert columns.draws[i] == draw(key[0], key[1])
            events.append(Shown(*key, row))
    return events


def as_float32(event: object) -> object:
    """The joiner holds labels and rates as float32."""
    if not isinstance(event, Joined):
        return event
    label, rate = struct.unpack("<2f", struct.pack("<2f", event.label, event.rate))
    return Joined(event.request_id, event.item_id, event.event_time_ms, event.row, label, rate)


def check_block(job: JobConfig, stream: str, values: list[bytes | None]) -> float:
    """Hold every event that the native decoder finds to the codec's; the share of the fit ones that it finds."""
    decoder = FeatureDecoder(job)
    records = [Record(b"k", value, 0, START_MS, 0, i) for i, value in enumerate(values)]
    expected: list[object] = []
    for record in records:
        try:
            expected.append(as_float32(decoder.decode(record, stream)))
        except EventError:
            expected.append(None)
    blocks, at, found = decoder.block_decoder(stream), 0, 0
    for start, stop, events in blocks.blocks(RecordBlock.of(records), lambda record: decoder.decode(record, stream)):
        assert start == at
        at = stop
        if events is not None:
            assert events.records.records() == records[start:stop]
            assert one_by_one(events) == expected[start:stop]
            found += stop - start
    assert at == len(records)
    fit = sum(event is not None for event in expected)
    return found / fit if fit else 1.0


@settings(max_examples=300, deadline=None)
@given(
    seed=SEEDS,
    stream=st.sampled_from(["features", "actions", "samples"]),
    labels=st.sampled_from(TASKS),
    unknown=st.sampled_from(["ignore", "dead_letter"]),
    unit=st.sampled_from(["ms", "ms", "s", "us"]),
    checks=st.booleans(),
)
def test_native_decoder_finds_the_events_of_the_codec(seed, stream, labels, unknown, unit, checks):
    random = Random(seed)
    labels = labels if stream == "samples" else TASKS[0]  # several are gathered from actions, one record at a time
    job = job_of(stream, labels=labels, unknown_features=unknown, time_unit=unit, check_time_unit=checks)
    check_block(job, stream, [event_bytes(random, job, stream) for _ in range(30)])


@settings(max_examples=300, deadline=None)
@given(
    stream=st.sampled_from(["features", "actions", "samples"]),
    values=st.lists(st.binary(max_size=60) | st.none(), min_size=1),
)
def test_native_decoder_takes_no_random_bytes_that_the_codec_refuses(stream, values):
    check_block(job_of(stream), stream, values)


@pytest.mark.parametrize("stream", ["features", "actions", "samples"])
def test_native_decoder_finds_nearly_all_events_that_producers_send(stream):
    random, job = Random(1), job_of(stream, labels=TASKS[2] if stream == "samples" else TASKS[0])
    assert check_block(job, stream, [event_bytes(random, job, stream) for _ in range(3000)]) > 0.8


@pytest.mark.parametrize(
    "size", [*range(20), 31, 32, 64, 127, 128, 129, 239, 240, 241, 255, 256, 512, 1023, 1024, 5000]
)
def test_texts_of_every_length_have_the_hash_of_python(size):
    text = ("Zürich 0123456789 " * 400)[:size]
    event = FeatureEvent(text, "", START_MS, {"s": text, "n_must": 1, "x_must": 0.5})
    assert check_block(job_of("features"), "features", [encode(event)]) == 1.0
    assert draw(text, "") == xxhash.xxh3_64_intdigest(text.encode() + b"\0", 0x6D6F6E6F)


@pytest.mark.parametrize(
    "text", [b"\x80", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xed\xa0\x80", b"\xed\x9f\xbf", b"\xee\x80\x80",
             b"\xf0\x8f\xbf\xbf", b"\xf0\x90\x80\x80", b"\xf4\x8f\xbf\xbf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80",
             b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98", b"\xc2\xa0", b"\xdf\xbf", b"12345678\xc3\xa4", b"1234567\xc3\xa4"]
)  # fmt: skip
def test_texts_are_utf8_exactly_where_python_says_so(text):
    head = msgspec.msgpack.encode({"type": "action", "item_id": "i", "event_time_ms": START_MS, "action": "a"})
    data = b"\x85" + head[1:] + b"\xaarequest_id" + bytes([0xA0 | len(text)]) + text
    found = check_block(job_of("actions"), "actions", [data, encode(ActionEvent("r", "i", "a", START_MS))])
    assert found == 1.0


def test_decoder_with_a_decode_of_its_own_sees_each_record():
    class Counting(FeatureDecoder):
        def decode(self, record, stream):
            return super().decode(record, stream)

    assert FeatureDecoder(job_of("features")).block_decoder("features") is not None
    assert Counting(job_of("features")).block_decoder("features") is None


# --- steps ------------------------------------------------------------------------------------------------------------


def run(job: JobConfig) -> list:
    """Everything that comes of a run: its steps, what it keeps between them, and its dead letters."""
    memory.forget("letters")
    shown: list = []
    inlets = open_inlets(job)
    letters, cutter = DeadLetters("memory://letters"), SizeCutter(job, inlets)
    reader = StepReader(
        job,
        inlets,
        UnwrittenJournal(),
        letters,
        cutter=cutter,
        clock=lambda: 0.0,
        on_shown=lambda *one: shown.append(one),
    )
    seen: list = []
    with reader:
        try:
            while not seen or not seen[-1][0][-2]:
                step = reader.next(timeout_s=1.0)
                assert step is not None
                seen.append((told(step), reader.state()))
        except (ConfigError, RejectedError) as error:  # another unit from the beginning; too many refused
            seen.append(str(error))
        troubles = msgspec.structs.replace(reader.progress(), watermark_lag_ms=0)
    return [seen, shown, troubles, [record.value for record in open_source("memory://letters").poll(10**6, 0.0)]]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=SEEDS, agree=st.integers(1, 3), joined=st.booleans(), records=st.integers(1, 80))
def test_steps_states_and_letters_are_those_of_one_record_at_a_time(topics, monkeypatch, seed, agree, joined, records):
    random = Random(seed)
    names = ["samples"] if joined else ["features", "actions"]
    job = job_of(names[0], follow=False, jump_records=agree, max_jump_s=5.0, max_future_s=1e9)
    job = msgspec.structs.replace(
        job, train=msgspec.structs.replace(job.train, step_records=random.choice([3, 20, 200]))
    )
    for name in names:
        topic = topics(name, 2)
        for i in range(records):
            value = event_bytes(random, job, name)
            if random.random() < 0.9:  # times that go on, and jump now and then
                jump_ms = random.choice([0] * 20 + [4000, 9000, -9000])
                value = value.replace(struct.pack(">Q", START_MS), struct.pack(">Q", START_MS + 500 * i + jump_ms))
            topic.put(random.randrange(2), random.choice([None, b"k"]), value, 0, START_MS)
    expected = None
    for many in (10**9, 1):
        monkeypatch.setattr(lanes, "_MANY", many)
        found = run(job)
        expected = expected or found
        assert found == expected


def test_streams_of_which_labels_are_gathered_are_decoded_one_record_at_a_time():
    """Their rows begin with label blocks, and their actions carry values: a value that no task takes is passed over."""
    gathered = [TaskConfig(name="click", actions=["click"]), TaskConfig(name="price", loss="squared", value="buy")]
    for stream in ("features", "actions"):
        assert FeatureDecoder(job_of(stream, labels=gathered)).block_decoder(stream) is None
    plain = FeatureDecoder(job_of("actions"))
    action = {
        "type": "action",
        "v": 1,
        "request_id": "r",
        "item_id": "i",
        "event_time_ms": 1,
        "action": "a",
        "value": "x",
    }
    records = [Record(None, msgspec.msgpack.encode(action), 1, 1, 0, 0)]
    ((_, _, events),) = plain.block_decoder("actions").blocks(RecordBlock.of(records), None)
    assert len(events) == 1
    assert plain.decode(records[0], "actions").action == "a"
