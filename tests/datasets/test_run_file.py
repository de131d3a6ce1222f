from __future__ import annotations

import msgspec
import pytest

from monolith.config import parse_job
from monolith.datasets.run_file import NAME, RunFile, key_of
from monolith.errors import ConfigError, CorruptError


class Result(msgspec.Struct, frozen=True):
    key: str
    seed: int
    value: float = 0.0


def test_results_are_found_again_by_key_and_seed(tmp_path):
    with RunFile(tmp_path, Result) as file:
        file.append(Result("a", 0, 1.0))
        file.append(Result("b", 0, 2.0))
    with RunFile(tmp_path, Result) as file:
        file.append(Result("a", 1, 3.0))
        assert file.of("a") == {0: Result("a", 0, 1.0), 1: Result("a", 1, 3.0)}
        assert file.of("c") == {}


def test_a_line_that_a_kill_cut_off_is_removed(tmp_path):
    with RunFile(tmp_path, Result) as file:
        file.append(Result("a", 0))
    with (tmp_path / NAME).open("ab") as raw:
        raw.write(b'{"key":"a","se')
    with RunFile(tmp_path, Result) as file:
        assert file.of("a") == {0: Result("a", 0)}
        file.append(Result("a", 1))
        assert set(file.of("a")) == {0, 1}


def test_a_line_that_is_no_result_is_named(tmp_path):
    (tmp_path / NAME).write_text('{"key":"a","seed":0}\n{"seed":1}\n')
    with (
        RunFile(tmp_path, Result) as file,
        pytest.raises(CorruptError, match=rf"{NAME}:2: no result of this benchmark"),
    ):
        file.of("a")


def test_two_benchmarks_do_not_write_to_one_folder(tmp_path):
    with RunFile(tmp_path, Result), pytest.raises(ConfigError, match="another benchmark writes to"):  # noqa: SIM117
        with RunFile(tmp_path, Result):
            pass


def test_a_key_holds_what_results_depend_on_and_no_paths():
    def job(*sets: str):
        text = "{name: x, input: {samples: 'log://x'}, tables: [{name: user, dim: 3}]}"
        return parse_job(text, "x.yaml", list(sets))

    assert key_of(job()) == key_of(job("state=elsewhere", "seed=5", "input.samples=log://y"))
    assert key_of(job()) != key_of(job("train.batch_size=7"))
    assert key_of(job(), 1) != key_of(job(), 2)
