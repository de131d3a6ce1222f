"""A table and its model, moved together: each operation runs on both, and what it gives is compared."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import numpy as np
import pytest
from table_model import LEAST_TOMBSTONES, Features, Model, Row, Times

from monolith.errors import GapError
from monolith.tables import Table, TableConfig, TableFile
from monolith.tables.buckets import ALL_BUCKETS, Buckets
from monolith.tables.delta import Delta, joined
from monolith.tables.feature_runs import FeatureRuns
from monolith.tables.policy_options import keeps_age, keeps_uses

EventTimes = int | Sequence[int] | None  # one for all, one each, or the clock


class Pair:
    """Also holds a replica, which follows by deltas alone."""

    def __init__(self, config: TableConfig) -> None:
        self.table, self.model = Table(config, tombstones=LEAST_TOMBSTONES), Model(config)
        self.replica = Table(TableConfig(name="replica", dim=config.dim, absent=config.absent))

    # --- training ---

    def observe(self, ids: Sequence[int], times: EventTimes, feature: FeatureRuns = None) -> None:
        self.table.observe(_array(ids), event_time_ms=_given(times), feature=feature)
        self.model.observe(ids, _each(times, len(ids)), _features(feature, len(ids)))

    def lookup(self, ids: Sequence[int]) -> None:
        assert self.table.lookup(_array(ids)).tobytes() == self.model.values(ids)

    def apply_gradients(self, ids: Sequence[int], grads: np.ndarray, times: EventTimes) -> None:
        self.table.apply_gradients(_array(ids), grads, event_time_ms=_given(times))
        self.model.apply_gradients(ids, grads, _each(times, len(ids)))

    def step(self, ids: Sequence[int], grads: np.ndarray, times: EventTimes, feature: FeatureRuns = None) -> None:
        """The three in one."""
        step = self.table.step(_array(ids), event_time_ms=_given(times), feature=feature)
        self.model.observe(ids, _each(times, len(ids)), _features(feature, len(ids)))
        assert step.values.tobytes() == self.model.values(ids)
        step.apply_gradients(grads)
        self.model.apply_gradients(ids, grads, [None] * len(ids))

    def advance(self, t: int) -> None:
        self.table.advance(t)
        self.model.advance(t)

    def sweep(self, buckets: int, max_rows: int) -> None:
        assert self.table.sweep(buckets, max_rows=max_rows) == self.model.sweep(buckets, max_rows)

    # --- publishing ---

    def cut(self) -> None:
        assert self.table.cut() == self.model.cut()

    def delta(self, since: int) -> None:
        if 0 < since < self.model.floor:
            with pytest.raises(GapError):
                self.table.delta(since)
            return
        delta = self.table.delta(since)
        ids, removed = self.model.delta(since)
        assert (delta.ids.tolist(), delta.removed.tolist()) == (ids, removed)
        assert delta.values.tobytes() == b"".join(self.model.rows[i].values.tobytes() for i in ids)
        numbers = self.model.tail_after(since)
        assert (delta.tail is not None) == bool(self.model.tail)
        if delta.tail is not None:
            assert delta.tail.ids.tolist() == numbers
            assert delta.tail.values.tobytes() == self.model.tail_values(numbers)

    def follow(self, whole: bool, skipped: int) -> None:
        """The replica takes an image, the next delta, or one that is too new; it always ends at the same rows."""
        self.cut()
        held = self.replica.sequence - 1
        since = 0 if whole or held < self.model.floor else min(held + skipped, self.model.sequence - 1)
        if since > held:
            with pytest.raises(GapError):
                self.replica.apply(self.table.delta(since))
            since = held
        self.replica.apply(self.table.delta(since))
        ids, values = self.replica.rows()
        assert ids.tolist() == sorted(self.model.rows)
        assert values.tobytes() == b"".join(self.model.rows[i].values.tobytes() for i in sorted(self.model.rows))
        assert self.replica.tail().tobytes() == self.model.tail_values(range(len(self.model.tail)))

    def save_and_open(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            before = self.table.save(folder).read_bytes()
            self.table = Table.open(folder, tombstones=LEAST_TOMBSTONES)
            assert self.table.save(folder).read_bytes() == before

    def divide(self, divisions: Sequence[Sequence[Buckets]]) -> None:
        """The table goes from each division of its buckets to the next, and comes back whole, bit for bit."""
        with tempfile.TemporaryDirectory() as folder:
            folders = [f"{folder}/whole"]
            before = self.table.save(folders[0]).read_bytes()
            for number, division in enumerate([*divisions, [ALL_BUCKETS]]):
                parts = [Table.open(folders, buckets=part, tombstones=LEAST_TOMBSTONES) for part in division]
                assert sum(len(part) for part in parts) == len(self.table)
                folders = [f"{folder}/{number}.{place}" for place in range(len(parts))]
                for part, to in zip(parts, folders, strict=True):
                    part.save(to)
            self.table = parts[0]
            assert self.table.save(folder).read_bytes() == before

    def delta_of_parts(self, since: int, division: Sequence[Buckets]) -> None:
        """Those of some buckets each are together the one of all."""
        if 0 < since < self.model.floor:
            return
        whole = self.table.delta(since)
        both = joined([self.table.delta(since, buckets=part) for part in reversed(division)])
        assert same_delta(both, whole)

    # --- what must hold after any of them ---

    def check(self, ids: Sequence[int]) -> None:
        """Quickly: what a caller can see, ``ids`` being all there are."""
        table, model = self.table, self.model
        self.lookup(ids)
        assert table.rows()[0].tolist() == sorted(i for i in model.rows if model.live(i))
        assert (table.clock_ms, table.sequence) == (model.clock, model.sequence)
        stats = table.stats()
        held = (len(model.rows), len(model.counters), len(model.tombstones))
        assert (stats.rows, stats.counters, stats.tombstones) == held
        assert stats.tail_rows == len(model.tail)
        assert {name: getattr(stats, name) for name in model.happened} == model.happened

    def check_all(self) -> None:
        """Every bit of the state, by way of the table's file."""
        model = self.model
        with tempfile.TemporaryDirectory() as folder:
            self.table.save(folder)
            with TableFile(folder) as file:
                rows, counters, tombstones = _state(file, model.config)
                tail = _tail_state(file, model.config)
                header = file.header
        assert rows == {
            i: (row.values.tobytes(), row.state.tobytes(), row.last_seen, row.mark, *self.kept(row))
            for i, row in model.rows.items()
        }
        assert counters == {i: tuple(counter) for i, counter in model.counters.items()}
        assert tombstones == model.tombstones
        assert tail == [(row.values.tobytes(), row.state.tobytes(), row.mark) for row in model.tail]
        assert header.eviction_cursor == model.eviction_cursor
        floor = header.sequence if header.open_forgotten else header.floor
        cursor = (header.sweep_cursor << 22) + header.sweep_offset
        clockwork = (header.sequence, floor, header.clock_ms, cursor, header.steps)
        assert clockwork == (model.sequence, model.floor, model.clock, model.cursor, model.steps)
        assert {name: header.statistics[name] for name in model.happened} == model.happened

    def kept(self, row: Row) -> tuple[object, ...]:
        """What the file has of a row where a rule needs it."""
        kept = (row.admitted, row.uses, row.feature)
        return tuple(value for value, has in zip(kept, _kept(self.model.config), strict=True) if has)


def same_delta(one: Delta | None, other: Delta | None) -> bool:
    if one is None or other is None:
        return one is other
    arrays = [(delta.ids.tobytes(), delta.values.tobytes(), delta.removed.tobytes()) for delta in (one, other)]
    said = [(delta.base_sequence, delta.sequence, delta.buckets) for delta in (one, other)]
    return arrays[0] == arrays[1] and said[0] == said[1] and same_delta(one.tail, other.tail)


def _kept(config: TableConfig) -> tuple[bool, bool, bool]:
    return keeps_age(config), keeps_uses(config), bool(config.per_feature)


def _state(file: TableFile, config: TableConfig) -> tuple[dict, dict, dict]:
    rows, counters, tombstones = {}, {}, {}
    names = np.array([None, *config.feature_names()], object)
    for number in range(1024):
        part = file.bucket(number)
        ids = part["ids"].tolist()
        values, state = (part[name].reshape(len(ids), -1) for name in ("values", "state")) if ids else ((), ())
        for i, v, s, t, mark in zip(
            ids, values, state, part["last_seen_ms"].tolist(), part["marks"].tolist(), strict=True
        ):
            rows[i] = (v.tobytes(), s.tobytes(), t, mark)
        more = [part[name].tolist() for name in ("admitted_ms", "uses") if part[name].size]
        more += [names[part["policies"]].tolist()] if part["policies"].size else []
        for i, *values in zip(ids, *more, strict=True):
            rows[i] += tuple(values)
        counted = zip(part["counts"].tolist(), part["counter_last_ms"].tolist(), strict=True)
        whose = names[part["counter_policies"]].tolist() or [None] * len(part["counts"])
        counters.update(zip(zip(whose, part["counter_ids"].tolist(), strict=True), counted, strict=True))
        tombstones.update(zip(part["tombstone_ids"].tolist(), part["tombstone_marks"].tolist(), strict=True))
    return rows, counters, tombstones


def _tail_state(file: TableFile, config: TableConfig) -> list[tuple[bytes, bytes, int]]:
    rows = {}
    for number in range(min(1024, config.tail_rows)):
        part = file.bucket(number)
        marks = part["tail_marks"].tolist()
        values, state = (part[name].reshape(len(marks), -1) for name in ("tail_values", "tail_state"))
        for i, (v, s, mark) in enumerate(zip(values, state, marks, strict=True)):
            rows[number + 1024 * i] = (v.tobytes(), s.tobytes(), mark)
    return [rows[number] for number in sorted(rows)]


def _array(ids: Sequence[int]) -> np.ndarray:
    return np.array(ids, np.int64)


def _given(times: EventTimes) -> int | np.ndarray | None:
    return times if times is None or isinstance(times, int) else np.array(times, np.int64)


def _features(feature: FeatureRuns, n: int) -> Features:
    parts = [(feature, n)] if feature is None or isinstance(feature, str) else feature
    return [name for name, count in parts for _ in range(count)]


def _each(times: EventTimes, n: int) -> Times:
    return [times] * n if times is None or isinstance(times, int) else times
