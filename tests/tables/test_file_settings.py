"""Settings that one build has and another has not, in a file: used ones are refused by name, others do no harm."""

import json

import msgspec
import numpy as np
import pytest

from monolith.errors import ConfigError, CorruptError, VersionError
from monolith.tables import FeatureRules, Table, TableConfig, TableFile, admission, expiry, optimizers
from monolith.tables.settings import config_of, settings_of

CONFIG = TableConfig(
    name="user",
    dim=3,
    features=["a", "b.c"],
    slices=[optimizers.Slice(1, optimizers.FTRL()), optimizers.Slice(2, optimizers.Adam(lr=0.5, steps="table"))],
    admission=admission.MinCount(3),
    per_feature={"b.c": FeatureRules(expiry=expiry.Idle(ttl_s=5.0))},
)
LATER = [  # a way to where a later build has a key that this one does not know
    [],
    ["slices", 1, "optimizer"],
    ["slices", 0],
    ["admission"],
    ["per_feature", "b.c", "expiry"],
    ["slices", 1, "optimizer", "schedule"],
]


@pytest.fixture
def with_key(tmp_path, parts_of):
    """The folder of a table's file that has a key more at a place of its settings, at its default or not."""

    def write(way: list, default: bool) -> str:
        table = Table(CONFIG)
        table.observe(np.arange(9), event_time_ms=0)
        path = table.save(tmp_path)
        saved = parts_of(path.read_bytes())
        header = json.loads(saved.header)
        at = header["settings"]
        for key in way:
            at = at[key]
        at["from_a_later_build"] = 7
        header["defaulted"] += [[*way, "from_a_later_build"]] if default else []
        saved.header = json.dumps(header).encode()
        path.write_bytes(saved.sealed())
        return str(tmp_path)

    return write


@pytest.mark.parametrize("way", LATER, ids=str)
def test_key_of_a_later_build_at_its_default_does_no_harm(with_key, way):
    assert Table.open(with_key(way, default=True)).config == CONFIG


@pytest.mark.parametrize("way", LATER, ids=str)
def test_key_of_a_later_build_that_is_used_is_refused_by_name_unless_a_config_is_given(with_key, way):
    folder = with_key(way, default=False)
    with pytest.raises(VersionError, match=r"table\.bin: the header's settings .*from_a_later_build"):
        Table.open(folder)
    opened = Table.open(folder, CONFIG)
    assert (opened.stats().counters, opened.config) == (9, CONFIG)
    with TableFile(folder) as file:
        assert sum(len(file.bucket(number)["counter_ids"]) for number in file.held) == 9


def test_key_that_an_earlier_build_did_not_have_has_its_default(tmp_path, parts_of):
    path = Table(CONFIG).save(tmp_path)
    saved = parts_of(path.read_bytes())
    header = json.loads(saved.header)
    for key in ("absent", "eviction", "pooling"):
        del header["settings"][key]
    saved.header = json.dumps(header).encode()
    path.write_bytes(saved.sealed())
    assert Table.open(tmp_path).config == CONFIG


def test_settings_of_other_rows_are_refused(tmp_path, parts_of):
    path = Table(CONFIG).save(tmp_path)
    saved = parts_of(path.read_bytes())
    saved.header = saved.header.replace(b'"storage":"float32"},"statistics"', b'"storage":"float16"},"statistics"')
    path.write_bytes(saved.sealed())
    with pytest.raises(CorruptError, match="settings are not those of a table of its rows"):
        Table.open(tmp_path)
    assert len(Table.open(tmp_path, CONFIG)) == 0


def test_settings_are_the_config_and_say_what_is_at_its_default():
    settings, defaulted = settings_of(CONFIG)
    assert config_of(json.loads(json.dumps(settings)), defaulted) == CONFIG
    assert "memory" not in settings
    assert ["pooling"] in defaulted
    assert ["slices", 1, "optimizer", "beta1"] in defaulted
    assert ["slices", 1, "optimizer", "lr"] not in defaulted
    assert ["per_feature", "b.c", "admission"] in defaulted


def test_rows_must_be_those_of_the_config_that_is_given(tmp_path):
    Table(CONFIG).save(tmp_path)
    with pytest.raises(ConfigError, match="saved with optimizer kind '1 x ftrl \\+ 2 x adam'"):
        Table.open(tmp_path, msgspec.structs.replace(CONFIG, slices=[]))
