"""Ranks that are threads: they end where processes end, and what they send is what the cost model says."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))

import simulate_ranks

from monolith.tables import Table, TableConfig, optimizers
from monolith.tables.batch import Bag
from monolith.tables.collection import Output
from monolith.training.sharding import ShardedCollection
from monolith.training.sharding.simulated import SimulatedTransport, run_ranks

SMALL = ["--batch", "64", "--features", "3", "--dim", "4", "--rows", "300", "--steps", "3", "--hot", "3,30,900"]


@pytest.mark.parametrize("options", [[], ["--ids", "uniform"], ["--exact"], ["--wire", "bfloat16", "--exact"]])
@pytest.mark.parametrize("ranks", [1, 2, 5, 64])
def test_what_ranks_send_is_what_the_cost_model_says(ranks: int, options: list[str]) -> None:
    told = simulate_ranks.measured(simulate_ranks.parsed([*SMALL, *options]), ranks)
    assert told["as_modelled"]
    assert (told["id_bytes"] > 0) == (told["vector_bytes"] > 0) == (ranks > 1)
    assert told["hot"][3] <= told["hot"][30] <= told["hot"][900] == (1.0 if ranks > 1 else 0.0)
    assert all(told[f"{name}_skew"] >= 1.0 for name in ("sent", "asked", "occurrences", "rows"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ranks", "0"], "--ranks: saw '0'; allowed: 1 or more"),
        (["--ranks", "2,x"], "--ranks: saw 'x'; allowed: 1 or more"),
        (["--ranks", "2,2000"], "--ranks: saw 2000; allowed: 1 to 1024, the buckets of a table"),
        (["--batch", "-1"], "--batch: saw '-1'; allowed: 1 or more"),
        (["--exponent", "0"], "--exponent: saw '0'; allowed: a number above 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused_in_a_sentence(words: list[str], said: str, capsys) -> None:
    with pytest.raises(SystemExit):
        simulate_ranks.parsed(words)
    assert said in capsys.readouterr().err


def test_a_model_that_is_off_by_one_id_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right = simulate_ranks.Pairs.__init__

    def wrong(self: Any, *arguments: Any) -> None:
        right(self, *arguments)
        self.ids[0, 1] += 1

    monkeypatch.setattr(simulate_ranks.Pairs, "__init__", wrong)
    assert not simulate_ranks.measured(simulate_ranks.parsed(SMALL), 2)["as_modelled"]


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_exact_rows_of_ranks_that_are_threads_are_one_process_s(ranks: int) -> None:
    configs = [TableConfig(name=name, dim=4, optimizer=optimizers.Adagrad(lr=0.1)) for name in ("a", "b")]
    rng = np.random.default_rng(7)
    batches = rng.integers(0, 60, (3, 2, 48))

    def work(transport: SimulatedTransport) -> dict[str, dict[int, bytes]]:
        collection = ShardedCollection(configs, [Output(n, n, n) for n in ("a", "b")], transport, exact=True)
        start, stop = (48 * k // transport.ranks for k in (transport.rank, transport.rank + 1))
        for ids in batches:
            step = collection.forward([Bag(each[start:stop], np.ones(stop - start, np.int32)) for each in ids])
            step.apply_matrix(np.sin(np.arange(start * 8, stop * 8, dtype=np.float32)).reshape(-1, 8))
        return {name: rows_of(tables) for name, tables in collection.tables.items()}

    def whole(told: list[dict[str, dict[int, bytes]]], name: str) -> dict[int, bytes]:
        assert sum(len(each[name]) for each in told) == len(np.unique(batches[:, "ab".index(name)]))
        return {own_id: row for each in told for own_id, row in each[name].items()}

    one, many = run_ranks(1, work), run_ranks(ranks, work)
    assert all(whole(one, name) == whole(many, name) for name in ("a", "b"))


def rows_of(tables: list[Table]) -> dict[int, bytes]:
    found = {}
    for table in tables:
        here = np.arange(60)[table.contains(np.arange(60))]
        found |= {int(own_id): row.tobytes() for own_id, row in zip(here, table.lookup(here), strict=True)}
    return found


def test_the_error_of_a_rank_ends_the_others_and_is_raised() -> None:
    def work(transport: SimulatedTransport) -> None:
        if transport.rank == 1:
            raise RuntimeError("lost")
        transport.gather(np.zeros(1, np.int64))

    with pytest.raises(RuntimeError, match="lost"):
        run_ranks(3, work)
    with pytest.raises(threading.BrokenBarrierError):
        run_ranks(2, lambda transport: transport._meeting.leave() or transport.objects(None))
