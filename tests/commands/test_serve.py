"""`monolith serve`: which store, which model, which settings."""

from __future__ import annotations

import pytest

from monolith.cli import parser
from monolith.commands.serve import what_to_serve
from monolith.config.job import ServeConfig
from monolith.errors import ConfigError

JOB = """
name: movies
store: lmdb:///tmp/movies
input: {samples: "memory://x"}
tables: [{name: user, dim: 4}]
serve: {threads: 3, max_rows: 7}
"""


def settings(*arguments: str) -> tuple[str, str, ServeConfig]:
    return what_to_serve(parser().parse_args(["serve", *arguments]))


def test_a_job_file_says_what_is_served_and_how(tmp_path):
    (tmp_path / "job.yaml").write_text(JOB)
    url, model, serve = settings(str(tmp_path / "job.yaml"), "--set", "serve.threads=4")
    assert (url, model) == ("lmdb:///tmp/movies", "movies")
    assert serve == ServeConfig(threads=4, max_rows=7)


def test_without_a_job_file_options_say_how():
    store = ("--store", "lmdb:///tmp/x", "--model", "movies")
    assert settings(*store)[2] == ServeConfig()
    assert settings(*store, "--set", "serve.head_timeout_s=0.5")[2] == ServeConfig(head_timeout_s=0.5)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("serve.max_rows=0", r"--set serve.max_rows=0: serve.max_rows: .*"),
        ("serve.max_row=1", r"unknown key 'max_row'.*did you mean 'max_rows'"),
        ("train.batch_size=1", r"unknown key 'train'"),
        ("serve.body_timeout_s=0", r"serve.body_timeout_s"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(option, message):
    with pytest.raises(ConfigError, match=message):
        settings("--store", "lmdb:///tmp/x", "--model", "movies", "--set", option)
