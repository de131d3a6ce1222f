from __future__ import annotations

import pytest

from monolith.errors import ConfigError, InputError
from monolith.streaming.source import open_sink, open_source


@pytest.mark.parametrize("url", ["events", "ftp://x/y", "redis://x", "log:/x"])
def test_unknown_scheme_is_refused_with_the_allowed_ones(url):
    with pytest.raises(ConfigError, match=r"log://, kafka://, parquet://, memory://"):
        open_source(url)


def test_parquet_is_no_sink():
    with pytest.raises(ConfigError, match=r"log://, kafka://, memory://"):
        open_sink("parquet://x.parquet")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("log://", "names no place"),
        ("memory://a?color=red", "unknown option 'color'"),
        ("memory://a?partitions=many", "takes a number"),
        ("memory://a?partitions=0", "at least 1"),
        ("memory://a?partitions=1&partitions=2", "twice"),
        ("memory://a?bounded=yes", "allowed: 0, 1"),
        ("kafka://localhost", "HOST:PORT/TOPIC"),
    ],
)
def test_url_that_cannot_be_says_why(url, said):
    with pytest.raises(ConfigError, match=said):
        open_source(url)


@pytest.mark.parametrize("scheme", ["log", "memory"])
@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (("key", b"v", 1), "its key is 'key', allowed: bytes or None"),
        ((b"k", bytearray(2), 1), r"its value is bytearray\(b'.*'\), allowed: bytes or None"),
        ((b"k", b"v", 1.5), "its event time is 1.5, allowed: an int of 64 bits"),
        ((b"k", b"v", True), "its event time is True"),
        ((b"k", b"v", 2**63), f"its event time is {2**63}"),
        ((b"k", b"v"), "allowed: .key, value, event time in ms"),
    ],
)
def test_record_that_cannot_be_written_is_named_and_nothing_is_written(scheme, bad, said, tmp_path):
    url = f"{scheme}://{tmp_path}/stream"
    sink = open_sink(url)
    with pytest.raises(InputError, match=f"record 1: .*{said}"):
        sink.append([(b"k", b"v", -(2**63)), bad])
    source = open_source(url)
    assert source.end_position() == {0: 0}
    sink.append([(b"k", b"v", -(2**63)), (None, b"v", 2**63 - 1)])
    assert [record.event_time_ms for record in source.poll(9, 0.0)] == [-(2**63), 2**63 - 1]


def test_log_in_a_folder_that_cannot_be_made_asks_for_another(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/log.*choose another folder"):
        open_sink(f"log://{tmp_path}/file/log")


def test_log_whose_folder_cannot_be_made_is_a_config_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot make the folder of the log .*; choose another folder"):
        open_sink(f"log://{tmp_path}/file/log")
