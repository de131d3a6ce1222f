"""The stream of a chaos run, as a function of a seed and a number, and the program that writes it.

    python -m chaos_events FEATURES_URL ACTIONS_URL SEED COUNT RATE

Event n shows an item to a user, every few are liked, and some are followed by something bad: bytes that are no event, a
value of the wrong type, a time that cannot be or is weeks ahead, a copy. What the trainer must make of all this is
`expected`. The producer finds in the streams themselves where one before it stopped, and prints the number of each
event once it is durable. It may be killed at any time.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter

import numpy as np

from monolith.errors import UnavailableError
from monolith.streaming.source import Outgoing, Sink, Source, open_sink, open_source

START_MS = 1_700_000_000_000
BETWEEN_MS = 2_000  # event time from one event to the next
LONGEST_MS = 60_000  # from what was shown to what was done
CHUNK = 40  # events an append
POISON = ("bytes", "empty", "type", "feature", "nan", "version", "stream", "future", "ahead", "near", "copy")


def shown(seed: int, number: int) -> list[Outgoing]:
    """What event ``number`` writes to the stream of features: itself, and perhaps something bad."""
    rng = _rng(seed, number)
    crowd = number // 400  # others come every 400 events, so that ids expire
    user, item = int(rng.zipf(1.5) % 50 + crowd * 20), int(rng.zipf(1.3) % 80 + crowd * 30)
    features = {"user": user, "item": item, "tags": [f"t{user % 7}", f"t{item % 5}"]}
    event = _event(number, type="feature", features=features)
    bad = _poison(seed, number)
    return [_row(number, event)] if bad is None else [_row(number, event), _row(number, _spoilt(event, bad))]


def acted(seed: int, number: int) -> list[Outgoing]:
    """What is written to the stream of actions in the turn of event ``number``: the action on an earlier one."""
    earlier = number - LONGEST_MS // BETWEEN_MS
    if earlier < 0 or not _is_liked(seed, earlier):
        return []
    event = _event(earlier, type="action", action="like") | {"event_time_ms": _time_ms(number) - 1}
    return [_row(number, event)]  # the key is the turn's: where a producer stopped is read from it


def last(seed: int, count: int) -> list[Outgoing]:
    """Actions on the last of ``count`` events, for which no turn came."""
    turns = range(count, count + LONGEST_MS // BETWEEN_MS)
    return [row for number in turns for row in acted(seed, number)]


def expected(seed: int, count: int) -> Counter[tuple[str, float]]:
    """How often each (request id, label) is to be trained: once. A time that is wrong, but not absurd, is its own."""
    wanted = Counter((f"r{number}", float(_is_liked(seed, number))) for number in range(count))
    wanted.update((f"r{number}x", 0.0) for number in range(count) if _poison(seed, number) == "near")
    return wanted


def letters(seed: int, count: int) -> int:
    """How many of the records of ``count`` events nobody can use."""
    return sum(_poison(seed, number) not in (None, "copy", "near") for number in range(count))


def _rng(seed: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, number])


def _is_liked(seed: int, number: int) -> bool:
    return bool(_rng(seed + 1, number).random() < 0.35)


def _poison(seed: int, number: int) -> str | None:
    rng = _rng(seed + 2, number)
    return POISON[rng.integers(len(POISON))] if rng.random() < 0.02 else None


def _spoilt(event: dict, bad: str) -> dict | bytes:
    changes: dict[str, dict] = {
        "type": {"type": ["feature"]},
        "feature": {"features": {"nobody": 1}},
        "nan": {"features": {"tags": {"x": float("nan")}}},
        "version": {"v": 99},
        "stream": {"type": "action", "action": "like"},
        "future": {"event_time_ms": 4_000_000_000_000},
        "ahead": _moved(event, days=90),
        "near": _moved(event, days=20),
        "copy": {},
    }
    if bad not in changes:
        return {"bytes": b"\xff\xffnot an event", "empty": b""}[bad]
    spoilt = event | changes[bad]
    return {key: value for key, value in spoilt.items() if bad != "stream" or key != "features"}


def _moved(event: dict, days: int) -> dict:
    return {"event_time_ms": event["event_time_ms"] + days * 86_400_000, "request_id": f"{event['request_id']}x"}


def _time_ms(number: int) -> int:
    return START_MS + number * BETWEEN_MS


def _event(number: int, **more: object) -> dict:
    return {"v": 1, "request_id": f"r{number}", "item_id": "i", "event_time_ms": _time_ms(number), **more}


def _row(number: int, event: dict | bytes) -> Outgoing:
    value = event if isinstance(event, bytes) else json.dumps(event).encode()
    return str(number).encode(), value, _time_ms(number)


# --- the producer -----------------------------------------------------------------------------------------------------


def next_number(url: str) -> int:
    """The number after the last record's key; 0 for an empty stream."""
    source = open_source(url)
    try:
        while not source.partitions():
            time.sleep(0.05)
        return int(_last_key(source) or -1) + 1
    finally:
        source.close()


def _last_key(source: Source) -> bytes | None:
    ends, begins = source.end_position(), source.position()
    if ends[0] == begins[0]:
        return None
    source.seek({0: ends[0] - 1})
    while not (records := source.poll(1, 5.0)):
        pass
    return records[-1].key


def produce(urls: tuple[str, str], seed: int, count: int, rate: float) -> None:
    """Write what is missing of the first ``count`` events, ``rate`` of them a second."""
    sinks = [open_sink(url) for url in urls]
    at = [next_number(url) for url in urls]
    first, start = min(at), time.monotonic()
    for low in range(first - first % CHUNK, count, CHUNK):
        time.sleep(max(0.0, start + (low - first) / rate - time.monotonic()))
        numbers = range(low, min(low + CHUNK, count))
        for sink, made, reached in zip(sinks, (shown, acted), at, strict=True):
            _append(sink, [row for n in numbers if n >= reached for row in made(seed, n)])
        print(numbers[-1], flush=True)
    _append(sinks[1], [row for row in last(seed, count) if int(row[0] or 0) >= at[1]])
    print("done", flush=True)


def _append(sink: Sink, rows: list[Outgoing]) -> None:
    """Until it is durable. What a broker took without saying so may be there twice: copies cost nothing."""
    while rows:
        try:
            return sink.append(rows)
        except UnavailableError as error:
            print(error, file=sys.stderr, flush=True)
            time.sleep(0.1)
    return None


if __name__ == "__main__":
    produce((sys.argv[1], sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
