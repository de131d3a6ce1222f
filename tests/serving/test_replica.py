"""A replica answers from one version, follows, and finds its way back after anything that happens to its store."""

from __future__ import annotations

import threading

import msgspec
import numpy as np
import pytest
from safetensors.numpy import save

from monolith.config.absent import HashedTail
from monolith.errors import ConfigError, InputError, UnavailableError
from monolith.serving.inference import Gathered, Inference
from monolith.serving.ledger import Version
from monolith.serving.pieces import finished
from monolith.serving.predictor import load_weights
from monolith.serving.replica import Replica
from monolith.serving.store import open_store

MODES = pytest.mark.parametrize("mode", ["memory", "direct"])


@pytest.fixture
def open_replica(recommender, url):
    opened = []

    def start(mode="memory") -> Replica:
        opened.append(Replica.open(url, "demo", mode))
        return opened[-1]

    yield start
    for replica in opened:
        replica.close()


@MODES
def test_look_ups_are_the_trainers_rows(open_replica, recommender, mode):
    replica, ids = open_replica(mode), np.array([2, 99, 1], np.int64)
    rows = replica.lookup("user", ids)
    assert rows.dtype == np.float32
    assert np.array_equal(rows, recommender.tables["user"].lookup(ids))
    assert rows[0].any()
    assert not rows[1].any()


@MODES
def test_a_features_values_are_encoded_as_in_training(open_replica, recommender, mode):
    from monolith.tables.hashing import hash_string, salted

    replica = open_replica(mode)
    movies = recommender.tables["movie"].lookup(salted("movie", np.array([10, 11], np.int64)))
    assert np.array_equal(
        replica.lookup("last_movie", [10]), recommender.tables["movie"].lookup(salted("last_movie", np.array([10])))
    )
    assert np.array_equal(replica.lookup("movie", [10, 11]), movies)
    assert movies.any(axis=1).all()
    tag = np.array([hash_string("tags", "funny")], np.int64)
    assert np.array_equal(replica.lookup("tags", ["funny"]), recommender.tables["tags"].lookup(tag))
    assert np.array_equal(replica.lookup("tags", tag), recommender.tables["tags"].lookup(tag))


@MODES
def test_predictions_are_the_models(open_replica, recommender, samples, mode):
    prediction = open_replica(mode).predict(samples)
    assert prediction.version.sequence == 1
    np.testing.assert_allclose(prediction.probabilities, recommender.probabilities(samples), rtol=1e-6)
    assert len(set(prediction.probabilities.tolist())) == len(samples)


@MODES
def test_no_samples_and_no_ids_are_answered(open_replica, mode):
    replica = open_replica(mode)
    assert replica.lookup("user", []).shape == (0, 4)
    assert replica.predict([]).probabilities.shape == (0,)


@MODES
def test_bad_questions_are_input_errors(open_replica, mode):
    replica = open_replica(mode)
    for name, values, message in [
        ("nothing", [1], r"no table or feature 'nothing', it has .*'movie'"),
        ("user", ["one"], "takes an integer"),
        ("user", [1.5], "takes an integer"),
        ("user", [None], "is null"),
        ("user", [2**63], "does not fit 64 bits"),
        ("tags", [[1]], "'tags'"),
    ]:
        with pytest.raises(InputError, match=message):
            replica.lookup(name, values)
    with pytest.raises(InputError, match=r"unknown_feature: sample 1: .*'colour'"):
        replica.predict([{"user": 1}, {"colour": 3}])
    with pytest.raises(InputError, match=r"sample 1: .*takes an integer"):
        replica.predict([{"user": 1}, {"user": "one"}])


def test_a_job_that_ignores_unknown_features_takes_an_events_own(recommender, samples):
    def gather(requests, weights, mask):
        rows = [np.ones((len(ids), 4), np.float32) for _, ids in requests]
        return Gathered(Version(), rows, load_weights(recommender.dense(), "here"))

    card = msgspec.structs.replace(recommender.card, ignore_unknown=True)
    inference = Inference(card, recommender.store.graph(), "here")
    known, more = (
        finished(inference.predict([rows], gather)) for rows in (samples, [s | {"colour": "red"} for s in samples])
    )
    assert np.array_equal(known.probabilities, more.probabilities)
    with pytest.raises(InputError, match=r"sample 0: .*takes an integer"):
        finished(inference.predict([[{"user": "one", "colour": 3}]], gather))


@MODES
def test_values_that_are_no_list_of_them_are_refused(open_replica, mode):
    replica = open_replica(mode)
    for name, values in (("user", 5), ("user", [[1], [2, 3]]), ("tags", 5), ("tags", [[[]]]), ("nothing", None)):
        with pytest.raises(InputError):
            replica.lookup(name, values)
    for samples in ([5], ["user"], [[("user", 1)]], [None]):
        with pytest.raises(InputError, match="sample 0"):
            replica.predict(samples)


def test_status_never_raises(open_replica, recommender):
    from monolith.serving import ledger

    replica = open_replica("direct")
    with recommender.store._transaction(write=True) as txn:
        txn.put("head", ledger.seal(b"{}")[:-1] + b"x")
    status = replica.status()
    assert not status.ready
    assert "checksum" in status.trouble


@MODES
def test_a_probability_that_is_no_number_is_refused(open_replica, recommender, samples, mode):
    nan = np.array([np.nan], np.float32)
    recommender.dense = lambda: save({"scale": nan, "bias": nan})
    recommender.publish()
    replica = open_replica(mode)
    with pytest.raises(InputError, match=r"gives no number for 3 of 3 samples, first sample 0"):
        replica.predict(samples)


@MODES
@pytest.mark.parametrize("timeout_s", [None, 600.0])
def test_a_store_of_another_model_is_refused_at_once_and_named(recommender, url, mode, timeout_s):
    with pytest.raises(ConfigError, match=r"is for model 'demo', not 'films'.*--model demo"):
        Replica.open(url, "films", mode, timeout_s=timeout_s)


@MODES
def test_a_model_without_a_graph_can_only_look_up(tmp_path, model, mode):
    store = open_store(f"lmdb://{tmp_path}/plain", "demo")
    generation = store.take_over(model.card).generation
    store.apply(model.delta(0), generation, model.lineage)
    with Replica(store, mode) as replica:
        assert replica.wait_until_ready(20)
        assert replica.lookup("user", [2])[0].tobytes() == model.states[3][2]
        with pytest.raises(InputError, match="no graph"):
            replica.predict([{"user": 2}])


@MODES
def test_what_is_published_can_be_read(open_replica, recommender, samples, mode):
    replica = open_replica(mode)
    for _ in range(3):
        recommender.learn([*samples, {"user": 55}])
        recommender.publish()
    assert replica.wait_for(4, 20)
    np.testing.assert_allclose(replica.predict(samples).probabilities, recommender.probabilities(samples), rtol=1e-6)
    assert replica.lookup("user", [55]).any()
    assert replica.version().sequence == 4


def test_freshness_is_the_time_since_ingestion(open_replica, recommender):
    replica = open_replica()
    assert replica.freshness() is None
    for _ in range(3):
        recommender.publish()
    assert replica.wait_for(4, 20)
    freshness = replica.freshness()
    assert freshness.samples == 3
    assert 5 <= freshness.p50_ms <= freshness.p99_ms


def test_a_new_run_replaces_rows_and_weights(open_replica, start_recommender, samples, wait_until):
    replica = open_replica()
    other = start_recommender("run-2")
    other.learn([{"user": 400}])
    other.publish()
    wait_until(lambda: replica.version().lineage == "run-2", "the new run being served")
    assert not replica.lookup("user", [1, 2]).any()
    np.testing.assert_allclose(replica.predict(samples).probabilities, other.probabilities(samples), rtol=1e-6)
    assert replica.status().images == 2


def test_a_trainer_that_comes_back_is_followed_on(open_replica, recommender, url, samples):
    """The same run, card and graph under a new generation: no image is loaded again."""
    from monolith.serving.publisher import Publisher

    replica, again = open_replica(), open_store(url, "demo")
    publisher = Publisher(again)
    publisher.start(recommender.card, recommender.store.graph())
    recommender.learn(samples)
    (recommender.sequence,) = {table.cut() for table in recommender.tables.values()}
    publisher.publish(recommender.sequence, recommender.delta)
    assert replica.wait_for(2, 20)
    assert replica.version().generation == 2
    assert replica.status().images == 1
    again.close()


def test_another_graph_of_the_same_run_is_taken_up(open_replica, recommender, url, samples, wait_until):
    import onnx

    from monolith.serving.publisher import Publisher

    renamed = onnx.load_from_string(recommender.store.graph())
    renamed.graph.name = "another"
    replica, again = open_replica(), open_store(url, "demo")
    publisher = Publisher(again)
    publisher.start(recommender.card, renamed.SerializeToString())
    (recommender.sequence,) = {table.cut() for table in recommender.tables.values()}
    publisher.publish(recommender.sequence, recommender.delta)
    wait_until(lambda: replica.status().images == 2, "the image with the other graph being loaded")
    np.testing.assert_allclose(replica.predict(samples).probabilities, recommender.probabilities(samples), rtol=1e-6)
    again.close()


@MODES
def test_readers_in_many_threads_never_see_a_mixed_version(open_replica, recommender, samples, in_thread, mode):
    """Rows of all tables move by one a step and the bias is the step: an answer must fit one step exactly."""
    replica, done = open_replica(mode), threading.Event()
    expected = {1: recommender.probabilities(samples)}
    answers = []

    def ask() -> None:
        while not done.is_set():
            prediction = replica.predict(samples)
            answers.append((prediction.version.sequence, prediction.probabilities))

    for _ in range(3):
        in_thread(ask)
    for sequence in range(2, 40):
        recommender.learn(samples)
        recommender.publish()
        expected[sequence] = recommender.probabilities(samples)
    assert replica.wait_for(39, 20)
    done.set()
    assert len({sequence for sequence, _ in answers}) > 3
    for sequence, probabilities in answers:
        np.testing.assert_allclose(probabilities, expected[sequence], rtol=1e-5)


def test_opening_waits_for_the_first_model(url, start_recommender, in_thread, samples):
    opened = []
    opening = in_thread(lambda: opened.append(Replica.open(url, "demo", timeout_s=20)))
    trainer = start_recommender("run-1")
    trainer.learn(samples)
    trainer.publish()
    opening.join(20)
    assert opened[0].lookup("user", [1]).any()
    opened[0].close()


@MODES
def test_a_store_that_never_comes_is_unavailable_and_says_why(tmp_path, mode):
    with pytest.raises(UnavailableError, match="no LMDB store in"):
        Replica.open(f"lmdb://{tmp_path}/none", "demo", mode, timeout_s=0.1)


def test_before_the_first_model_a_replica_is_not_ready_and_answers_nothing(tmp_path):
    with Replica.open(f"lmdb://{tmp_path}/none", "demo", timeout_s=None) as replica:
        assert not replica.status().ready
        with pytest.raises(UnavailableError, match="no model yet"):
            replica.lookup("user", [1])


def test_a_mode_that_is_none_is_a_config_error(url):
    with pytest.raises(ConfigError, match="memory, direct"):
        Replica.open(url, "demo", "fast")


@pytest.mark.parametrize("mode", ["memory", "direct"])
def test_several_names_are_looked_up_together_with_which_were_found(recommender, url, mode):
    with Replica.open(url, "demo", mode) as replica:
        answer = replica.lookup_together({"user": [2, 99, 1], "tags": ["new", "none"], "movie": []})
        assert list(answer.rows) == ["user", "tags", "movie"]
        assert answer.rows["user"].found.tolist() == [True, False, True]
        assert answer.rows["tags"].found.tolist() == [True, False]
        assert answer.rows["movie"].found.shape == (0,)
        for name, values in (("user", [2, 99, 1]), ("tags", ["new", "none"]), ("movie", [])):
            assert answer.rows[name].values.tobytes() == replica.lookup(name, values).tobytes()
        assert (answer.version.generation, answer.version.sequence) == (1, 1)
        assert replica.lookup_together({}).rows == {}
        with pytest.raises(InputError, match="no table or feature 'none'"):
            replica.lookup_together({"user": [1], "none": [1]})


@pytest.mark.parametrize("mode", ["memory", "direct"])
def test_an_id_that_shares_a_row_is_not_found(start_recommender, url, samples, mode):
    recommender = start_recommender("run-1", absent=HashedTail(rows=4))
    recommender.learn(samples)
    recommender.publish()
    with Replica.open(url, "demo", mode) as replica:
        rows = replica.lookup_together({"user": [1, 99]}).rows["user"]
        assert rows.found.tolist() == [True, False]
        assert rows.values.tobytes() == replica.lookup("user", [1, 99]).tobytes()


def test_several_names_are_of_one_version_while_deltas_land(recommender, url, samples, in_thread):
    with Replica.open(url, "demo") as replica:
        ended = threading.Event()

        def train() -> None:
            for _ in range(30):
                recommender.learn(samples)
                recommender.publish()
            ended.set()

        in_thread(train)
        while not ended.is_set():
            answer = replica.lookup_together({"user": [2], "tags": ["new"], "last_movie": [10]})
            user, tags, last = (round(float(rows.values[0, 0])) for rows in answer.rows.values())
            assert (user, last) == (2 * tags, tags), answer
