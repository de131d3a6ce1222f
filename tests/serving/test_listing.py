"""Models of a store without their names: `monolith inspect lmdb://...`, `monolith serve --store lmdb://...`."""

from __future__ import annotations

import pytest

from monolith.cli import main, parser
from monolith.commands.serve import what_to_serve
from monolith.errors import ConfigError, UnavailableError
from monolith.serving.listing import models, only_model


def shown(capsys, *words: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return ended.value.code, *capsys.readouterr()


def test_a_folder_lists_its_model_with_rows_and_ages(recommender, url):
    (listed,) = models(url)
    assert (listed.model, listed.version.generation, listed.version.sequence) == ("demo", 1, 1)
    assert listed.rows == sum(len(table) for table in recommender.tables.values())
    assert 0 <= listed.published_age_ms < 60_000
    assert listed.trainer_age_ms <= listed.published_age_ms
    assert listed.fault is None


def test_inspect_lists_the_model_and_shows_what_is_in_it(recommender, url, capsys):
    code, out, _ = shown(capsys, "inspect", url)
    first, *others = out.splitlines()
    assert code == 0
    assert first.startswith("model demo: generation 1, sequence 1, published ")
    assert first.endswith(" rows")
    assert any("table user: 2 rows of dim 4" in line for line in others)


def test_serve_needs_no_model_where_there_is_one(recommender, url):
    assert what_to_serve(parser().parse_args(["serve", "--store", url]))[:2] == (url, "demo")


def test_a_store_without_a_model_says_so(start_recommender, url, capsys):
    start_recommender("run-1").store.version()  # taken over, nothing published
    with pytest.raises(UnavailableError, match=r"holds no model yet.*--model"):
        only_model(url)
    code, _, err = shown(capsys, "inspect", url)
    assert code == 1
    assert "holds no model yet" in err


def test_a_folder_that_is_not_there_is_unavailable(tmp_path):
    with pytest.raises(UnavailableError):
        models(f"lmdb://{tmp_path}/nothing")
    assert not (tmp_path / "nothing").exists()


def test_serve_without_job_and_store_says_what_to_give():
    with pytest.raises(ConfigError, match="--store URL"):
        what_to_serve(parser().parse_args(["serve"]))
