from __future__ import annotations

import time

import pytest

from monolith.datasets.impressions import Impression, timeline, write_events
from monolith.events import ActionEvent, FeatureEvent
from monolith.streaming.codec import decode


class ListSink:
    """Keeps what it is given, append by append."""

    def __init__(self) -> None:
        self.appends: list[list[tuple[bytes | None, bytes | None, int]]] = []

    def append(self, records) -> None:
        self.appends.append(list(records))

    def close(self) -> None:
        pass

    @property
    def events(self):
        return [decode(value) for append in self.appends for _, value, _ in append]


def _impression(number: int, shown_ms: int, acted_ms: int | None = None) -> Impression:
    action = None if acted_ms is None else ActionEvent(f"r{number}", "i", "like", acted_ms)
    return Impression(FeatureEvent(f"r{number}", "i", shown_ms, {"user": number}), action)


def test_actions_come_between_the_features_at_their_time():
    events = list(timeline([_impression(0, 0, 25), _impression(1, 10, 15), _impression(2, 20), _impression(3, 30)]))
    assert [(type(e).__name__, e.event_time_ms) for e in events] == [
        ("FeatureEvent", 0),
        ("FeatureEvent", 10),
        ("ActionEvent", 15),
        ("FeatureEvent", 20),
        ("ActionEvent", 25),
        ("FeatureEvent", 30),
    ]


def test_at_one_time_features_come_first_and_actions_as_their_impressions_did():
    events = list(timeline([_impression(0, 0, 10), _impression(1, 0, 10), _impression(2, 10)]))
    assert [(e.request_id, isinstance(e, ActionEvent)) for e in events] == [
        ("r0", False),
        ("r1", False),
        ("r2", False),
        ("r0", True),
        ("r1", True),
    ]


def test_events_go_to_their_own_sinks_keyed_by_request_and_stamped_with_event_time():
    features, actions = ListSink(), ListSink()
    events = list(timeline(_impression(i, i * 10, i * 10 + 5 if i % 2 else None) for i in range(10)))
    assert write_events(events, features, actions) == 15
    assert features.events == [e for e in events if isinstance(e, FeatureEvent)]
    assert actions.events == [e for e in events if isinstance(e, ActionEvent)]
    assert actions.appends[0][0][0] == b"r1"
    assert actions.appends[0][0][2] == 15


def test_paced_events_are_spread_over_the_time_they_take(monkeypatch: pytest.MonkeyPatch):
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", sleep)
    features, told = ListSink(), []
    events = [_impression(i, i).feature for i in range(1000)]
    write_events(events, features, ListSink(), per_second=200.0, on_written=told.append)
    assert {len(append) for append in features.appends} == {10}
    assert now == pytest.approx(990 / 200)
    assert told[-1] == 1000
