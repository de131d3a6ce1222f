"""A job file as plain data that remembers where each value stands: in which line, or in which ``--set`` option.

Two things differ from plain PyYAML, both because a job file is written by people: a key that is given twice is an
error, and ``1e-3`` is a number (YAML 1.1 reads it as text).
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

import yaml

from monolith.echo import MOST_SHOWN, shown
from monolith.errors import ConfigError
from monolith.secrets import masked

Keys = tuple[str | int, ...]  # the way to a value: ("tables", 0, "dim")

EACH = "*"  # in an option's path: every element of a list

_OPTION = re.compile(r"^(?P<path>[^=\s]+?)\s*=(?P<value>.*)$", re.DOTALL)
_STEP = re.compile(r"\.?([^.\[\]]+)|\[([^\[\]]+)\]")


class _Yaml(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """PyYAML's safe loader, with exponents that need no decimal point."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


class Document:
    """The data of one job file; `where` says for any of its values where a person finds it."""

    def __init__(self, text: str, source: str) -> None:
        """Parse ``text``; raises `ConfigError` with ``source`` and the line where it is no YAML."""
        self.source = source
        self.revealed: dict[Keys, str] = {}  # what took a reference's place, not to be shown
        self.made: list[Keys] = []  # mappings that an option made, because the file had none there
        self._origins: dict[Keys, str] = {(): source}
        loader = _Yaml(text)
        try:
            node = loader.get_single_node()
            self.data: Any = {} if node is None else self._construct(loader, node, ())
        except yaml.YAMLError as error:
            raise ConfigError(_syntax_error(error, source)) from error
        finally:
            loader.dispose()

    def where(self, keys: Keys) -> str:
        """The file and line, or the option, of the value at ``keys`` or of the nearest value around it."""
        while keys not in self._origins:
            keys = keys[:-1]
        return self._origins[keys]

    def set(self, option: str) -> None:
        """Change values as ``a.b=c`` says, ``c`` being YAML; raises `ConfigError` naming the option.

        A list element is named by its number (``tables[0].dim``) or by its ``name`` (``tables.user.dim``); ``*`` stands
        for every element (``tables.*.dim``).
        """
        origin = f"--set {masked(option)}"
        match = _OPTION.match(option)
        if match is None:
            raise ConfigError(f"{origin}: not of the form key=value, for instance train.batch_size=64")
        for keys in self._resolve(match["path"], origin):
            value = Document(match["value"], origin)  # each place a value of its own
            self._put(keys, value.data if match["value"].strip() else None, origin)

    def _construct(self, loader: _Yaml, node: yaml.Node, keys: Keys) -> Any:
        self._origins[keys] = f"{self.source}:{node.start_mark.line + 1}"
        if isinstance(node, yaml.MappingNode):
            return self._construct_mapping(loader, node, keys)
        if isinstance(node, yaml.SequenceNode):
            return [self._construct(loader, child, (*keys, i)) for i, child in enumerate(node.value)]
        return loader.construct_object(node)

    def _construct_mapping(self, loader: _Yaml, node: yaml.MappingNode, keys: Keys) -> dict[str, Any]:
        self._refuse_twice(node, keys)
        loader.flatten_mapping(node)  # `<<: *anchor`
        data: dict[str, Any] = {}
        for key, value in node.value:
            data[str(key.value)] = self._construct(loader, value, (*keys, str(key.value)))
            self._origins[(*keys, str(key.value))] = f"{self.source}:{key.start_mark.line + 1}"
        return data

    def _refuse_twice(self, node: yaml.MappingNode, keys: Keys) -> None:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ConfigError(f"{self.source}:{line}: a key must be a word, not a list or a mapping")
            if key.value in seen:
                path = path_text((*keys, key.value))
                raise ConfigError(f"{self.source}:{line}: {path} is given twice, first in line {seen[key.value]}")
            seen[key.value] = line

    def _resolve(self, path: str, origin: str) -> list[Keys]:
        """The places that ``path`` means: one, or more where it holds a ``*``."""
        words = [a or b for a, b in _STEP.findall(path)]
        if not words or "".join(m.group(0) for m in _STEP.finditer(path)) != path:
            raise ConfigError(f"{origin}: {path!r} is no key path; write for instance tables.user.dim or tables[0].dim")
        places: list[tuple[Keys, Any]] = [((), self.data)]
        for word in words:
            places = [place for keys, here in places for place in _inside(here, word, keys, origin)]
        return [keys for keys, _ in places]

    def _put(self, keys: Keys, value: Any, origin: str) -> None:
        if not isinstance(self.data, dict):
            raise ConfigError(f"{origin}: {self.source} holds no mapping that a key could be set in")
        here = self.data
        for depth, key in enumerate(keys[:-1], start=1):
            if isinstance(here, dict) and here.get(key) is None:
                here[key] = {}
                self._origins[keys[:depth]] = origin
                self.made.append(keys[:depth])
            here = here[key]
            if not isinstance(here, dict | list):
                raise ConfigError(f"{origin}: {path_text(keys[:depth])} is {describe(here)}; it has no keys to set")
        here[keys[-1]] = value
        self._origins = {k: o for k, o in self._origins.items() if k[: len(keys)] != keys} | {keys: origin}


def path_text(keys: Keys) -> str:
    """``("tables", 0, "dim")`` as ``tables[0].dim``."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    return text.lstrip(".")


def describe(value: Any) -> str:
    """A value of a job file in people's words, short enough for an error."""
    if value is None:
        return "empty (null)"
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "boolean"), (int, "integer"), (float, "number"), (str, "text"), (list, "list"), (dict, "mapping"),
    )  # fmt: skip
    kind = next((word for type_, word in kinds if isinstance(value, type_)), type(value).__name__)
    return f"the {kind} {shown(masked(value) if isinstance(value, str) else value)}"


def nearest(word: str, allowed: list[str]) -> str:
    """`` (did you mean 'x'?)`` where one of ``allowed`` is close to ``word``, else nothing."""
    close = get_close_matches(word[:MOST_SHOWN].lower(), allowed, n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _inside(here: Any, word: str, keys: Keys, origin: str) -> list[tuple[Keys, Any]]:
    """The values in ``here``, which stands at ``keys``, that ``word`` means; None where there is none yet."""
    if word == EACH:
        if not isinstance(here, list) or not here:
            text = path_text(keys) or "the job"
            raise ConfigError(f"{origin}: {EACH} stands for the elements of a list, and {text} is {describe(here)}")
        return [((*keys, number), item) for number, item in enumerate(here)]
    if isinstance(here, list):
        step = _position(here, word, keys, origin)
        return [((*keys, step), here[step])]
    return [((*keys, word), here.get(word) if isinstance(here, dict) else None)]


def _position(items: list[Any], word: str, keys: Keys, origin: str) -> int:
    """The index that ``word`` means: a number, or the ``name`` of an element."""
    names = [str(item["name"]) for item in items if isinstance(item, dict) and "name" in item]
    if word in names:
        return next(i for i, item in enumerate(items) if isinstance(item, dict) and str(item.get("name")) == word)
    if word.isdigit() and int(word) < len(items):
        return int(word)
    allowed = f"0 to {len(items) - 1}" if items else "none, it is empty"
    by_name = f" or by name: {', '.join(names)}" if names else ""
    raise ConfigError(
        f"{origin}: {path_text(keys)} has no element {word!r}{nearest(word, names)}; allowed: {allowed}{by_name}"
    )


def _syntax_error(error: yaml.YAMLError, source: str) -> str:
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or str(error)
    place = f"{source}:{mark.line + 1}" if mark is not None else source
    return f"{place}: not YAML: {what}"
