"""Secrets: how a text refers to one, when the reference is replaced, and how neither the secret nor a password in a URL
gets out.

    ${NAME}        the environment variable NAME; empty is a value, unset is an error
    ${file:PATH}   what the file holds, less one newline at its end; a job file may write {file: PATH} for a whole value
    $${            the two characters ${ themselves

`reveal` replaces references and is called just before use, so that texts which are kept or shown (the kept job,
manifests, names of streams and stores in logs and errors) hold the reference. What it reveals is remembered by this
process, and `scrubbed` takes it out of texts that somebody else wrote, such as a library's error. `masked` takes out
passwords that were written into a URL directly. Any thread may call anything here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote

from monolith.errors import ConfigError

MASK = "***"
LEAST_SCRUBBED = 4  # characters: a shorter secret is everywhere, as part of words
MOST_BYTES = 64 * 1024  # of a file that holds a secret

_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_WITHOUT_USERS = ("log", "lmdb", "parquet", "memory")  # an @ in these URLs is part of a path
_USERINFO = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)@", re.DOTALL)
_OPTION = re.compile(r"(?i)([?&][a-z0-9_.]*(?:password|passwd|secret|token|credential|api_?key)[a-z0-9_.]*=)([^&\s]*)")
_ONE_REFERENCE = re.compile(r"\$\{[^{}]*\}")

_revealed: set[str] = set()


def has_reference(text: str) -> bool:
    """Whether ``text`` is another one once it is revealed."""
    return "${" in text


def file_reference(path: str) -> str:
    """The text that means what the file ``path`` holds."""
    return f"${{file:{path}}}"


def check_references(text: str) -> None:
    """Raise ConfigError for a reference that can never be replaced, whatever the environment."""
    _replaced(text, lambda inner, _: _checked(inner))


def reveal(text: str, *, secret: bool = True) -> str:
    """``text`` with its references replaced. Raises ConfigError naming the variable or file, never its value.

    ``secret=False``: what was revealed is a setting like others, and `scrubbed` leaves it.
    """
    return _replaced(text, lambda inner, _: _value(inner, secret=secret))


def reveal_url(url: str) -> str:
    """As `reveal`; a value in the place of user and password, or among the options, is percent-encoded on its way in.

    So a password may have any characters. A password that stands in ``url`` itself is remembered too.
    """
    if is_masked(url):
        raise ConfigError(f"{url!r} is the text that is shown in place of a password; give the password itself")
    userinfo = _USERINFO.match(url)
    least, options = userinfo.end() if userinfo else 0, url.find("?")

    def value(inner: str, place: int) -> str:
        found = _value(inner, secret=True)
        is_part = userinfo is not None and userinfo.end(1) < place < least
        return quote(found, safe="") if is_part or 0 <= options < place else found

    revealed = _replaced(url, value)
    _remember_passwords(revealed)
    return revealed


def scheme(url: str) -> str:
    """The kind of ``url``, such as ``kafka``, also where a reference stands for all of it; empty for no URL."""
    head, found, _ = (reveal_url(url) if url.startswith("${") else url).partition("://")
    return head if found else ""


def masked(url: str) -> str:
    """``url``, or a text with one in it, for people and for files that are kept: references stay, passwords do not."""
    text = _OPTION.sub(lambda m: m[0] if _ONE_REFERENCE.fullmatch(m[2]) else m[1] + MASK, url)
    match = _USERINFO.search(text)
    if match is None or match[1] in _WITHOUT_USERS or _is_reference(match[2]):
        return text
    return f"{text[: match.end(1)]}://{MASK}@{text[match.end() :]}"


def is_masked(url: str) -> bool:
    """Whether ``url`` is what `masked` makes of another one, so that nothing can be opened with it."""
    return f"://{MASK}@" in url or bool((match := _OPTION.search(url)) and match[2] == MASK)


def scrubbed(text: str) -> str:
    """``text`` without what this process has revealed, and without passwords of URLs that it opened."""
    for secret in sorted(_revealed, key=len, reverse=True):
        text = text.replace(secret, MASK)
    return text


def remember(secret: str) -> None:
    """Have `scrubbed` take ``secret`` out of texts from now on."""
    for form in {secret, quote(secret, safe=""), repr(secret)[1:-1]}:
        if len(form) >= LEAST_SCRUBBED:
            _revealed.add(form)


def _is_reference(userinfo: str) -> bool:
    """Whether the password, or a user without one, is a reference and nothing else."""
    user, colon, password = userinfo.partition(":")
    return bool(_ONE_REFERENCE.fullmatch(password if colon and "${" not in user else userinfo.removeprefix(":")))


def _remember_passwords(url: str) -> None:
    match = _USERINFO.match(url)
    if match is not None and match[1] not in _WITHOUT_USERS:
        remember(unquote(match[2].partition(":")[2] or match[2]))
    for option in _OPTION.finditer(url):
        remember(unquote(option[2]))


def _replaced(text: str, value: Callable[[str, int], str]) -> str:
    def each(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        if match[1] is None:
            raise ConfigError(f"{masked(text)!r}: '${{' has no '}}' behind it; write $${{ for the characters")
        return value(match[1], match.start())

    return _REFERENCE.sub(each, text)


def _checked(inner: str) -> str:
    path = inner.removeprefix("file:")
    if (path == inner and not _NAME.fullmatch(inner)) or not path:
        raise ConfigError(
            f"${{{inner}}} names no variable; allowed: ${{NAME}} (letters, digits, '_'), ${{file:PATH}}, and $${{ for "
            f"the characters themselves"
        )
    return inner


def _value(inner: str, *, secret: bool) -> str:
    _checked(inner)
    found = _of_file(inner.removeprefix("file:")) if inner.startswith("file:") else os.environ.get(inner)
    if found is None:
        raise ConfigError(
            f"the environment has no variable {inner}: set it (empty, {inner}=, is a value), or write $${{{inner}}} "
            f"for the characters themselves"
        )
    if secret:
        remember(found)
    return found


def _of_file(path: str) -> str:
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"the file {path} cannot be read ({error}): mend the path, or give this user the right to read it"
        ) from None
    if len(data) > MOST_BYTES:
        raise ConfigError(f"the file {path} has {len(data):,} bytes; a value has {MOST_BYTES:,} at most")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise ConfigError(f"the file {path} is not UTF-8 text; a value is text") from None
    return text.removesuffix("\n").removesuffix("\r")
