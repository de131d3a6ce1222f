from __future__ import annotations

import pytest

from monolith.errors import ConfigError
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
