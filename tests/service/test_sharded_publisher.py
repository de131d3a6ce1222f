"""Ranks of a process group publish to one store, and a replica cannot tell how many they were."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from rank_publisher import MODEL, SCENARIO, Chain, card, delta_of
from rank_runs import run
from scenarios import gradient, scenarios

from monolith.serving.publisher import Publisher
from monolith.serving.store import open_store
from monolith.serving.wire import encode
from monolith.tables import Table
from monolith.tables.collection import Collection


def one_process(url: str, skipped: tuple[int, ...] = ()) -> None:
    """Train and publish on one process, without any division."""
    scenario, chain = scenarios()[SCENARIO], Chain()
    tables = {config.name: Table(config) for config in scenario.tables}
    collection = Collection(tables, scenario.outputs)
    publisher = Publisher(open_store(url, MODEL))
    publisher.start(card(), b"graph", chain)
    for number, step in enumerate(scenario.steps):
        begun = collection.forward(step.bags, step.times)
        begun.apply_matrix(gradient(begun.vectors, number, 0, scenario.scale))
        for table in tables.values():
            table.sweep(scenario.sweep)
            chain.sequence = table.cut()
        if number not in skipped:
            publisher.publish(
                chain.sequence,
                lambda since: delta_of({name: t.delta(since) for name, t in tables.items()}, since, chain.sequence),
            )
    publisher.close()


def bytes_of(url: str):
    """All that a replica may see: the image, and every delta since the first sequence, but for the time of day."""
    store = open_store(url, MODEL, create=False)
    try:
        image, look = store.image(), store.look()
        rows = {name: (table.ids.tobytes(), table.packed.tobytes()) for name, table in image.delta.tables.items()}
        assert any(ids for ids, _ in rows.values())
        version = msgspec.structs.replace(image.model.version, published_ms=0, image="", generation=0)
        first = msgspec.structs.replace(image.model.version, sequence=1)
        deltas = [dataclasses.replace(each, published_ms=0, generation=0) for each in store.deltas(first, 0.0)]
        model = image.model
        return rows, version, look.digest, model.dense, model.graph, model.card, [encode(delta) for delta in deltas]
    finally:
        store.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process publishes that skips the fifth step."""
    url = f"lmdb://{tmp_path_factory.mktemp('alone')}/store"
    one_process(url, skipped=(4,))
    return bytes_of(url)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


@pytest.mark.service
@pytest.mark.parametrize("ranks", [2, 3])
def test_what_ranks_publish_to_lmdb_and_redis_is_what_one_process_publishes(ranks, alone, folder, redis_server):
    urls = [f"lmdb://{folder}/store", redis_server.url]
    (folder / "urls").write_text(" ".join(urls))
    told = run("rank_publisher", "every_step", ranks, folder)
    assert all(each == told[0] for each in told[1:])
    steps = [number + 1 for number in range(len(scenarios()[SCENARIO].steps)) if number != 4]
    assert told[0]["outcomes"] == [[("applied", step)] * 2 for step in steps]
    assert told[0]["known"] == [("known", steps[-1])] * 2
    assert (told[0]["lacks"], told[0]["drained"], told[0]["generations"]) == ([False] * 2, [True] * 2, [1, 1])
    assert bytes_of(urls[0]) == alone
    assert bytes_of(urls[1]) == alone


@pytest.mark.parametrize(("kind", "dies_at"), [("lmdb", 6), pytest.param("redis", 1, marks=pytest.mark.service)])
def test_a_rank_killed_between_stage_and_commit_leaves_the_sequence_before(request, folder, tmp_path, kind, dies_at):
    """An image (sequence 1) and a delta; the job that begins again publishes the rest."""
    url = f"lmdb://{folder}/store" if kind == "lmdb" else request.getfixturevalue("redis_server").url
    (folder / "urls").write_text(url)
    (folder / "dies_at").write_text(str(dies_at))
    with pytest.raises(FileNotFoundError):  # the rank that was killed returned nothing
        run("rank_publisher", "killed_between_stage_and_commit", 2, folder, may_fail=True)
    store = open_store(url, MODEL, create=False)
    assert store.version().sequence == dies_at - 1
    (folder / "dies_at").write_text("0")
    outcomes = run("rank_publisher", "killed_between_stage_and_commit", 2, folder)[1]
    assert [outcome for ((outcome, _),) in outcomes] == ["known"] * (dies_at - 1) + ["applied"] * (9 - dies_at)
    assert (store.version().generation, store.look().fault) == (2, None)
    store.close()
    one_process(f"lmdb://{tmp_path}/one")
    assert bytes_of(url) == bytes_of(f"lmdb://{tmp_path}/one")


def test_what_one_rank_cannot_give_is_known_to_all(folder):
    (folder / "urls").write_text(f"lmdb://{folder}/store")
    told = run("rank_publisher", "refusals", 2, folder)
    for each in told:
        assert each["gap"] == "applied"  # as an image
        assert "rank 1: part 1 of delta 3 has tables []" in each["input"]
        assert each["held"] == 2
        assert each["after"] == [("applied", 3)]
        assert each["fenced"][0] == "FencedError"
