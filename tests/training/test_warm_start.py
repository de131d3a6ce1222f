"""What of a model goes over into a changed job: rows and weights that mean the same, and nothing else."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from batches import batch_of

from monolith.config import DenseOptimizerConfig, InputConfig, JobConfig, ModelConfig, TableConfig, TaskConfig
from monolith.config.absent import HashedTail
from monolith.config.admission import MinCount
from monolith.config.expiry import Idle
from monolith.config.features import FeatureConfig
from monolith.config.load import job_json
from monolith.config.optimizers import FTRL, SGD, Adam
from monolith.errors import ConfigError
from monolith.tables import from_dense
from monolith.tables.hashing import salted
from monolith.training.learner import Learner
from monolith.training.snapshot import SNAPSHOT_VERSION, Manifest, Snapshots
from monolith.training.start import read_start
from monolith.training.warm_start import warm_start

IDS = np.arange(40)
JOB = JobConfig(
    name="j",
    input=InputConfig(samples="memory://s"),
    tables=[TableConfig(name="user", dim=5), TableConfig(name="item", dim=5, optimizer=Adam())],
    features=[FeatureConfig(name="age", type="float")],
    model=ModelConfig(kind="deepfm", hidden=[8, 4]),
    dense_optimizer=DenseOptimizerConfig(kind="adagrad"),
)


def changed(job: JobConfig = JOB, **fields: object) -> JobConfig:
    return msgspec.structs.replace(job, **fields)


def with_table(number: int, job: JobConfig = JOB, **fields: object) -> JobConfig:
    tables = list(job.tables)
    tables[number] = msgspec.structs.replace(tables[number], **fields)
    return changed(job, tables=tables)


@pytest.fixture
def going_on(tmp_path):
    """Trains a job, and begins another one from it: the first learner, the second, and the report."""

    def begin(job: JobConfig, was: JobConfig = JOB) -> tuple[Learner, Learner, dict[str, str]]:
        first = Learner(was)
        rng = np.random.default_rng(1)
        names = was.feature_names()
        samples = [{name: int(rng.integers(0, 40)) for name in names} | {"age": rng.random()} for _ in range(300)]
        batch = batch_of(was, samples, rng.integers(0, 2, 300), times_ms=range(300))
        for piece in batch.pieces(50):
            first.step(piece)
            first.cut()
        manifest = Manifest(
            version=SNAPSHOT_VERSION,
            model=was.name,
            lineage="l",
            step=6,
            sequence=6,
            job=msgspec.json.decode(job_json(was)),
        )
        parts = {"tables": first.save_tables, "dense.safetensors": first.dense_state()}
        snapshot = Snapshots(tmp_path / "was").write(manifest, parts)
        job = changed(job, state=str(tmp_path / "state"))
        about = warm_start(job, snapshot)
        start = read_start(tmp_path / "state")
        assert start.about == about
        second = Learner(job)
        second.load_tables(start.snapshot.path / "tables")
        second.load_dense_state(start.snapshot.read("dense.safetensors"))
        assert second.sequence == 7  # of all tables
        return first, second, {one.part: f"{one.outcome}: {one.detail}" for one in about.report}

    return begin


def files(learner: Learner, folder) -> dict[str, bytes]:
    learner.save(folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_rows(first: Learner, second: Learner, table: str) -> bool:
    return first.tables[table].lookup(IDS).tobytes() == second.tables[table].lookup(IDS).tobytes()


def weights(learner: Learner) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in learner.model.state_dict().items()}


def test_the_same_job_takes_everything_bit_for_bit(going_on, tmp_path):
    first, second, report = going_on(JOB)
    assert files(first, tmp_path / "a") == files(second, tmp_path / "b")
    assert {text.partition(":")[0] for part, text in report.items() if part != "streams"} == {"taken"}


def test_a_new_table_is_empty_and_a_dropped_one_is_left(going_on):
    tables = [JOB.tables[0], TableConfig(name="city", dim=5)]
    first, second, report = going_on(changed(tables=tables))
    assert same_rows(first, second, "user")
    assert len(second.tables["city"]) == 0
    assert report["table city"] == "new: there was none"
    assert report["table item"] == "left: the job has no such table"
    assert report["feature city"].startswith("new")
    assert report["feature item"].startswith("left")


def test_columns_of_inputs_that_stayed_are_taken_and_those_of_a_new_feature_are_fresh(going_on):
    tables = [TableConfig(name="city", dim=5), JOB.tables[0], JOB.tables[1]]
    job = changed(tables=tables)
    first, second, report = going_on(job)
    old, new, drawn = weights(first), weights(second), weights(Learner(job))
    # before: user (4), item (4), age (1); now: city (4), user (4), item (4), age (1)
    assert np.array_equal(new["mlp.0.weight"][:, 4:], old["mlp.0.weight"])
    assert np.array_equal(new["mlp.0.weight"][:, :4], drawn["mlp.0.weight"][:, :4])
    assert np.array_equal(new["mlp.2.weight"], old["mlp.2.weight"])
    assert report["weight mlp.0.weight"] == "partly taken: fresh: city"
    assert report["dense optimizer Adagrad"] == "partly taken: fresh: mlp.0.weight"
    sums, olds = (learner.optimizer.weight_states()["mlp.0.weight"]["sum"].numpy() for learner in (second, first))
    assert np.array_equal(sums[:, 4:], olds)
    assert not sums[:, :4].any()


def test_features_of_the_same_width_in_another_order_keep_their_columns(going_on):
    first, second, report = going_on(changed(tables=JOB.tables[::-1]))
    old, new = weights(first)["mlp.0.weight"], weights(second)["mlp.0.weight"]
    assert np.array_equal(new, old[:, [4, 5, 6, 7, 0, 1, 2, 3, 8]])
    assert report["weight mlp.0.weight"] == "taken: "


def test_a_dense_feature_that_is_measured_otherwise_has_fresh_columns(going_on):
    job = changed(features=[FeatureConfig(name="age", type="float", transforms=[{"kind": "log1p"}])])
    job = msgspec.convert(msgspec.to_builtins(job), JobConfig)
    _, _, report = going_on(job)
    assert report["weight mlp.0.weight"].startswith("partly taken: fresh: age (float, Log1p")
    assert report["weight dense.linear.weight"] == "new: nothing along it is as it was"


def test_another_optimizer_keeps_rows_and_starts_its_states_afresh(going_on):
    first, second, report = going_on(with_table(0, optimizer=FTRL()))
    assert same_rows(first, second, "user")
    assert "optimizer states start afresh (the optimizer was adagrad" in report["table user"]
    table, (ids, values) = second.tables["user"], first.tables["user"].rows()
    fresh = from_dense(table.config, ids, values)
    for each in (table, fresh):
        each.apply_gradients(ids, np.ones((len(ids), 5), np.float32))
    assert table.rows()[1].tobytes() == fresh.rows()[1].tobytes()


def test_another_dim_leaves_the_rows(going_on):
    tables = [msgspec.structs.replace(table, dim=7) for table in JOB.tables]
    _, second, report = going_on(changed(tables=tables))
    assert len(second.tables["user"]) == 0
    assert report["table user"].startswith("left: dim was 5, it is 7")
    assert report["weight mlp.0.weight"].startswith("partly taken: fresh: user, item")


def test_rules_rates_and_seed_are_the_new_jobs(going_on):
    tail = HashedTail(rows=6)
    job = with_table(
        0, seed=9, expiry=Idle(ttl_s=0.1), admission=MinCount(2), absent=tail, optimizer=JOB.tables[0].optimizer
    )
    first, second, report = going_on(job)
    assert report["table user"].startswith("taken")
    assert same_rows(first, second, "user") is False  # some expired by the new rule
    alive = second.tables["user"].rows()[0]
    assert 0 < len(alive) < 40
    assert first.tables["user"].lookup(alive).tobytes() == second.tables["user"].lookup(alive).tobytes()
    assert second.tables["user"].native.tail_delta(6, np.ones(1024, bool))[0].tolist() == list(range(6))


def test_a_second_feature_in_a_table_gives_its_rows_new_keys(going_on):
    job = with_table(0, features=["user", "friend"])
    first, second, report = going_on(job)
    assert report["table user"].startswith("taken")
    moved = second.tables["user"].lookup(salted("user", IDS))
    assert moved.tobytes() == first.tables["user"].lookup(IDS).tobytes()
    assert not second.tables["user"].contains(salted("friend", IDS)).any()


@pytest.mark.parametrize(
    ("was", "now", "reason"),
    [
        ({"features": ["user", "friend"]}, {"features": ["user"]}, "rows were kept apart by feature"),
        (
            {"features": ["user", "friend"], "shared_ids": True},
            {"features": ["user", "friend"]},
            "in any of user, friend",
        ),
        ({}, {"features": ["visitor"]}, "its rows are of other ids"),
        ({}, {"kind": "hashed", "rows": 50}, "it was kind collisionless, it is kind hashed, rows 50"),
        ({"kind": "qr", "rows": 50}, {"kind": "qr", "rows": 60}, "rows 50, remainders 8"),
    ],
)
def test_rows_that_mean_something_else_are_left_with_the_reason(going_on, was, now, reason):
    _, _, report = going_on(with_table(0, **now), with_table(0, **was))
    assert report["table user"].startswith("left: ")
    assert reason in report["table user"]


def test_rows_of_a_feature_whose_ids_are_made_otherwise_are_left(going_on):
    _, second, report = going_on(changed(features=[*JOB.features, FeatureConfig(name="user", type="string")]))
    assert report["table user"].startswith("left: type of its feature user was int, it is string")
    assert len(second.tables["user"]) == 0


@pytest.mark.parametrize("kind", [{"kind": "hashed", "rows": 50}, {"kind": "qr", "rows": 90}])
def test_tables_of_fixed_rows_are_taken_bit_for_bit_and_beside_a_new_one(going_on, kind):
    was = with_table(0, **kind)
    first, second, report = going_on(changed(was, tables=[*was.tables, TableConfig(name="city", dim=5, **kind)]), was)
    assert report["table user"].startswith("taken")
    assert same_rows(first, second, "user")
    assert len(second.tables["city"]) == len(Learner(second.job).tables["city"])


def test_a_feature_that_moves_to_another_table_leaves_its_rows(going_on):
    was = changed(tables=[TableConfig(name="shop", dim=5, features=["user", "item"])])
    job = changed(tables=[TableConfig(name="shop", dim=5, features=["user", "city"]), TableConfig(name="item", dim=5)])
    first, second, report = going_on(job, was)
    assert report["feature item"] == "new: it read shop, it reads item: rows stay in the table in which they are"
    assert len(second.tables["item"]) == 0
    assert len(second.tables["shop"]) == len(first.tables["shop"])


def test_adams_moments_go_over_only_with_every_weight(going_on):
    was = changed(dense_optimizer=DenseOptimizerConfig(kind="adam"))
    first, second, report = going_on(was, was)
    assert first.dense_state() == second.dense_state()
    _, second, report = going_on(changed(was, tables=[*was.tables, TableConfig(name="city", dim=5)]), was)
    assert report["dense optimizer Adam"].startswith("new: its steps are counted once for all weights")
    assert not second.optimizer.weight_states()["mlp.2.weight"]["exp_avg"].any()


def test_another_dense_optimizer_starts_afresh_and_another_network_too(going_on):
    _, _, report = going_on(changed(dense_optimizer=DenseOptimizerConfig(kind="sgd")))
    assert report["dense optimizer SGD"] == "new: it was Adagrad"
    first, second, report = going_on(changed(model=ModelConfig(kind="mlp", hidden=[8])))
    assert report["all dense weights"] == "new: the model was deepfm, it is mlp"
    assert same_rows(first, second, "user")


@pytest.mark.parametrize("kind", ["mlp", "dcnv2", "dlrm", "widedeep", "fm", "lr"])
def test_every_kind_of_network_keeps_what_belongs_to_inputs_that_stayed(going_on, kind):
    widths = {"lr": [1, 1], "widedeep": [5, 1], "dlrm": [4, 4]}.get(kind, [5, 5])
    hidden = [] if kind in ("lr", "fm") else [8]
    tables = [TableConfig(name=name, dim=dim) for name, dim in zip(("user", "item"), widths, strict=True)]
    was = changed(tables=tables, model=ModelConfig(kind=kind, hidden=hidden) if hidden else ModelConfig(kind=kind))
    city = TableConfig(name="city", dim=widths[0])
    first, second, report = going_on(changed(was, tables=[city, *tables]), was)
    outcomes = {part: text for part, text in report.items() if part.startswith("weight ")}
    assert len(outcomes) == len(second.model.state_dict())
    assert not [part for part, text in outcomes.items() if text.startswith(("new", "left"))]
    batch = batch_of(second.job, [{"user": 1, "item": 2, "age": 0.5}], [1])
    assert np.isfinite(second.score(batch)).all()
    assert first.model.state_dict().keys() == second.model.state_dict().keys()


def test_tasks_by_another_name_have_fresh_outputs(going_on):
    _, _, report = going_on(changed(labels=[TaskConfig(name="bought")]))
    assert report["weight mlp.4.weight"] == "new: nothing along it is as it was"
    assert report["weight mlp.2.weight"] == "taken: "


def test_a_run_that_has_begun_is_refused_unless_it_began_from_the_same(going_on, tmp_path):
    going_on(JOB)
    job, (source,) = changed(state=str(tmp_path / "state")), (tmp_path / "was").iterdir()
    (tmp_path / "state/journal").mkdir()
    (tmp_path / "state/journal/1.journal").touch()
    assert warm_start(job, source).given == str(source.absolute())
    with pytest.raises(ConfigError, match="has begun, so it cannot start from another model"):
        warm_start(job, tmp_path)


def test_a_start_that_is_there_is_not_replaced_by_another(going_on, tmp_path):
    going_on(JOB)
    (source,) = (tmp_path / "was").iterdir()
    warm_start(changed(state=str(tmp_path / "state")), source)  # the same again
    with pytest.raises(ConfigError, match=r"has a start already \(monolith train --from"):
        warm_start(changed(state=str(tmp_path / "state")), tmp_path)


def test_what_is_no_snapshot_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="holds no snapshot"):
        warm_start(changed(state=str(tmp_path / "state")), tmp_path)


def test_stateless_rows_go_on(going_on):
    first, second, report = going_on(with_table(0, optimizer=SGD()), with_table(0, optimizer=SGD()))
    assert report["table user"].startswith("taken")
    assert same_rows(first, second, "user")
