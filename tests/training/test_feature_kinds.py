"""Every kind of feature from the job file to a served prediction: what the trainer scores, a replica predicts."""

from __future__ import annotations

import numpy as np
import pytest

from monolith.config import parse_job
from monolith.serving import Replica
from monolith.serving.publisher import Publisher
from monolith.serving.store import open_store
from monolith.tables.batch import Batch
from monolith.tables.schema import FeatureSchema, card_features
from monolith.training.learner import Learner

JOB = """
name: kinds
input: {samples: "memory://samples", unknown_features: ignore}
tables:
  - {name: user, dim: 5}
  - {name: deep, dim: 5, features: [user, city], shared_ids: false}
  - {name: tags, dim: 5, pooling: mean}
  - {name: age, dim: 5}
  - {name: vip, dim: 5}
  - {name: hour, dim: 5}
  - {name: weekday, dim: 5}
features:
  - {name: city, type: string, missing: own_row}
  - {name: tags, type: string, bag: true}
  - {name: age, type: float, boundaries: [18, 35, 60], default: 40}
  - {name: vip, type: bool}
  - {name: hour, type: hour, utc_offset_h: 1}
  - {name: weekday, type: weekday}
  - {name: price, type: float, transforms: [{kind: clip, min: 0}, {kind: log1p}, {kind: standardize, mean: 2, std: 3}]}
  - {name: image, type: float, width: 3}
  - {name: new, type: bool}
model: {kind: deepfm, hidden: [8]}
"""
SHOWN_MS = 1_764_250_000_000
SAMPLES = [
    {
        "user": 1,
        "city": "Bern",
        "tags": ["a", "b"],
        "age": 17,
        "vip": True,
        "price": 9.5,
        "image": [1, 2.5, -3],
        "new": True,
    },
    {"user": 2, "city": "Wien", "tags": {"a": 0.5, "c": 2}, "age": 61.5, "vip": False, "price": -4, "image": [0, 0, 1]},
    {"user": 1, "tags": [], "price": 1e6, "other": [{}]},
    {},
]


@pytest.fixture
def learner() -> Learner:
    learner = Learner(parse_job(JOB, "kinds.yaml"))
    for _ in range(5):
        learner.step(batch_of(learner))
    return learner


def batch_of(learner: Learner) -> Batch:
    schema = FeatureSchema(card_features(learner.job), ignore_unknown=True)
    n = len(SAMPLES)
    times_ms = np.full(n, SHOWN_MS)
    columns = schema.columns_of(SAMPLES, times_ms)
    return Batch(
        bags=columns.bags,
        dense=columns.dense,
        labels=np.array([[1], [0], [1], [0]], np.float32),
        rates=np.ones(n, np.float32),
        event_time_ms=times_ms,
        ingestion_time_ms=times_ms,
        groups=schema.groups(columns, "user", n),
        late=np.zeros(n, np.bool_),
    )


def test_a_replica_predicts_what_the_trainer_scores(learner, tmp_path):
    publisher = Publisher(open_store(f"lmdb://{tmp_path}/store", "kinds"))
    publisher.start(learner.card("run"), learner.export(tmp_path))
    sequence = learner.cut()
    moments = {"step": 5, "watermark_ms": SHOWN_MS, "ingested_ms": np.zeros(0, np.int64), "digest": ""}
    publisher.publish(sequence, lambda since: learner.delta(since, sequence=sequence, **moments))
    publisher.close()
    expected = learner.score(batch_of(learner))
    replica = Replica.open(f"lmdb://{tmp_path}/store", model="kinds")
    try:
        served = replica.predict(SAMPLES, SHOWN_MS).probabilities
        np.testing.assert_allclose(served, expected, rtol=1e-5)
        six_hours_later = replica.predict(SAMPLES, SHOWN_MS + 6 * 3_600_000).probabilities
        assert not np.allclose(served, six_hours_later, rtol=1e-5)
        assert replica.lookup("user@deep", [1]).tolist() != replica.lookup("user@user", [1]).tolist()
        assert replica.lookup("city", ["Bern"]).any()
        assert replica.lookup("vip", [True]).any()
        assert replica.lookup("hour", [int(batch_of(learner).bags["hour"].ids[0])]).any()
    finally:
        replica.close()


def test_every_feature_moves_the_score(learner):
    whole = dict(SAMPLES[0])
    schema = FeatureSchema(card_features(learner.job), ignore_unknown=True)

    def score(sample: dict) -> float:
        columns = schema.columns_of([sample], np.array([SHOWN_MS]))
        one = np.zeros(1, np.float32)
        stamp = np.array([SHOWN_MS])
        batch = Batch(columns.bags, columns.dense, one[:, None], one + 1, stamp, stamp, stamp, np.zeros(1, np.bool_))
        return float(learner.score(batch)[0])

    for name in whole:
        assert score({k: v for k, v in whole.items() if k != name}) != score(whole), name
