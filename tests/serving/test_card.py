"""Model cards as stores hold them, of this build and of older ones."""

from __future__ import annotations

import msgspec
import pytest

from monolith.card import CardTask, ModelCard
from monolith.errors import VersionError
from monolith.serving.ledger import seal_json, unseal_card

TWO = [CardTask(name="click"), CardTask(name="price", loss="squared")]


@pytest.mark.parametrize("tasks", [[CardTask()], TWO])
def test_a_card_keeps_its_tasks(tasks):
    card = ModelCard(model="m", lineage="run", tables={"user": 4}, features=[], tasks=tasks)
    assert unseal_card(seal_json(card), "here") == card


def test_a_card_of_version_2_has_one_binary_task_and_a_later_one_is_refused():
    card = ModelCard(model="m", lineage="run", tables={"user": 4}, features=[])
    older = msgspec.to_builtins(card) | {"version": 2}
    del older["tasks"]
    assert unseal_card(seal_json(older), "here") == card
    with pytest.raises(VersionError, match="version 5, this build reads 1 to 4"):
        unseal_card(seal_json(older | {"version": 5}), "here")
