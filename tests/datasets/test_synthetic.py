from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from monolith.datasets.synthetic import CHUNK, SyntheticConfig, SyntheticStream

SMALL = SyntheticConfig(users=100, items=50)


def test_the_same_seed_gives_the_same_stream_and_another_seed_another():
    def first(seed: int):
        return list(SyntheticStream(SyntheticConfig(seed=seed)).impressions(CHUNK + 7))

    assert first(3) == first(3)
    assert first(3) != first(4)


def test_a_longer_stream_begins_with_the_shorter_one():
    stream = SyntheticStream(SMALL)
    assert list(stream.impressions(700)) == list(itertools.islice(stream.impressions(), 700))


def test_times_never_go_back_and_actions_follow_their_impressions():
    impressions = list(SyntheticStream(SMALL).impressions(3000))
    shown = [i.feature.event_time_ms for i in impressions]
    assert shown == sorted(shown)
    delays = [i.action.event_time_ms - i.feature.event_time_ms for i in impressions if i.action]
    assert min(delays) >= 0
    assert np.mean(delays) == pytest.approx(SMALL.delay_s * 1000, rel=0.15)


def test_labels_follow_the_probabilities():
    impressions = list(SyntheticStream(SMALL).impressions(20_000))
    chances = np.array([i.probability for i in impressions])
    acted = np.array([i.action is not None for i in impressions])
    for low, high in itertools.pairwise([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]):
        bucket = (chances >= low) & (chances < high)
        error = (chances[bucket] * (1 - chances[bucket])).mean() / bucket.sum()
        assert abs(acted[bucket].mean() - chances[bucket].mean()) < 4 * np.sqrt(error)


def test_ids_follow_zipf_and_are_born_and_die():
    impressions = list(SyntheticStream(SyntheticConfig()).impressions(40_000))
    users = np.array([i.feature.features["user"] for i in impressions])
    counts = np.sort(np.unique(users, return_counts=True)[1])[::-1]
    assert counts[:20].sum() > 0.2 * len(users)
    early, late = set(users[:10_000]), set(users[-10_000:])
    assert late - set(range(1, SyntheticConfig().users + 1))
    assert len(early - late) > 100


def test_an_id_never_comes_back_in_another_group():
    groups: dict[int, int] = {}
    for impression in SyntheticStream(SyntheticConfig(users=50, user_life_s=86_400.0)).impressions(20_000):
        user, segment = impression.feature.features["user"], impression.feature.features["segment"]
        assert groups.setdefault(user, segment) == segment
    assert len(groups) > 200


def test_tastes_drift():
    config = SyntheticConfig(users=1, items=1, user_life_s=1e12, item_life_s=1e12, drift_s=86_400.0)
    chances = [i.probability for i in itertools.islice(SyntheticStream(config).impressions(), 0, 200 * CHUNK, CHUNK)]
    assert np.std(chances) > 0.1


def test_the_probability_is_not_in_the_event():
    for impression in SyntheticStream(SMALL).impressions(50):
        assert set(impression.feature.features) == {"user", "item", "segment", "category"}
        assert all(isinstance(value, int) for value in impression.feature.features.values())


def test_memory_does_not_grow_with_the_stream():
    stream = SyntheticStream(SMALL).impressions()
    next(itertools.islice(stream, 5_000, None))
    tracemalloc.start()
    next(itertools.islice(stream, 20_000, None))
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 2**20
