"""Epochs: what is judged was not trained on, the best state is kept, and rows do not expire meanwhile."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from batches import batch_of

from monolith.config import InputConfig, JobConfig, ModelConfig, TableConfig, TaskConfig
from monolith.config.expiry import Idle
from monolith.config.fit import FitConfig, LastPart, RandomPart
from monolith.errors import ConfigError, CorruptError, InputError, NoSamplesError
from monolith.tables.batch import concatenated
from monolith.training.fitting import Fitter, metric_of, split
from monolith.training.learner import Learner
from monolith.training.sample_file import SampleFile
from monolith.training.start import About, read_start, write_start

JOB = JobConfig(
    name="j",
    input=InputConfig(samples="memory://s"),
    tables=[TableConfig(name="user", dim=1, expiry=Idle(ttl_s=1))],
    model=ModelConfig(kind="lr"),
    fit=FitConfig(epochs=8, patience=1),
)


def samples(count: int = 2000, seed: int = 0):
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 50, count)
    labels = rng.random(count) < np.where(users % 2, 0.8, 0.2)
    return batch_of(JOB, [{"user": int(user)} for user in users], labels, times_ms=range(0, count * 1000, 1000))


@pytest.fixture
def file_of(tmp_path):
    made: list[SampleFile] = []

    def make(batch=None, block_rows: int = 300) -> SampleFile:
        file = SampleFile(tmp_path / f"samples{len(made)}", block_rows=block_rows)
        made.append(file)
        if batch is not None:
            for piece in batch.pieces(77):
                file.append(piece)
            file.finish()
        return file

    yield make
    for file in made:
        file.__exit__(None, None, None)


def times(file: SampleFile) -> list[int]:
    return [time for block in file.blocks() for time in block.event_time_ms.tolist()]


def test_kept_samples_are_read_again_by_anybody_and_stay(tmp_path):
    with SampleFile(tmp_path / "kept", block_rows=300, keep=True) as file:
        file.append(samples(1000))
        file.finish()
        written = times(file)
    with SampleFile.reopen(tmp_path / "kept") as one, SampleFile.reopen(tmp_path / "kept") as other:
        assert (len(one), times(one), times(other)) == (1000, written, written)
    assert (tmp_path / "kept").exists()
    (tmp_path / "kept.index").write_text("{}")
    with pytest.raises(CorruptError, match="index cannot be read"):
        SampleFile.reopen(tmp_path / "kept")


def test_samples_come_back_in_order_and_every_one_once_when_shuffled(file_of):
    file = file_of(samples(1000))
    assert len(file) == 1000
    assert times(file) == list(range(0, 1_000_000, 1000))
    shuffled = [block.event_time_ms for block in file.blocks(np.random.default_rng(1))]
    assert [len(block) for block in shuffled] != [300, 300, 300, 100] or shuffled[0][0] != 0
    assert sorted(np.concatenate(shuffled).tolist()) == times(file)


def test_batches_are_of_the_size_asked_for(file_of):
    assert [len(batch) for batch in file_of(samples(1000)).batches(200)] == [200, 100] * 3 + [100]


@pytest.mark.parametrize("validation", [LastPart(share=0.25), RandomPart(share=0.25)])
def test_parts_are_disjoint_and_hold_everything(file_of, validation):
    train, judged = file_of(), file_of()
    split(file_of(samples(1000)), FitConfig(validation=validation), 3, (train, judged))
    assert sorted(times(train) + times(judged)) == list(range(0, 1_000_000, 1000))
    assert 180 <= len(judged) <= 320
    if isinstance(validation, LastPart):
        assert max(times(train)) < min(times(judged))
    else:
        assert min(times(judged)) < 100_000


def fitter(job, file_of, tmp_path, tell=lambda *_: None) -> Fitter:
    return Fitter(job, file_of(samples(2000)), file_of(samples(500, seed=1)), tmp_path / "best", tell)


def test_it_learns_stops_early_and_ends_with_the_best_state(file_of, tmp_path):
    job = msgspec.structs.replace(JOB, fit=FitConfig(epochs=50, patience=1))
    fit = fitter(job, file_of, tmp_path)
    epochs = list(fit.epochs())
    assert len(epochs) < 50
    best = max((epoch for epoch in epochs if epoch.is_best), key=lambda epoch: epoch.number)
    assert len(epochs) - best.number == 2
    assert best.scores["label"].auc == max(epoch.scores["label"].auc for epoch in epochs)
    assert fit._judge()["label"] == best.scores["label"]
    assert best.scores["label"].auc > 0.75


def test_a_metric_of_which_less_is_better_keeps_the_least(file_of, tmp_path):
    job = msgspec.structs.replace(JOB, fit=FitConfig(epochs=5, patience=5, metric="logloss"))
    epochs = list(fitter(job, file_of, tmp_path).epochs())
    assert [epoch.is_best for epoch in epochs] == [
        epoch.scores["label"].logloss == min(other.scores["label"].logloss for other in epochs[: epoch.number])
        for epoch in epochs
    ]


def test_rows_do_not_expire_while_fitting_and_the_rule_holds_again_afterwards(file_of, tmp_path):
    fit = fitter(JOB, file_of, tmp_path)
    list(fit.epochs())
    assert len(fit.learner.tables["user"]) == 50
    write_start(tmp_path / "state", JOB, fit.learner, About("a test", {"memory://s": {0: 7}}))
    start = read_start(tmp_path / "state")
    again = Learner(JOB)
    again.load_tables(start.snapshot.path / "tables")
    ids = np.arange(50)
    assert (again.tables["user"].lookup(ids) != 0).any(axis=1).sum() < 10
    assert start.about.positions == {"memory://s": {0: 7}}


def test_two_fits_end_in_the_same_bits(file_of, tmp_path):
    learners = []
    for name in ("a", "b"):
        fit = Fitter(JOB, file_of(samples(600)), file_of(samples(200, seed=1)), tmp_path / name, lambda *_: None)
        list(fit.epochs())
        fit.learn_validation()
        learners.append(fit.learner)
    first, second = (learner.tables["user"].lookup(np.arange(50)).tobytes() for learner in learners)
    assert first == second
    assert learners[0].dense_state() == learners[1].dense_state()


def test_a_part_without_samples_is_refused(file_of, tmp_path):
    with pytest.raises(NoSamplesError, match="validation part has no sample"):
        Fitter(JOB, file_of(samples(10)), file_of(samples(1)[:0]), tmp_path / "best", lambda *_: None)


def test_a_metric_that_cannot_be_is_refused(file_of, tmp_path):
    priced = msgspec.structs.replace(
        JOB, labels=[TaskConfig(name="price", loss="squared")], fit=FitConfig(metric="auc")
    )
    with pytest.raises(InputError, match="allowed are rmse, mae"):
        metric_of(priced)
    one_class = samples(500)
    one_class = one_class.take(np.flatnonzero(one_class.labels[:, 0] == 1))
    fit = Fitter(JOB, file_of(samples(500)), file_of(one_class), tmp_path / "best", lambda *_: None)
    with pytest.raises(InputError, match="needs labels of both kinds"):
        list(fit.epochs())


def test_a_run_that_has_begun_does_not_start_from_another_model(tmp_path):
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "1.journal").touch()
    with pytest.raises(ConfigError, match="has begun"):
        write_start(tmp_path, JOB, Learner(JOB), About("a test"))


def test_joined_parts_are_the_samples(file_of):
    file = file_of(samples(700))
    assert len(concatenated(list(file.blocks()))) == 700
