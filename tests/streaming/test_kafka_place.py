from __future__ import annotations

import ssl

import pytest

from monolith.errors import ConfigError
from monolith.streaming.kafka_place import place_of
from monolith.streaming.source import parse_url


def _place(url: str):
    return place_of(parse_url(url))


def test_url_without_a_user_is_plain_text():
    place = _place("kafka://a:1,b:2/topic?partitions=2")
    assert (place.servers, place.topic) == (["a:1", "b:2"], "topic")
    assert place.security == {"security_protocol": "PLAINTEXT"}


def test_user_is_known_over_tls_unless_it_is_said_otherwise(monkeypatch):
    monkeypatch.setenv("PASSWORD", "p/w:@%")
    place = _place("kafka://me%40work:${PASSWORD}@a:1,b:2/topic")
    context = place.security.pop("ssl_context")
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert place.servers == ["a:1", "b:2"]
    assert place.security == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "me@work",
        "sasl_plain_password": "p/w:@%",
    }
    assert "p/w" not in repr(place)


def test_password_may_be_written_as_it_is():
    assert _place("kafka://me:a/b@c@h:1/t?security_protocol=SASL_PLAINTEXT").security["sasl_plain_password"] == "a/b@c"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("kafka://h:1", "write kafka://HOST:PORT/TOPIC"),
        ("kafka://u:p@h:1", "write kafka://HOST:PORT/TOPIC"),
        ("kafka://u@h:1/t", "a user needs a name and a password"),
        ("kafka://:p@h:1/t", "a user needs a name and a password"),
        ("kafka://h:1/t?security_protocol=SASL_SSL", "it needs kafka://USER:PASSWORD"),
        ("kafka://u:p@h:1/t?security_protocol=SSL", "no user is allowed"),
        ("kafka://u:p@h:1/t?security_protocol=TLS", "allowed: SASL_SSL, SASL_PLAINTEXT, PLAINTEXT, SSL"),
        ("kafka://u:p@h:1/t?sasl_mechanism=GSSAPI", "allowed: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"),
        ("kafka://h:1/t?sasl_mechanism=PLAIN", "is for a user"),
        ("kafka://h:1/t?tls_ca=ca.pem", "is for TLS: set security_protocol"),
        ("kafka://h:1/t?security_protocol=SSL&tls_ca=none.pem", "tls_ca none.pem cannot be used: .*No such file"),
        ("kafka://h:1/t?security_protocol=SSL&tls_key=k.pem", "without tls_certificate"),
        ("kafka://h:1/t?security_protocol=SSL&tls_certificate=none.pem", "tls_certificate none.pem cannot be used"),
        ("kafka://h:1/t?security_protocol=SSL&tls_hostname=no", "allowed: check, ignore"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_connects(url, says):
    with pytest.raises(ConfigError, match=says):
        _place(url)


def test_certificates_for_another_name_are_taken_where_the_url_says_so():
    context = _place("kafka://h:1/t?security_protocol=SSL&tls_hostname=ignore").security["ssl_context"]
    assert not context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
