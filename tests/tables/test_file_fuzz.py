"""Table files that nobody wrote: whatever the bytes, they open as exactly what they say, or are refused by name.

Files are taken apart, changed where it hurts (sizes, order, ids, marks, the header), and put together again with right
checksums, so that what lies behind the checksums is reached; others are damaged as a disk would. A short slice runs
always. ``make fuzz`` goes on for FUZZ_SECONDS from FUZZ_SEED; the file at hand is build/fuzz/table.bin, also after a
crash. A case is a function of the seed and its number.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from monolith.errors import ConfigError, CorruptError
from monolith.tables import Table, TableConfig, admission, expiry, optimizers
from monolith.tables.header import Header, decode_former_header, decode_header
from monolith.tables.settings import config_of, settings_of

SECONDS = float(os.environ.get("MONOLITH_FUZZ_SECONDS", "0"))  # 0: the short slice
SEED = os.environ.get("MONOLITH_FUZZ_SEED", "0")
SLICE = 300  # cases
HUNG_S = 60  # a case takes a few ms
MOST_BYTES = 64 * 2**20  # that opening a file of 100 KB may take, whatever it says of itself

GOLDEN = Path(__file__).parent.parent / "golden"
FORMER = ("table.v1.bin", "table.v2.bin", "table.v2.bfloat16.bin")
INTEGERS = [0, 1, -1, 2, 7, 1023, 1024, 65_537, 2**31, 2**32 - 1, 2**32, 2**63 - 1, -(2**63), 2**64, 10**30]
VALUES = [*INTEGERS, None, True, "", "x", 0.5, -0.0, 1e308, [], [3], {}, {"kind": "always"}, {"kind": "sgd"}]


Parts = Any  # of conftest


# --- changes behind the checksums -------------------------------------------------------------------------------------


def filled(rng: random.Random, parts: Parts) -> int:
    """A bucket that holds something, if there is one."""
    return rng.choice([n for n, bucket in enumerate(parts.buckets) if bucket] or [0])


def header_value(rng: random.Random, parts: Parts) -> None:
    """One value anywhere in the header becomes another, goes, or gets a neighbour nobody knows."""
    header = json.loads(parts.header)
    at = header
    while inner := [value for value in (at.values() if isinstance(at, dict) else at) if isinstance(value, dict)]:
        if rng.random() < 0.4:
            break
        at = rng.choice(inner)
    key = rng.choice(sorted(at) or ["x"])
    if rng.random() < 0.15:
        at.pop(key, None)
    else:
        at["unknown" if rng.random() < 0.05 else key] = rng.choice(VALUES)
    parts.header = json.dumps(header).encode()


def header_count(rng: random.Random, parts: Parts) -> None:
    """A number that everything else hangs on."""
    header = json.loads(parts.header)
    key = rng.choice(["sequence", "floor", "clock_ms", "sweep_cursor", "steps", "state_floats", "dim", "max_counters"])
    rows, settings = (header.get(either, header.get("config")) for either in ("rows", "settings"))
    at = {"dim": rng.choice([rows, settings]), "max_counters": settings["admission"]}.get(key, header)
    if key == "state_floats":
        at = header.get("rows", header)
    at[key] = rng.choice([*INTEGERS, int(at.get(key, 0)) + rng.choice([-1, 1, 4])])
    parts.header = json.dumps(header).encode()


def header_bytes(rng: random.Random, parts: Parts) -> None:
    parts.header = flipped(rng, parts.header)


def other_version(rng: random.Random, parts: Parts) -> None:
    parts.version = rng.choice([1, 2, *INTEGERS])


def lying_counts(rng: random.Random, parts: Parts) -> None:
    """The directory claims more, or less, than there is."""
    parts.counts[rng.randrange(1024)][rng.randrange(3)] = rng.choice([1, 2, 3, 1000, 2**31, 2**32 - 1])


def moved_counts(rng: random.Random, parts: Parts) -> None:
    """Counters become tombstones and the like: the length may still be right."""
    counts = parts.counts[filled(rng, parts)]
    rng.shuffle(counts)


def copied_bucket(rng: random.Random, parts: Parts) -> None:
    """A bucket is there twice."""
    a, b = filled(rng, parts), rng.randrange(1024)
    parts.counts[b], parts.buckets[b] = list(parts.counts[a]), parts.buckets[a]


def swapped_buckets(rng: random.Random, parts: Parts) -> None:
    a, b = filled(rng, parts), filled(rng, parts)
    for each in (parts.counts, parts.buckets):
        each[a], each[b] = each[b], each[a]


def shuffled_buckets(rng: random.Random, parts: Parts) -> None:
    order = rng.sample(range(1024), 1024)
    parts.counts, parts.buckets = [parts.counts[n] for n in order], [parts.buckets[n] for n in order]


def removed_bucket(rng: random.Random, parts: Parts) -> None:
    """What is left is a table too, of fewer rows."""
    number = filled(rng, parts)
    parts.counts[number], parts.buckets[number] = [0, 0, 0], b""


def shorter_bucket(rng: random.Random, parts: Parts) -> None:
    number = filled(rng, parts)
    parts.buckets[number] = parts.buckets[number][: -rng.randint(1, 9)]


def bucket_bytes(rng: random.Random, parts: Parts) -> None:
    number = filled(rng, parts)
    parts.buckets[number] = flipped(rng, parts.buckets[number])


def repeated_id(rng: random.Random, parts: Parts) -> None:
    """An id twice in a list, or in two lists that exclude each other."""
    number = filled(rng, parts)
    names = ["ids", "counters", "tombstones"]
    parts.put(number, rng.choice(names), rng.randrange(9), parts.get(number, rng.choice(names), rng.randrange(9)))


def odd_mark(rng: random.Random, parts: Parts) -> None:
    """A sequence or a count that cannot be: 0 is the native core's empty entry."""
    number, name = filled(rng, parts), rng.choice(["marks", "counts", "tombstone_marks"])
    parts.put(number, name, rng.randrange(9), rng.choice([0, 1, 2, 3, 4, 5, 2**31, 2**32 - 1]))


def odd_time(rng: random.Random, parts: Parts) -> None:
    """Any time is one, also the ends of the range."""
    number, name = filled(rng, parts), rng.choice(["last", "counter_last"])
    parts.put(number, name, rng.randrange(9), rng.choice(INTEGERS))


BEHIND: list[Callable[[random.Random, Parts], None]] = [
    header_value,
    header_count,
    header_bytes,
    other_version,
    lying_counts,
    moved_counts,
    copied_bucket,
    swapped_buckets,
    shuffled_buckets,
    removed_bucket,
    shorter_bucket,
    bucket_bytes,
    repeated_id,
    odd_mark,
    odd_time,
]

# --- damage that the checksums must find ------------------------------------------------------------------------------


def flipped(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8]) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def truncated(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.choice([rng.randrange(len(data)), rng.randrange(64), len(data) - 1])]


def overwritten(rng: random.Random, data: bytes) -> bytes:
    size = rng.choice([1, 4, 24, 512])
    at = rng.randrange(len(data))
    return data[:at] + rng.choice([bytes(size), b"\xff" * size, rng.randbytes(size)]) + data[at + size :]


def cut_out(rng: random.Random, data: bytes) -> bytes:
    at, size = rng.randrange(len(data)), rng.choice([1, 24, 4096])
    return data[:at] + data[at + size :]


def longer(rng: random.Random, data: bytes) -> bytes:
    return data + rng.randbytes(rng.choice([1, 24, 4096]))


DAMAGE = [flipped, truncated, overwritten, cut_out, longer]

# --- what must hold ---------------------------------------------------------------------------------------------------


def case(number: int, originals: list[bytes], parts_of: Any) -> tuple[str, bytes, bytes]:
    """What is done, the bytes that come of it, and those before that had right checksums."""
    rng = random.Random(f"{SEED}/{number}")
    data = rng.choice(originals)
    if rng.random() < 0.8:
        parts, changes = parts_of(data), rng.choices(BEHIND, k=rng.choice([1, 1, 1, 2, 3]))
        for change in changes:
            with suppress(ValueError, TypeError, KeyError, AttributeError):  # an earlier one left it nothing to change
                change(rng, parts)
        return f"{SEED}/{number}: {', '.join(change.__name__ for change in changes)}", parts.sealed(), b""
    damage = rng.choice(DAMAGE)
    return f"{SEED}/{number}: {damage.__name__}", damage(rng, data), data


def check(folder: Path, data: bytes, undamaged: bytes, parts_of: Any) -> str:
    """Open ``data``; returns "opened" or the kind of refusal. Fails for anything else."""
    path = folder / "table.bin"
    path.write_bytes(data)
    table, refusal = opened(folder)
    if table is None:
        assert str(path) in str(refusal), f"does not name the file: {refusal}"
        assert len(str(refusal)) > len(str(path)) + 10, f"does not name the place: {refusal}"
        return type(refusal).__name__
    assert not undamaged or data == undamaged, "damage passed for a table"
    saved = table.save(folder / "again").read_bytes()
    assert content(parts_of(saved)) == content(parts_of(data)), "the table is not what the file says"
    return "opened"


def opened(folder: Path) -> tuple[Table | None, Exception | None]:
    try:
        return Table.open(folder), None
    except (CorruptError, ConfigError) as refusal:
        return None, refusal


def content(parts: Parts) -> tuple[Header, list[tuple[list[int], bytes]]]:
    """What a file says, in one form for all ways to say it."""
    decode = decode_header if parts.version >= 4 else lambda data: decode_former_header(data).now()
    header = decode(parts.header)
    happened = {name: count for name, count in header.statistics.items() if count and name != "counter_halvings"}
    if "expired" in happened:  # of earlier versions
        happened["expired_idle"] = happened.get("expired_idle", 0) + happened.pop("expired")
    config = config_of(header.settings, header.defaulted)
    counts = isinstance(config.admission, admission.MinCount | admission.Probability)
    buckets = [(list(c), normal(header, c, b, counts)) for c, b in zip(parts.counts, parts.buckets, strict=True)]
    if not counts:  # a rule that does not count has no use for counters
        buckets = [([c[0], 0, c[2]], b) for c, b in buckets]
    settings, defaulted = settings_of(config)
    return msgspec.structs.replace(header, statistics=happened, settings=settings, defaulted=defaulted), buckets


def normal(header: Header, counts: list[int], bucket: bytes, counting: bool) -> bytes:
    """A bucket's bytes without counters that nobody reads, every NaN of 16 bits being the same."""
    rows, counters, tombstones = counts
    config = header.rows
    width = 4 if config.storage == "float32" else 2
    kinds = [("ids", 8, rows), ("last", 8, rows), ("c", 8, counters), ("cl", 8, counters), ("t", 8, tombstones)]
    kinds += [("m", 4, rows), ("cc", 4, counters), ("tm", 4, tombstones), ("v", width, rows * config.dim)]
    at, out = 0, []
    for name, size, length in kinds:
        part, at = bucket[at : at + size * length], at + size * length
        if name == "v" and width == 2:
            least = 0x7F80 if config.storage == "bfloat16" else 0x7C00
            half = np.frombuffer(part, "<u2")
            part = np.where((half & 0x7FFF) > least, 0x7FFF, half).astype("<u2").tobytes()
        if counting or not name.startswith("c"):
            out.append(part)
    return b"".join([*out, bucket[at:]])


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The golden files of each version, and tables under other rules."""
    files = [(GOLDEN / name).read_bytes() for name in FORMER]
    rules: list[dict[str, Any]] = [
        {"dim": 1},
        {"dim": 3, "optimizer": optimizers.RowWiseAdagrad(), "storage": "float16", "expiry": expiry.Idle(ttl_s=1)},
        {"dim": 2, "optimizer": optimizers.FTRL(), "admission": admission.Probability(0.3, max_counters=3000)},
    ]
    for rule in rules:
        table, rng = Table(TableConfig(name="t", **rule)), np.random.default_rng(3)
        for step in range(4):
            ids = rng.integers(-50, 50, 60)
            table.observe(ids, event_time_ms=step * 800)
            table.apply_gradients(ids, rng.standard_normal((60, table.dim)).astype(np.float32))
            table.sweep()
            table.cut()
        files.append(table.save(tmp_path_factory.mktemp("original")).read_bytes())
    return files


def test_any_bytes_open_as_what_they_say_or_are_refused_by_name(originals, parts_of, tmp_path):
    held = Table(TableConfig(name="t", dim=2))
    held.observe(np.arange(100))
    before = held.save(tmp_path / "held").read_bytes()
    for data in originals:
        assert check(tmp_path, data, data, parts_of) == "opened"
    outcomes: dict[str, int] = {}
    for number in numbers():
        what, data, undamaged = case(number, originals, parts_of)
        try:
            outcome = watched(lambda: check(place(tmp_path), data, undamaged, parts_of))  # noqa: B023
        except Exception as error:
            raise AssertionError(f"case {what}, file kept in {place(tmp_path)}: {error!r}") from error
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    print("outcomes", outcomes, file=sys.stderr)
    assert {"opened", "CorruptError", "VersionError"} <= set(outcomes)
    assert held.save(tmp_path / "held").read_bytes() == before


def numbers() -> Iterator[int]:
    """Of the cases to run: the slice, or as many as there is time for."""
    if not SECONDS:
        yield from range(SLICE)
        return
    end, number, due = time.monotonic() + SECONDS, 0, 0.0
    while time.monotonic() < end:
        if time.monotonic() >= due:
            print(f"fuzz seed={SEED} case={number:,} left={end - time.monotonic():.0f}s", file=sys.stderr, flush=True)
            due = time.monotonic() + 10
        yield number
        number += 1
    print(f"fuzz seed={SEED} {number:,} cases", file=sys.stderr)


def place(tmp_path: Path) -> Path:
    folder = Path("build/fuzz") if SECONDS else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def watched(run: Callable[[], str]) -> str:
    """``run`` neither hangs (the process ends with a traceback if it does) nor takes a lot of memory."""
    before = peak_bytes()
    if SECONDS:  # pytest watches the slice
        faulthandler.dump_traceback_later(HUNG_S, exit=True, file=sys.__stderr__)
    try:
        return run()
    finally:
        faulthandler.cancel_dump_traceback_later()
        assert peak_bytes() - before < MOST_BYTES, f"took {(peak_bytes() - before) >> 20} MiB"


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
