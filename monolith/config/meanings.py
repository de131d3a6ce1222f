"""What each key of the job file means: the comment beside it in its struct, which is the one place where that is said.

The comment is at the end of the field's line, or, where there is none, in the lines right above the field. Structs that
are variants of one choice (`kind`) share many keys, and a key is explained in the first of them; so a variant's field
without a comment has the meaning of the field of that name in the variant of its module that explains it first.
"""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from functools import cache
from types import ModuleType

import msgspec

# The end of a key's name says the unit of its value.
UNITS = {
    "_s": "seconds",
    "_ms": "milliseconds",
    "_h": "hours",
    "_bytes": "bytes",
    "_rows": "rows",
    "_records": "records",
    "_samples": "samples",
    "_values": "values",
    "_steps": "steps",
    "_size": "samples",
}


def meaning(struct: type[msgspec.Struct], field: str) -> str:
    """One line on ``field``, empty where its struct has no comment on it."""
    module = inspect.getmodule(struct)
    assert module is not None  # a struct is defined in a module
    by_class = _comments(module)
    own = by_class.get(struct.__name__, {}).get(field, "")
    if own or not _is_variant(struct):
        return own
    variants = (name for name in by_class if _is_variant(getattr(module, name, None)))
    return next((by_class[name][field] for name in variants if by_class[name].get(field)), "")


def unit(field: str) -> str:
    """The unit of the field's value, as its name ends; empty for a value without one."""
    return next((word for ending, word in UNITS.items() if field.endswith(ending)), "")


def summary(struct: type[msgspec.Struct]) -> str:
    """The first paragraph of the struct's docstring, in one line."""
    return " ".join(inspect.cleandoc(struct.__doc__ or "").partition("\n\n")[0].split())


def _is_variant(struct: object) -> bool:
    return isinstance(struct, type) and issubclass(struct, msgspec.Struct) and struct.__struct_config__.tag is not None


@cache
def _comments(module: ModuleType) -> dict[str, dict[str, str]]:
    """Class -> field -> its comment, for every class of the module."""
    source = inspect.getsource(module)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    lines = source.splitlines()
    classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    return {node.name: {name: _beside(field, comments, lines) for name, field in _fields(node)} for node in classes}


def _fields(node: ast.ClassDef) -> list[tuple[str, ast.AnnAssign]]:
    return [(f.target.id, f) for f in node.body if isinstance(f, ast.AnnAssign) and isinstance(f.target, ast.Name)]


def _beside(field: ast.AnnAssign, comments: dict[int, str], lines: list[str]) -> str:
    """The comment at the end of the field, or the block of comments right above it."""
    found = [comments[n] for n in range(field.lineno, (field.end_lineno or field.lineno) + 1) if n in comments]
    if not found:
        number = field.lineno - 1
        while number in comments and lines[number - 1].lstrip().startswith("#"):
            found.insert(0, comments[number])
            number -= 1
    words = [comment.lstrip("# ").strip() for comment in found]
    return " ".join(word for word in words if word and not word.startswith(("noqa", "type:")))
