"""What the tests train, on one process and on several: tables, global batches, and gradients that depend on no rank."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from monolith.config.optimizers import Slice
from monolith.config.table import FeatureRules
from monolith.tables import TableConfig, absent, admission, eviction, expiry, optimizers
from monolith.tables.batch import Bag
from monolith.training.embeddings import outputs_of

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Step:
    """One global batch: a bag for each output, and the times of its samples."""

    bags: list[Bag]
    times: Any  # None, an int, or (batch,) int64


@dataclass(frozen=True)
class Scenario:
    tables: list[TableConfig]
    steps: list[Step]
    options: dict[str, Any] = field(default_factory=dict)
    sweep: int = 0  # buckets after each step
    scale: float = 0.1  # of gradients

    @property
    def outputs(self) -> list[Any]:
        return outputs_of(self.tables)


def gradient(vectors: np.ndarray, step: int, first: int, scale: float = 0.1) -> np.ndarray:
    """Of samples ``first`` and on of a global batch: a function of each sample's vectors and its place alone."""
    sample = np.arange(first, first + len(vectors), dtype=np.float32)[:, None]
    column = np.arange(vectors.shape[1], dtype=np.float32)[None]
    return (vectors * np.float32(0.3) + np.float32(scale) * np.sin(sample * 7 + column + step)).astype(np.float32)


def borders(samples: int, ranks: int) -> list[int]:
    """Where each rank's samples begin, and where the last ones end; of unequal size, and one rank may have none."""
    weights = np.array([3, 1, 0, 2][:ranks] if ranks > 1 else [1])
    return [0, *np.floor(np.cumsum(weights) / weights.sum() * samples + 0.5).astype(int).tolist()]


def batches(
    tables: list[TableConfig], *, steps: int, samples: int, ids: int, seed: int, most: int = 4,
    weighted: bool = False, times: Callable[[int, np.random.Generator], Any] = lambda step, rng: None,
) -> list[Step]:  # fmt: skip
    rng = np.random.default_rng(seed)
    made = []
    for step in range(steps):
        bags = []
        for _ in outputs_of(tables):
            lengths = rng.integers(0, most + 1, samples).astype(np.int32) if most > 1 else np.ones(samples, np.int32)
            drawn = (rng.zipf(1.3, int(lengths.sum())) % ids).astype(np.int64)
            bags.append(Bag(drawn, lengths, rng.random(len(drawn)).astype(np.float32) if weighted else None))
        made.append(Step(bags, times(step, rng)))
    return made


def _times_of(samples: int) -> Callable[[int, np.random.Generator], Any]:
    return lambda step, rng: (step * DAY_MS // 2 + rng.integers(0, DAY_MS, samples)).astype(np.int64)


def _one_time(step: int, _: np.random.Generator) -> int:
    return 1_000 * (step + 1)


def _plain() -> list[TableConfig]:
    return [
        TableConfig(name="user", dim=4, optimizer=optimizers.Adagrad(lr=0.1)),
        TableConfig(name="item", dim=7, features=["item", "seen"], pooling="mean", optimizer=optimizers.Adam(lr=0.01)),
        TableConfig(
            name="word", dim=16, features=["title", "query"], shared_ids=True, optimizer=optimizers.SGD(lr=0.1)
        ),
    ]


def _ruled() -> list[TableConfig]:
    few = admission.MinCount(count=3, half_life_s=2 * 86_400.0, max_counters=2_048)
    return [
        TableConfig(name="counted", dim=4, admission=few),
        TableConfig(name="drawn", dim=4, admission=admission.Probability(p=0.4), expiry=expiry.Idle(ttl_s=86_400.0)),
        TableConfig(name="aged", dim=4, expiry=expiry.Idle(ttl_s=86_400.0, max_age_s=2 * 86_400.0)),
        TableConfig(
            name="own", dim=4, features=["one", "other"],
            per_feature={"other": FeatureRules(admission=admission.MinCount(count=2))},
            optimizer=optimizers.Momentum(lr=0.01),
        ),
        TableConfig(name="frozen", dim=4, admission=admission.Never()),
        TableConfig(name="half", dim=8, storage="bfloat16", optimizer=optimizers.RowWiseAdagrad(lr=0.1)),
        TableConfig(name="shared", dim=3, admission=few, absent=absent.HashedTail(rows=5), storage="bfloat16"),
        TableConfig(name="small", dim=4, optimizer=optimizers.SGD(lr=0.05), threshold=0.02, probation_s=86_400.0),
    ]  # fmt: skip


def _clipping() -> list[TableConfig]:
    clipped = optimizers.Adagrad(lr=0.1, clip_global_norm=0.5, clip_row_norm=2.0)
    return [
        TableConfig(name="whole", dim=5, features=["a", "b"], optimizer=clipped),
        TableConfig(
            name="tail", dim=3, features=["c", "d"], optimizer=clipped, admission=admission.MinCount(count=4),
            absent=absent.HashedTail(rows=1100, start_from_tail=False),
        ),
        TableConfig(
            name="sliced", dim=6,
            slices=[Slice(columns=2, optimizer=optimizers.SGD(lr=0.1, clip_global_norm=0.2)),
                    Slice(columns=3, optimizer=optimizers.Adagrad(lr=0.1)),
                    Slice(columns=1, optimizer=optimizers.SGD(lr=0.1, clip_global_norm=0.1))],
        ),
    ]  # fmt: skip


def _limited() -> list[TableConfig]:
    return [
        TableConfig(name="recent", dim=4, eviction=eviction.LRU(max_rows=400)),
        TableConfig(
            name="tail",
            dim=2,
            eviction=eviction.LRU(max_rows=200),
            admission=admission.MinCount(count=2),
            absent=absent.HashedTail(rows=40),
            optimizer=optimizers.Adam(lr=0.01),
        ),
        TableConfig(name="often", dim=4, eviction=eviction.LFU(max_rows=300), expiry=expiry.Idle(ttl_s=3 * 86_400.0)),
    ]


def scenarios() -> dict[str, Scenario]:
    """All of them, by name."""
    plain, ruled, clipping, limited = _plain(), _ruled(), _clipping(), _limited()
    many = batches(plain, steps=5, samples=96, ids=400, seed=1, times=_one_time)
    timed = batches(ruled, steps=8, samples=96, ids=900, seed=2, times=_times_of(96))
    clipped = batches(clipping, steps=4, samples=64, ids=200, seed=4, weighted=True)
    full = batches(limited, steps=10, samples=96, ids=5_000, seed=5, times=_times_of(96))
    single = batches(plain, steps=4, samples=96, ids=400, seed=6, most=1, weighted=True)
    return {
        "plain": Scenario(plain, many),
        "plain exact": Scenario(plain, many, {"exact": True}),
        "one id each": Scenario(plain, single, {"exact": True}),
        "rules": Scenario(ruled, timed, sweep=300),
        "rules exact": Scenario(ruled, timed, {"exact": True}, sweep=300),
        "clipping": Scenario(clipping, clipped),
        "clipping exact": Scenario(clipping, clipped, {"exact": True}),
        "limits": Scenario(limited, full, {"exact": True}),
        "half": Scenario(plain, many, {"exact": True, "wire": "bfloat16"}),
    }
