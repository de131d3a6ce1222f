"""What several folders of tests share: a model with a scripted history, from which any delta can be made."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save

from monolith.card import CardFeature, ModelCard
from monolith.tables.delta import Delta, ModelDelta


class ScriptedModel:
    """One table ``user``; ``states[s]`` is id -> row as of sequence ``s``, and ``states[0]`` is empty."""

    def __init__(self, lineage: str = "run-1", dim: int = 3) -> None:
        self.lineage = lineage
        self.dim = dim
        self.states: list[dict[int, bytes]] = [{}]

    @property
    def sequence(self) -> int:
        return len(self.states) - 1

    @property
    def card(self) -> ModelCard:
        feature = CardFeature(name="user", table="user", type="int", bag=False, pooling="sum", salted=False)
        return ModelCard(model="demo", lineage=self.lineage, tables={"user": self.dim}, features=[feature])

    def write(self, *ids: int, remove: tuple[int, ...] = ()) -> int:
        """The next sequence: fresh values for ``ids``, and ``remove`` gone. Every value tells id and sequence."""
        state = {key: row for key, row in self.states[-1].items() if key not in remove}
        for key in ids:
            value = np.float32(self.sequence + 1) + np.float32(key % 1000) / 1024
            state[key] = np.full(self.dim, value, np.float32).tobytes()
        self.states.append(state)
        return self.sequence

    def delta(self, since: int, until: int | None = None) -> ModelDelta:
        """What leads from ``since`` to ``until`` (the newest); 0 makes an image."""
        until = self.sequence if until is None else until
        before, now = self.states[since], self.states[until]
        written = sorted(key for key in now if since == 0 or before.get(key) != now[key])
        between = set().union(
            *self.states[since:until]
        )  # also what came and went: the receiver may be ahead of `since`
        removed = sorted(between - now.keys()) if since else []
        values = np.frombuffer(b"".join(now[key] for key in written), np.float32).reshape(-1, self.dim)
        table = Delta(since, until, np.array(written, np.int64), values, np.array(removed, np.int64))
        ingested_ms = np.array([until], np.int64)
        return ModelDelta(since, until, 10 * until, 1000 * until, {"user": table}, self.dense(until), ingested_ms)

    def dense(self, sequence: int) -> bytes:
        """The safetensors of a version's dense weights: one weight ``bias`` that is the sequence."""
        return save({"bias": np.array([sequence], np.float32)})

    def since(self, held: int) -> ModelDelta:
        """The ``make_delta`` of a trainer that stands at the newest sequence."""
        return self.delta(held)

    @staticmethod
    def rows_of(table: Delta) -> dict[int, bytes]:
        """A table's delta as id -> row."""
        return {int(key): row.tobytes() for key, row in zip(table.ids, table.values, strict=True)}


@pytest.fixture
def scripted():
    """The class, so that a test can make several runs."""
    return ScriptedModel


@pytest.fixture
def model():
    """A run with three sequences: ids come, change and go."""
    model = ScriptedModel()
    model.write(1, 2, -5, 2**62)
    model.write(2, 3)
    model.write(7, remove=(1,))
    return model
