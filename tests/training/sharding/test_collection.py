"""A collection divided between 1, 2, 3 and 4 processes, held to one process without any division."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rank_runs import run
from scenarios import Scenario, gradient, scenarios

from monolith.errors import ConfigError, CorruptError
from monolith.tables import Table
from monolith.tables.collection import Collection
from monolith.tables.stats import HAPPENED
from monolith.training.sharding.division import divisions_of
from monolith.training.sharding.saved import SavedCollection

RANKS = (1, 2, 3, 4)
EXACT = [name for name, scenario in scenarios().items() if scenario.options == {"exact": True} and name != "limits"]
SUMMED = [name for name, scenario in scenarios().items() if not scenario.options]
IN_SUMS = {"dropped_gradients", "nonfinite"}  # count what arrives at the owner


class One:
    """A scenario on one process."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.tables = {config.name: Table(config) for config in scenario.tables}
        collection = Collection(self.tables, scenario.outputs)
        self.vectors = []
        for number, step in enumerate(scenario.steps):
            begun = collection.forward(step.bags, step.times)
            self.vectors.append(begun.vectors.copy())
            begun.apply_matrix(gradient(begun.vectors, number, 0, scenario.scale))
            for table in self.tables.values():
                if scenario.sweep:
                    table.sweep(scenario.sweep)
                table.cut()
        self.read = collection.lookup(scenario.steps[-1].bags)
        self.files = {name: table.save(folder / name).read_bytes() for name, table in self.tables.items()}


class Many:
    """All scenarios on some ranks."""

    def __init__(self, ranks: int, folder: Path) -> None:
        self.folder = folder
        self.results: list[dict[str, Any]] = run("rank_collection", "every_scenario", ranks, folder)

    def vectors(self, name: str, step: int) -> np.ndarray:
        return np.concatenate([result[name]["vectors"][step] for result in self.results])

    def read(self, name: str) -> np.ndarray:
        return np.concatenate([result[name]["read"] for result in self.results])

    def stats(self, name: str) -> dict[str, dict[str, int]]:
        return self.results[0][name]["stats"]

    def table(self, name: str, number: int) -> Table:
        return whole(self.folder / name, number, scenarios()[name])


def whole(folder: Path, number: int, scenario: Scenario) -> Table:
    """One table out of the files of all its parts."""
    saved = SavedCollection(folder, divisions_of(scenario.tables, 1))
    return Table.open([folder / part.folder for part in saved.manifest.tables[number].parts])


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> dict[str, One]:
    folder = tmp_path_factory.mktemp("one")
    return {name: One(scenario, folder / name) for name, scenario in scenarios().items()}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Many]:
    return {ranks: Many(ranks, tmp_path_factory.mktemp(f"ranks{ranks}")) for ranks in RANKS}


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", EXACT)
def test_an_exact_collection_saves_the_bytes_of_one_process(
    name: str, ranks: int, one: dict[str, One], many: dict[int, Many], tmp_path: Path
) -> None:
    for number, config in enumerate(scenarios()[name].tables):
        joined = many[ranks].table(name, number)
        assert joined.save(tmp_path / config.name).read_bytes() == one[name].files[config.name], config.name


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", EXACT)
def test_an_exact_collection_gives_the_vectors_of_one_process(
    name: str, ranks: int, one: dict[str, One], many: dict[int, Many]
) -> None:
    for step, vectors in enumerate(one[name].vectors):
        np.testing.assert_array_equal(many[ranks].vectors(name, step), vectors)
    np.testing.assert_array_equal(many[ranks].read(name), one[name].read)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("name", SUMMED)
def test_ids_counts_and_what_happened_do_not_depend_on_the_number_of_ranks(
    name: str, ranks: int, one: dict[str, One], many: dict[int, Many]
) -> None:
    for number, (table, own) in enumerate(one[name].tables.items()):
        joined, stats = many[ranks].table(name, number), own.stats()
        np.testing.assert_array_equal(joined.rows()[0], own.rows()[0])
        for delta in (joined.delta(0), joined.delta(joined.sequence - 2)):
            np.testing.assert_array_equal(delta.removed, own.delta(delta.base_sequence).removed)
        told = many[ranks].stats(name)[table]
        for count in [*HAPPENED, "rows", "counters", "tombstones"]:
            if count not in IN_SUMS:
                assert told[count] == getattr(stats, count), (table, count)


@pytest.mark.parametrize("name", SUMMED)
def test_sums_by_rank_are_one_process_bits_at_one_rank_and_close_at_more(
    name: str, one: dict[str, One], many: dict[int, Many]
) -> None:
    for number, own in enumerate(one[name].tables.values()):
        np.testing.assert_array_equal(many[1].table(name, number).rows()[1], own.rows()[1])
        rough = own.config.storage != "float32"
        for ranks in RANKS[1:]:
            values = many[ranks].table(name, number).rows()[1]
            np.testing.assert_allclose(
                values, own.rows()[1], rtol=2e-2 if rough else 2e-4, atol=2e-3 if rough else 2e-5
            )


@pytest.mark.parametrize("ranks", RANKS[1:])
@pytest.mark.parametrize("name", ["limits", "half"])
def test_limits_and_half_precision_give_the_same_bytes_at_every_number_of_ranks(
    name: str, ranks: int, many: dict[int, Many], tmp_path: Path
) -> None:
    for number, config in enumerate(scenarios()[name].tables):
        files = [many[w].table(name, number).save(tmp_path / f"{config.name}{w}").read_bytes() for w in (1, ranks)]
        assert files[0] == files[1]


def test_a_limit_is_kept_by_all_parts_together(many: dict[int, Many]) -> None:
    for ranks in RANKS:
        stats = many[ranks].stats("limits")
        assert stats["recent"]["evicted"] > 0
        assert stats["recent"]["rows"] <= 400
        assert stats["often"]["rows"] <= 16 * -(-300 // 16)


def test_half_precision_sends_about_half(many: dict[int, Many]) -> None:
    full, half = (many[2].results[0][name]["sent"] for name in ("plain exact", "half"))
    assert 0.4 < half / full < 0.8


def test_saved_on_some_ranks_goes_on_on_others(many: dict[int, Many], tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "from").symlink_to(many[1].folder)
    run("rank_collection", "go_on_alone", 1, tmp_path / "alone")
    before = many[1].folder
    for step, ranks in enumerate((2, 4, 3)):  # from 1
        folder = tmp_path / f"{ranks}"
        folder.mkdir()
        (folder / "from").symlink_to(before)
        (folder / "step").write_text(str(step))
        run("rank_collection", "go_on", ranks, folder)
        before = folder / "to"
    for name in ("rules exact", "limits"):
        scenario = scenarios()[name]
        for number, config in enumerate(scenario.tables):
            files = [
                whole(folder / name, number, scenario).save(tmp_path / f"{which}{name}{number}").read_bytes()
                for which, folder in enumerate((tmp_path / "alone" / "to2", before))
            ]
            assert files[0] == files[1], config.name


def test_a_folder_without_its_manifest_or_a_part_is_refused(many: dict[int, Many], tmp_path: Path) -> None:
    import shutil

    scenario = scenarios()["plain"]
    divisions = divisions_of(scenario.tables, 2)
    shutil.copytree(many[2].folder / "plain", tmp_path / "a")
    saved = SavedCollection(tmp_path / "a", divisions)
    lost = saved.manifest.tables[0].parts[1]
    (tmp_path / "a" / lost.folder / "table.bin").unlink()
    with pytest.raises(CorruptError, match="named in the manifest and is not there"):
        saved.open(0, scenario.tables[0], many[2].table("plain", 0).buckets)
    (tmp_path / "a" / "manifest.json").unlink()
    with pytest.raises(ConfigError, match=r"no manifest\.json"):
        SavedCollection(tmp_path / "a", divisions)


def test_ranks_that_disagree_are_told_who_and_what_on_every_rank(tmp_path: Path) -> None:
    told = run("rank_collection", "refusals", 2, tmp_path)
    for rank, said in enumerate(told):
        assert "rank 1 has table 'a', optimizer" in said["optimizer"]
        assert "rank 1 has option exact = True, rank 0 has False" in said["option"]
        assert "ranks disagree about the step (rank 0: a training step with one event time" in said["time"]
        assert said["rows after time"] == 0
        assert "NonFiniteError: a gradient of table 'a'" in said["nonfinite"], rank
        np.testing.assert_array_equal(said["before"], said["after"])
        assert "backward ran a second time" in said["twice"]
        assert not np.array_equal(said["trained"], said["after"])
