from __future__ import annotations

import pytest

from monolith.errors import ConfigError
from monolith.serving.store import open_store


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://h:1/0?tls_ca=ca.pem", r"unknown options \['tls_ca'\]"),
        ("rediss://h:1/0?tls_ca=none.pem", "tls_ca none.pem cannot be used: .*No such file"),
        ("rediss://h:1/0?tls_key=k.pem", "without tls_certificate"),
        ("rediss://h:1/0?tls_hostname=no", "allowed: check, ignore"),
        ("rediss://h/db", "names no host, port and database"),
    ],
)
def test_store_that_cannot_be_reached_by_its_url_is_refused_at_once(url, says):
    with pytest.raises(ConfigError, match=says):
        open_store(url, "demo")


def test_errors_do_not_show_the_password_of_a_store_over_tls():
    with pytest.raises(ConfigError) as refused:
        open_store("rediss://:hunter2@h:1/0?tls_ca=none.pem", "demo")
    assert "rediss://***@h:1/0: tls_ca none.pem" in str(refused.value)
