"""What `--set` options of a sweep span: values, ranges, grids, draws."""

from __future__ import annotations

import pytest

from monolith.errors import ConfigError
from monolith.sweep import space as space_module
from monolith.sweep.space import Axis, Span, space_of


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2,3", ("1", "2", "3")),
        ("[64],[128,64]", ("[64]", "[128,64]")),
        ("{kind: sgd, lr: 1}, {kind: adam}", ("{kind: sgd, lr: 1}", "{kind: adam}")),
        ("'a,b',c", ("'a,b'", "c")),
        ('"log://x?a=1,2",log://y', ('"log://x?a=1,2"', "log://y")),
        ("it's,so", ("it's", "so")),
    ],
)
def test_commas_outside_brackets_braces_and_quotes_separate_values(text, values):
    assert space_of([f"a.b={text}"]).axes == [Axis("a.b", values)]


def test_one_value_is_no_axis_but_every_trials_option():
    space = space_of(["a=1,2", "model.hidden=[64,32]", "store="])
    assert space.fixed == ["model.hidden=[64,32]", "store="]
    assert space.grid() == [("a=1",), ("a=2",)]


def test_the_grid_has_every_combination():
    assert space_of(["a=1,2", "b=x,y"]).grid() == [("a=1", "b=x"), ("a=1", "b=y"), ("a=2", "b=x"), ("a=2", "b=y")]
    assert space_of([]).grid() == [()]


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("0.001..0.1:log", Span(0.001, 0.1, whole=False, log=True)),
        ("1e-4..1", Span(1e-4, 1.0, whole=False, log=False)),
        ("8..64", Span(8, 64, whole=True, log=False)),
        ("-1..1", Span(-1, 1, whole=True, log=False)),
    ],
)
def test_a_range_has_two_ends_and_whole_ends_mean_whole_numbers(text, span):
    assert space_of([f"a={text}"]).axes == [Axis("a", span=span)]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["a=1,,2"], "a value between the commas is missing"),
        (["a=3..1"], "a range needs LOW < HIGH; saw 3 and 1"),
        (["a=0..1:log"], "a range needs 0 < LOW < HIGH"),
        (["a=1,2", "a=3,4"], "a is given twice"),
    ],
)
def test_what_is_no_set_of_values_is_refused_by_its_option(options, says):
    with pytest.raises(ConfigError, match=says):
        space_of(options)


def test_a_grid_refuses_a_range():
    with pytest.raises(ConfigError, match="a range is drawn from by --random"):
        space_of(["a=1..2"]).grid()


def test_draws_are_within_the_range_differ_and_grow_with_the_count():
    pytest.importorskip("optuna")
    space = space_of(["a=0.001..0.1:log", "b=1..3", "c=[1],[2,3]"])
    drawn = space.drawn(20, seed=4)
    assert len(set(drawn)) == 20
    assert all(0.001 <= float(a.removeprefix("a=")) <= 0.1 for a, _, _ in drawn)
    assert {b for _, b, _ in drawn} == {"b=1", "b=2", "b=3"}
    assert {c for _, _, c in drawn} == {"c=[1]", "c=[2,3]"}
    assert space.drawn(5, seed=4) == drawn[:5]
    assert space.drawn(5, seed=5) != drawn[:5]


def test_no_more_is_drawn_than_there_is():
    pytest.importorskip("optuna")
    assert sorted(space_of(["a=x,y"]).drawn(9, seed=0)) == [("a=x",), ("a=y",)]


def test_a_missing_optuna_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(
        ConfigError, match=r"--halving needs the package optuna .*pip install 'monolith-recsys\[sweep\]'"
    ):
        space_module.load_optuna("--halving")
