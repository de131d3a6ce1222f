from __future__ import annotations

from pathlib import Path

import pytest

from monolith import secrets
from monolith.errors import ConfigError
from monolith.secrets import check_references, is_masked, masked, remember, reveal, reveal_url, scrubbed


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """What one test reveals is no secret in another."""
    monkeypatch.setattr(secrets, "_revealed", set())


def test_variables_and_files_take_the_place_of_their_references(monkeypatch, tmp_path: Path):
    (tmp_path / "pass").write_text("s3cret\n")
    monkeypatch.setenv("HOST", "cache")
    assert reveal(f"redis://:${{file:{tmp_path}/pass}}@${{HOST}}:1") == "redis://:s3cret@cache:1"


def test_file_loses_one_newline_at_its_end_and_nothing_else(tmp_path: Path):
    for written, value in ((b" a \n\n", " a \n"), (b"a\r\n", "a"), (b"", "")):
        (tmp_path / "value").write_bytes(written)
        assert reveal(f"${{file:{tmp_path / 'value'}}}") == value


def test_empty_variable_is_a_value_and_an_unset_one_an_error(monkeypatch):
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)
    assert reveal("a${EMPTY}b") == "ab"
    with pytest.raises(
        ConfigError, match=r"no variable UNSET: set it \(empty, UNSET=, is a value\), or write \$\$\{UNSET"
    ):
        reveal("${UNSET}")


def test_two_dollars_stand_for_the_characters_and_one_alone_is_itself(monkeypatch):
    monkeypatch.setenv("A", "${B}")
    assert reveal("$${A} $5 $ {x}") == "${A} $5 $ {x}"
    assert reveal("${A}") == "${B}"  # what a variable holds is not looked at again


@pytest.mark.parametrize("text", ["${}", "${A-B}", "${A:-b}", "${1A}", "${file:}", "${A"])
def test_reference_that_can_never_be_replaced_is_refused_by_form(text):
    with pytest.raises(ConfigError, match=r"\$\$\{"):
        check_references(text)


def test_file_that_cannot_be_a_value_is_refused_by_name(tmp_path: Path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "large").write_bytes(b"x" * (secrets.MOST_BYTES + 1))
    for name, says in (("none", "cannot be read"), ("binary", "not UTF-8"), ("large", "at most")):
        with pytest.raises(ConfigError, match=f"{name}.*{says}"):
            reveal(f"${{file:{tmp_path / name}}}")


def test_password_may_have_any_characters_in_a_url(monkeypatch):
    monkeypatch.setenv("PW", "a/b@c:d?e%20")
    monkeypatch.setenv("DIR", "a/b")
    assert reveal_url("redis://u:${PW}@host/0") == "redis://u:a%2Fb%40c%3Ad%3Fe%2520@host/0"
    assert reveal_url("kafka://h/t?token=${PW}&x=1") == "kafka://h/t?token=a%2Fb%40c%3Ad%3Fe%2520&x=1"
    assert reveal_url("log://${DIR}/c") == "log://a/b/c"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:hunter2@h:1/0?model=m", "redis://***@h:1/0?model=m"),
        ("redis://u:hun/t@er2@h", "redis://***@h"),
        ("reddis://u:hunter2@h", "reddis://***@h"),
        ("kafka://u:hunter2@h:9092/t", "kafka://***@h:9092/t"),
        ("kafka://h/t?sasl_user=me&sasl_password=hunter2&x=1", "kafka://h/t?sasl_user=me&sasl_password=***&x=1"),
        ("store=redis://:hunter2@h", "store=redis://***@h"),
        ("redis://u:${PW}@h", "redis://u:${PW}@h"),
        ("redis://u:x${PW}@h", "redis://***@h"),
        ("kafka://h/t?sasl_password=${PW}", "kafka://h/t?sasl_password=${PW}"),
        ("log://a/b@c", "log://a/b@c"),
        ("lmdb:///a@b/c", "lmdb:///a@b/c"),
    ],
)
def test_masked_url_shows_references_and_no_password(url, shown):
    assert masked(url) == shown
    assert "hunter2" not in masked(url)
    assert is_masked(shown) == ("***" in shown)


def test_scheme_is_told_also_where_a_reference_stands_for_the_whole_url(monkeypatch):
    monkeypatch.setenv("STORE", "redis://h")
    monkeypatch.delenv("UNSET", raising=False)
    assert [secrets.scheme(url) for url in ("${STORE}", "kafka://${UNSET}/t", "a/b", "")] == ["redis", "kafka", "", ""]


def test_masked_url_cannot_be_opened():
    with pytest.raises(ConfigError, match="shown in place of a password"):
        reveal_url("redis://***@h")


def test_what_was_revealed_is_scrubbed_from_any_text(monkeypatch):
    monkeypatch.setenv("PW", "pa ss'word")
    monkeypatch.setenv("SHORT", "no")
    reveal("${PW}${SHORT}")
    reveal_url("redis://:dir%40ect@h")
    assert scrubbed("pa ss'word, pa%20ss%27word, dir@ect, none") == "***, ***, ***, none"
    assert scrubbed(repr("pa ss'word\n")) != repr("pa ss'word\n")


def test_value_that_is_a_setting_like_others_is_not_scrubbed(monkeypatch):
    monkeypatch.setenv("SIZE", "16384")
    assert reveal("${SIZE}", secret=False) == "16384"
    assert scrubbed("16384 rows") == "16384 rows"


def test_longer_secret_is_scrubbed_before_one_that_is_a_part_of_it():
    remember("secret")
    remember("secretive")
    assert scrubbed("secretive secret") == "*** ***"
