"""``--set a.b=c``: list positions, elements by name, YAML values, errors that name the option."""

from __future__ import annotations

import pytest

from monolith.config.fit import LastPart
from monolith.config.optimizers import SGD, Adagrad, Adam


@pytest.mark.parametrize("option", ["tables.movie.dim=8", "tables[1].dim=8", "tables.1.dim=8", "tables[movie].dim = 8"])
def test_an_element_is_named_by_position_or_by_name(parse, option):
    others = ["tables.user.dim=8", "tables.genres.dim=8"]
    assert [t.dim for t in parse(sets=[option, *others]).tables] == [8, 8, 8]


def test_values_are_yaml(parse):
    job = parse(sets=["input.follow=false", "train.step_linger_s=1e-3", "tables.user.optimizer={kind: sgd, lr: 1}"])
    assert job.input.follow is False
    assert job.train.step_linger_s == 0.001
    assert job.tables[0].optimizer == SGD(lr=1.0)


def test_a_star_stands_for_every_element_also_one_without_the_section(parse):
    job = parse(sets=["tables.*.optimizer.lr=0.25"])
    assert [table.optimizer for table in job.tables] == [Adagrad(lr=0.25), Adam(lr=0.25, beta1=0.8), Adagrad(lr=0.25)]
    assert [table.dim for table in parse(sets=["tables[*].dim=7"]).tables] == [7, 7, 7]


def test_one_key_of_a_section_that_the_file_lacks_changes_the_default_kind(parse):
    assert parse(sets=["fit.validation.share=0.3"]).fit.validation == LastPart(share=0.3)
    sets = ["tables.genres.optimizer.lr=0.5", "tables.genres.optimizer.kind=sgd"]
    assert parse(sets=sets).tables[2].optimizer == SGD(lr=0.5)
    assert parse(sets=[sets[0], "tables.genres.optimizer={kind: sgd, lr: 1}"]).tables[2].optimizer == SGD(lr=1.0)


def test_a_value_may_hold_equal_signs_and_be_empty(parse):
    assert parse(sets=["input.features=log://x?partitions=2"]).input.features == "log://x?partitions=2"
    assert parse(sets=["store="]).store is None


def test_a_section_that_the_file_lacks_can_be_set(parse):
    assert parse(sets=["join.window_s=5"]).join.window_s == 5.0


def test_later_options_win(parse):
    assert parse(sets=["seed=1", "seed=2"]).seed == 2


def test_a_whole_value_replaced_forgets_the_lines_of_the_old_one(refused):
    option = "tables.movie.optimizer={kind: adam, beta3: 1}"
    assert refused(sets=[option]).startswith(f"--set {option}: tables[1].optimizer.beta3: unknown key 'beta3'")


def test_kind_can_be_changed_alone(parse):
    assert parse(sets=["tables.user.optimizer.kind=adam"]).tables[0].optimizer == Adam(lr=0.05)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("trian.batch_size=3", "trian: unknown key 'trian' (did you mean 'train'?)"),
        ("train.batch_siz=3", "train.batch_siz: unknown key 'batch_siz' (did you mean 'batch_size'?)"),
        ("train.batch_size=many", "train.batch_size: expected an integer >= 1; saw the text 'many'"),
        (
            "tables.usr.dim=8",
            "tables has no element 'usr' (did you mean 'user'?); allowed: 0 to 2 or by name: user, movie",
        ),
        ("tables[3].dim=8", "tables has no element '3'; allowed: 0 to 2 or by name"),
        ("tables[0].optimizer.kind=adamm", "unknown kind 'adamm' (did you mean 'adam'?)"),
        ("train.batch_size", "not of the form key=value"),
        ("=3", "not of the form key=value"),
        ("a..b=3", "is no key path"),
        ("*.dim=3", "* stands for the elements of a list, and the job is the mapping"),
        ("name.x=3", "name is the text 'movies'; it has no keys to set"),
        ("train.batch_size=[1", "not YAML"),
    ],
)
def test_a_bad_option_is_named_in_its_error(refused, option, says):
    assert refused(sets=[option], says=says).startswith(f"--set {option}")


def test_a_star_that_sets_what_is_not_there_is_refused_once_for_each_element(refused):
    text = refused(sets=["tables.*.eviction.max_row=3"], says="3 things are wrong")
    assert "--set tables.*.eviction.max_row=3: tables[2].eviction.max_row: unknown key 'max_row' of kind" in text
