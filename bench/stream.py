"""Events to samples to training: what decoding, joining and columns cost beside the training itself.

    python bench/stream.py [--events N] [--repeats N] [--json PATH]

Decoding and joining: feature events of 30 integers in MessagePack, a fifth of them followed by an action, from blocks
of 4,096 records in memory to the columns of batches. Printed are events a second of CPU time, one thread, each stage
added in turn, and what decoding one record at a time in Python takes, as JSON and odd records still do.

Training: one model (26 tables of dim 16, DeepFM with an MLP of 416-128-64-1) on the same samples,

  ready    batches that lie in memory
  log      the features and actions of a log:// folder, decoded and joined as `monolith train` does
  parquet  rows of a Parquet file, which are samples already

in turn in this process, with the ratio to `ready` of neighbouring runs, least, median and most, in samples a second of
CPU time (all threads) and of wall time, at batches of 1,024 and of 16. Batches are cut within journal steps, which take
up to 16,384 records here (`train.step_records`), so that few batches are smaller than asked for. Floors: decoded and
joined 150,000 events/s; of `ready`, 0.6 (log) and 0.9 (parquet) of the CPU time at 1,024, 0.85 at 16.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from machine import machine

from monolith.config import InputConfig, JobConfig, JoinConfig, ModelConfig, TableConfig, TrainConfig
from monolith.config.optimizers import RowWiseAdagrad
from monolith.events import WATERMARK_END, ActionEvent, FeatureEvent, Record, Shown
from monolith.streaming.codec import FeatureDecoder, encode
from monolith.streaming.event_block import EventBlock
from monolith.streaming.joiner import Joiner
from monolith.streaming.record_block import RecordBlock
from monolith.streaming.source import open_sink
from monolith.streaming.steps import StepReader
from monolith.tables.batch import Batch, concatenated
from monolith.training.learner import Learner

START_MS = 1_700_000_000_000
ACTED = 0.2  # share of features that an action follows
BATCH = 1024
BLOCK = 4096  # records decoded at a time
STEP_RECORDS = 16_384
FLOORS = {  # share of the CPU time's samples that `ready` makes
    "batch 1024": {"log, cpu": 0.6, "parquet, cpu": 0.9},
    "batch 16": {"log, cpu": 0.85, "parquet, cpu": 0.85},
}


def job_of(columns: int, batch: int, **inputs: Any) -> JobConfig:
    """A job of ``columns`` integer features, each with a table of its own."""
    rule = RowWiseAdagrad(lr=0.05)
    return JobConfig(
        name="bench",
        input=InputConfig(follow=False, **inputs),
        tables=[TableConfig(name=f"f{k}", dim=17, optimizer=rule) for k in range(columns)],
        join=JoinConfig(window_s=5.0, dedup_s=5.0),
        model=ModelConfig(kind="deepfm", hidden=[128, 64]),
        train=TrainConfig(batch_size=batch, step_records=STEP_RECORDS),
    )


def events_of(count: int, features: int, seed: int = 0) -> tuple[list[FeatureEvent], list[ActionEvent]]:
    """Feature events a millisecond apart, and the actions of some of them two seconds later."""
    rng = np.random.default_rng(seed)
    ids = rng.zipf(1.2, (count, features)) % 100_000
    names = [f"f{k}" for k in range(features)]
    shown = [
        FeatureEvent(f"r{i}", f"i{i % 1000}", START_MS + i, dict(zip(names, row, strict=True)))
        for i, row in enumerate(ids.tolist())
    ]
    acted = rng.random(count) < ACTED
    actions = [
        ActionEvent(e.request_id, e.item_id, "click", e.event_time_ms + 2000)
        for e, hit in zip(shown, acted, strict=True)
        if hit
    ]
    return shown, actions


def joining(count: int) -> dict[str, float]:
    """Events a second of CPU time: decoded one by one; decoded in blocks; and joined; and made into columns too."""
    job = job_of(30, BATCH)
    shown, actions = events_of(count, 30)
    records = [
        [Record(None, encode(e), e.event_time_ms, e.event_time_ms, 0, i) for i, e in enumerate(events)]
        for events in (shown, actions)
    ]
    decoder = FeatureDecoder(job)
    joiner = Joiner(job.join, decoder.schema.head_bytes)
    total = len(shown) + len(actions)
    started = time.process_time()
    for name, of_stream in zip(("features", "actions"), records, strict=True):
        for record in of_stream:
            decoder.decode(record, name)
    one_by_one = total / (time.process_time() - started)
    blocks = [RecordBlock.of(of_stream) for of_stream in records]
    started = time.process_time()
    decoded = [event for stream in range(2) for event in _events(decoder, stream, blocks[stream])]
    at_decoded = time.process_time()
    samples = []
    for stream, events in sorted(decoded, key=lambda pair: int(pair[1].event_time_ms[0])):  # as the streams go on
        joiner.add_events(events, stream, events.event_time_ms)
        if stream == 0:
            samples.append(joiner.advance(int(events.event_time_ms[0])))
    samples.append(joiner.advance(WATERMARK_END))
    at_joined = time.process_time()
    for some in samples:
        some.batch(decoder.schema, "user")
    at_columns = time.process_time()
    return {
        "decoded one by one": one_by_one,
        "decoded": total / (at_decoded - started),
        "decoded, joined": total / (at_joined - started),
        "decoded, joined, columns": total / (at_columns - started),
    }


def _events(decoder: FeatureDecoder, stream: int, records: RecordBlock) -> Iterator[tuple[int, EventBlock]]:
    """The events of one stream, a block at a time, with the stream's number."""
    native = decoder.block_decoder("actions" if stream else "features")
    assert native is not None
    for first in range(0, len(records), BLOCK):
        block = records.rows(first, min(first + BLOCK, len(records)))
        for _, _, events in native.blocks(block, lambda record: decoder.decode(record, "features")):
            assert events is not None
            yield stream, events


def waiting(count: int) -> dict[str, float]:
    """Resident bytes of each of ``count`` waiting events of 30 integers, packed features and all, and to save them."""
    job = job_of(30, BATCH)
    decoder = FeatureDecoder(job)
    joiner = Joiner(msgspec.structs.replace(job.join, window_s=1e6, dedup_s=1e6), decoder.schema.head_bytes)
    shown, _ = events_of(1000, 30)
    row = decoder.schema.pack(shown[0].features)
    before = _resident_bytes()
    for i in range(count):
        event = Shown(f"r{i}", f"i{i % 1000}", START_MS + i, row)
        joiner.add(Record(None, None, event.event_time_ms, event.event_time_ms, 0, i), event, 0, event.event_time_ms)
        if i % 10_000 == 0:
            joiner.advance(START_MS + i)
    joiner.advance(START_MS + count)
    taken = (_resident_bytes() - before) / count
    started = time.perf_counter()
    joiner.state()
    return {"bytes": taken, "beside the packed features": taken - len(row), "save_s": time.perf_counter() - started}


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def write_streams(folder: Path, count: int) -> dict[str, Any]:
    """The same samples as two logs and as a Parquet file; the ``input`` of a job for each."""
    shown, actions = events_of(count, 26)
    for name, events in (("features", shown), ("actions", actions)):
        sink = open_sink(f"log://{folder / name}")
        for first in range(0, len(events), 4096):
            sink.append([(e.request_id.encode(), encode(e), e.event_time_ms) for e in events[first : first + 4096]])
        sink.close()
    acted = {e.request_id for e in actions}
    columns: dict[str, Any] = {name: [e.features[name] for e in shown] for name in shown[0].features}
    columns |= {"time": [e.event_time_ms for e in shown], "item": [e.item_id for e in shown]}
    columns["label"] = [float(e.request_id in acted) for e in shown]
    pq.write_table(pa.table(columns), folder / "samples.parquet")
    names = ",".join(shown[0].features)
    return {
        "log": {"features": f"log://{folder / 'features'}", "actions": f"log://{folder / 'actions'}"},
        "parquet": {"samples": f"parquet://{folder}/samples.parquet?time=time&item=item&label=label&features={names}"},
    }


def batches_of(job: JobConfig) -> Iterator[Batch]:
    """The batches of a job's streams, as a trainer takes them."""
    with tempfile.TemporaryDirectory() as journal, StepReader.open(job, Path(journal)) as reader:
        while (step := reader.next(timeout_s=1.0)) is not None:
            yield from step.batch.pieces(job.train.batch_size)
            if step.ended:
                return


def train(job: JobConfig, batches: Callable[[], Iterator[Batch]]) -> dict[str, float]:
    """Samples a second of CPU time and of wall time of one pass, the learner made beforehand."""
    learner, samples = Learner(job), 0
    cpu, wall = time.process_time(), time.perf_counter()
    for batch in batches():
        learner.step(batch)
        samples += len(batch)
    return {"cpu": samples / (time.process_time() - cpu), "wall": samples / (time.perf_counter() - wall)}


def training(inputs: dict[str, Any], batch: int, count: int, repeats: int) -> dict[str, Any]:
    """Rates of each way, and ratios to ``ready`` of neighbouring runs."""
    jobs = {way: job_of(26, batch, **given) for way, given in inputs.items()}
    whole = concatenated([*batches_of(jobs["log"])])[:count]
    ways: dict[str, Callable[[], Iterator[Batch]]] = {"ready": lambda: whole.pieces(batch)}
    for way, job in jobs.items():
        ways[way] = lambda job=job: _first(batches_of(job), count)
    runs: list[dict[str, dict[str, float]]] = []
    for turn in range(repeats):
        order = list(ways) if turn % 2 else list(ways)[::-1]
        runs.append({way: train(jobs["log"], ways[way]) for way in order})
    found: dict[str, Any] = {}
    for way in ways:
        for kind in ("cpu", "wall"):
            ratios = sorted(run[way][kind] / run["ready"][kind] for run in runs)
            rate = statistics.median(run[way][kind] for run in runs)
            found[f"{way}, {kind}"] = {
                "samples_per_s": rate,
                "ratios": [ratios[0], statistics.median(ratios), ratios[-1]],
            }
    return found


def _first(batches: Iterator[Batch], count: int) -> Iterator[Batch]:
    taken = 0
    for batch in batches:
        if taken >= count:
            return
        taken += len(batch)
        yield batch


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=100_000, help="feature events")
    parser.add_argument("--waiting", type=int, default=1_000_000, help="events that wait for their label")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    held = waiting(args.waiting)  # first, in memory that nothing used before
    report: dict[str, Any] = {
        "machine": machine(),
        "waiting": held,
        "joining": [joining(args.events) for _ in range(args.repeats)],
    }
    print(f"decode and join, 30 integer features, MessagePack, {args.events:,} features, events/s of CPU time")
    for stage in report["joining"][0]:
        rates = sorted(run[stage] for run in report["joining"])
        print(f"  {stage:<26}{statistics.median(rates):>12,.0f}   ({rates[0]:,.0f} to {rates[-1]:,.0f})")
    print(
        f"\n{args.waiting:,} waiting events: {held['bytes']:.0f} bytes each, {held['beside the packed features']:.0f}",
        end=" ",
    )
    print(f"beside their packed features; saving them takes {held['save_s']:.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        inputs = write_streams(Path(folder), args.events)
        for batch, count in ((BATCH, args.events), (16, min(args.events, 20_000))):
            report[f"batch {batch}"] = found = training(inputs, batch, count, args.repeats)
            print(f"\ntraining, 26 tables of dim 16, batches of {batch:,}, {count:,} samples")
            for way, of_way in found.items():
                least, middle, most = of_way["ratios"]
                rate = of_way["samples_per_s"]
                floor = FLOORS[f"batch {batch}"].get(way)
                wanted = f"   floor {floor:.2f}" if floor else ""
                print(
                    f"  {way:<16}{rate:>12,.0f} samples/s   {middle:.2f}x of ready ({least:.2f} to {most:.2f}){wanted}"
                )
    if args.json:
        args.json.write_bytes(msgspec.json.format(json.dumps(report).encode(), indent=1))


if __name__ == "__main__":
    main()
