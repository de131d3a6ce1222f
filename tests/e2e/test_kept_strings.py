"""`keep_strings: true` as a user meets it: train, fit, inspect, export, evaluate."""

from __future__ import annotations

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monolith.streaming.source import open_sink
from monolith.tables.hashing import hash_string

pytestmark = pytest.mark.e2e

MOMENT = 1_700_000_000_000
UNTIL = str(MOMENT + 300_000)
JOB = """\
name: words
input: {samples: "log://samples", follow: false}
tables:
  - {name: word, dim: 5, expiry: {kind: idle, ttl_s: 100}}
features:
  - {name: word, type: string, keep_strings: true}
model: {kind: fm}
train: {batch_size: 16, step_records: 16}
state: state
store: lmdb://store
"""


def sample(number: int, word: str) -> bytes:
    event = {
        "type": "sample",
        "v": 1,
        "request_id": f"r{number}",
        "item_id": "i",
        "event_time_ms": MOMENT + 1000 * number,
    }
    return json.dumps({**event, "features": {"word": word}, "label": number % 2}).encode()


@pytest.fixture(scope="module")
def words(tmp_path_factory, kit_class):
    """400 samples, a second apart: the words of the first half expire in the second."""
    kit = kit_class(tmp_path_factory.mktemp("words"))
    texts = [f"old {n % 9}" if n < 200 else f"new, {n % 5}" for n in range(400)]
    sink = open_sink(f"log://{kit.folder / 'samples'}")
    sink.append([(b"k", sample(n, text), MOMENT + 1000 * n) for n, text in enumerate(texts)])
    sink.close()
    (kit.folder / "words.yaml").write_text(JOB)
    done = kit.run("train", "words.yaml")
    assert done.returncode == 0, done.stderr
    return kit


def exported(kit, source: str, name: str) -> list[dict[str, str]]:
    done = kit.run("export", source, "--table", "word", "--out", name)
    assert done.returncode == 0, done.stderr
    return list(csv.DictReader((kit.folder / name).open()))


def test_export_has_the_value_of_each_id_and_those_of_expired_rows_are_gone(words):
    rows = exported(words, "state", "rows.csv")
    assert {row["value"]: int(row["id"]) for row in rows} == {
        text: hash_string("word", text) for text in (f"new, {n}" for n in range(5))
    }
    assert words.run("export", "state", "--table", "word", "--out", "rows.parquet").returncode == 0
    assert sorted(pq.read_table(words.folder / "rows.parquet")["value"].to_pylist()) == [f"new, {n}" for n in range(5)]


def test_a_store_has_no_strings(words):
    assert "value" not in exported(words, "lmdb://store", "served.csv")[0]


def test_inspect_says_how_many_strings_are_kept(words):
    assert "strings of word: 5 kept, 30 B" in words.run("inspect", "state").stdout


def test_evaluate_names_the_values_of_a_feature(words):
    shown = words.run("evaluate", "words.yaml", "--by", "word")
    assert shown.returncode == 0, shown.stderr
    assert "    new, 3: samples 40" in shown.stdout


def test_evaluate_of_rows_of_parquet_names_what_the_model_kept(words):
    columns = {"word": ["new, 1"] * 6, "t": MOMENT + 400_000, "y": [0, 1] * 3}
    rows = pa.table({**columns, "t": [MOMENT + 400_000 + n for n in range(6)]})
    pq.write_table(rows, words.folder / "more.parquet")
    url = "parquet://more.parquet?time=t&item=word&features=word&label=y"
    for keeps in ("true", "false"):
        options = ["--on", url, "--set", f"features.word.keep_strings={keeps}"]
        shown = words.run("evaluate", "words.yaml", "--by", "word", *options)
        assert "    new, 1: samples 6" in shown.stdout, shown.stdout + shown.stderr


def test_strings_that_were_fitted_are_those_of_the_run_that_goes_on(words, kit):
    (kit.folder / "words.yaml").write_text(JOB.replace("log://samples", f"log://{words.folder}/samples"))
    fitted = kit.run("fit", "words.yaml", "--set", "fit.epochs=1", "--until", UNTIL)
    assert fitted.returncode == 0, fitted.stderr
    (start,) = (kit.folder / "state/start").glob("0*")
    assert {row["value"] for row in exported(kit, str(start), "fitted.csv")} >= {"old 0", "new, 1"}
    trained = kit.run("train", "words.yaml")
    assert trained.returncode == 0, trained.stderr
    assert {row["value"] for row in exported(kit, "state", "rows.csv")} == {f"new, {n}" for n in range(5)}


def test_strings_may_be_asked_for_and_given_up_between_two_starts(words, kit):
    job = JOB.replace("log://samples", f"log://{words.folder}/samples")
    (kit.folder / "words.yaml").write_text(job.replace(", keep_strings: true", ""))
    assert kit.run("train", "words.yaml").returncode == 0
    assert "value" not in exported(kit, "state", "none.csv")[0]
    asked = kit.run("train", "words.yaml", "--set", "features.word.keep_strings=true")
    assert asked.returncode == 0, asked.stderr
    assert "setting changed key=features[0].keep_strings" in asked.stderr
