"""The reference of the job file, `docs/job.md`, and its JSON Schema, `docs/job.schema.json`: made from the structs.

    python -m monolith.config.reference     # write both (`make docs` does)

A test holds both files to what the structs say, and every key to having a meaning (`monolith.config.meanings`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import inspect

from monolith.config.examples import example
from monolith.config.job import JobConfig
from monolith.config.json_schema import schema_text
from monolith.config.meanings import meaning, summary, unit

REQUIRED = "required"
DOCS = Path(__file__).parents[2] / "docs"

_INTRODUCTION = """\
# The job file

One job is one YAML file: where events come from, what the model reads and learns, where the result goes. This page
lists every key. `make docs` writes it from the structs in `monolith/config`; edit the comments there, not this page.

- **Start from your data**: `monolith init --from FILE.parquet --out job.yaml` writes a commented job file that runs
  ([tutorial](tutorial.md)).
- **Look before you run**: `monolith check job.yaml` says what the job would do.
- **Any key from the command line**: `--set train.batch_size=64`, `--set tables.user.dim=32` (a list's element by its
  `name`, or by its number: `tables[0].dim`). Keys that are left out have the default below.
- **In an editor**: with this as the first line of the job file, editors that speak YAML (the VS Code extension by Red
  Hat, JetBrains, Neovim with yaml-language-server) complete keys and mark mistakes. `monolith schema --out
  job.schema.json` writes the file.

      # yaml-language-server: $schema=job.schema.json

- **Values from outside**: `${VARIABLE}` and `{file: PATH}` may stand in place of any value, see
  [secrets](operations.md#secrets). In the table, a key of type *text, late* keeps the reference itself, which is
  replaced just before use; elsewhere the reference is replaced when the file is read.

Where a choice has several kinds, `kind` picks one: `optimizer: {kind: adam, lr: 0.001}`; each kind has keys of its own.
"""


@dataclass(frozen=True)
class Key:
    """One key of the job file."""

    path: str  # as in `--set`, with [] for any element of a list: tables[].dim
    name: str
    type_: inspect.Type
    default: str  # as YAML; REQUIRED where there is none
    meaning: str
    struct: type[msgspec.Struct]


@dataclass(frozen=True)
class Section:
    """The keys of one struct at one place."""

    path: str  # empty: the file's top level
    kind: str  # empty: not one of several kinds
    text: str  # what the struct is, in one line
    keys: list[Key]


def sections() -> Iterator[Section]:
    """Every struct of the job file, the outer before the inner, in declared order."""
    yield from _sections(inspect.type_info(JobConfig), "")


def all_keys() -> Iterator[Key]:
    """Every key of every section."""
    for section in sections():
        yield from section.keys


def job_md() -> str:
    """The text of `docs/job.md`. Raises ValueError naming a key without a meaning."""
    lines, last = [_INTRODUCTION, *_contents()], None
    for section in sections():
        lines += _lines(section, headed=section.path != last)
        last = section.path
    return "\n".join(lines).rstrip() + "\n"


def _sections(type_: inspect.Type, path: str) -> Iterator[Section]:
    """All kinds of one place, then what is inside them, each place once."""
    structs = list(_structs(type_))
    found = [_section(struct, path) for struct in structs]
    yield from found
    inside = {key.path: key.type_ for section in found for key in section.keys if key.path not in _SAID_ELSEWHERE}
    for key, inner in inside.items():
        yield from _sections(inner, key + _below(inner))


def _section(struct: inspect.StructType, path: str) -> Section:
    return Section(path, str(struct.tag or ""), summary(struct.cls), [_key(struct, f, path) for f in struct.fields])


# The same choices once more, further inside; the section they are described in.
_SAID_ELSEWHERE = {
    "tables[].slices[].optimizer": "tables[].optimizer",
    "tables[].per_feature.FEATURE.admission": "tables[].admission",
    "tables[].per_feature.FEATURE.expiry": "tables[].expiry",
}


def _key(struct: inspect.StructType, field: inspect.Field, path: str) -> Key:
    key = f"{path}.{field.encode_name}".lstrip(".")
    text = meaning(struct.cls, field.name) or next((summary(s.cls) for s in _own_struct(field.type)), "")
    if not text:
        raise ValueError(f"{key} has no meaning: write a comment beside {struct.cls.__name__}.{field.name}")
    return Key(key, field.encode_name, field.type, _default(field), text, struct.cls)


def _own_struct(type_: inspect.Type) -> list[inspect.StructType]:
    """The struct that the key stands for, unless it is one of several kinds."""
    structs = list(_structs(type_))
    return structs if len(structs) == 1 and not structs[0].tag else []


def _structs(type_: inspect.Type) -> Iterator[inspect.StructType]:
    match type_:
        case inspect.StructType():
            yield type_
        case inspect.UnionType():
            for each in type_.types:
                yield from _structs(each)
        case inspect.ListType():
            yield from _structs(type_.item_type)
        case inspect.DictType():
            yield from _structs(type_.value_type)
        case inspect.Metadata():
            yield from _structs(type_.type)


def _below(type_: inspect.Type) -> str:
    if isinstance(type_, inspect.UnionType):
        return "".join(_below(each) for each in type_.types[:1])
    return "[]" if isinstance(type_, inspect.ListType) else ".FEATURE" if isinstance(type_, inspect.DictType) else ""


def _default(field: inspect.Field) -> str:
    if field.required:
        return REQUIRED
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return as_yaml(_shortest(value))


def _shortest(value: Any) -> Any:
    """A struct as what differs from its own defaults: `{kind: adagrad}` says as much as all its keys."""
    if isinstance(value, list):
        return [_shortest(each) for each in value]
    if not isinstance(value, msgspec.Struct):
        return value
    tag = value.__struct_config__.tag
    return {"kind": tag} if tag else {}


def as_yaml(value: Any) -> str:
    """A value as YAML in one line."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        value = int(value)
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").strip()


# --- the page ---------------------------------------------------------------------------------------------------------


def _contents() -> Iterator[str]:
    places = dict.fromkeys(section.path for section in sections())
    yield "Sections: " + ", ".join(f"[{_name(path)}](#{_anchor(path)})" for path in places)
    yield ""


def _name(path: str) -> str:
    return f"`{path}`" if path else "top level"


def _anchor(path: str) -> str:
    words = path or "top level"
    return "".join(c if c.isalnum() or c in "_-" else "-" if c == " " else "" for c in words.lower())


def _lines(section: Section, *, headed: bool) -> Iterator[str]:
    if headed:
        yield f"## {_name(section.path)}"
        yield ""
    yield f"**`kind: {section.kind}`** {_code(section.text)}" if section.kind else _code(section.text)
    yield ""
    if not section.keys:
        return
    yield "| key | type | default | unit | meaning | example |"
    yield "|---|---|---|---|---|---|"
    for key in section.keys:
        default = "required" if key.default == REQUIRED else f"`{key.default}`"
        cells = [f"`{key.name}`", words(key.type_, key.path), default, unit(key.name), _code(key.meaning)]
        cells.append(f"`{key.name}: {as_yaml(example(key.path, key.type_, key.default))}`")
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _code(text: str) -> str:
    """The words of a docstring or comment as Markdown, in the values of YAML."""
    for python, in_yaml in (("``", "`"), ("None:", "null:"), ("True:", "true:"), ("False:", "false:")):
        text = text.replace(python, in_yaml)
    return text


def words(type_: inspect.Type, path: str = "") -> str:
    """The type for people, with a link to the section of a struct."""
    match type_:
        case inspect.Metadata():
            return words(type_.type, path) + (", late" if (type_.extra or {}).get("late") else "")
        case inspect.IntType() | inspect.FloatType():
            word = "integer" if isinstance(type_, inspect.IntType) else "number"
            limits = {">": type_.gt, ">=": type_.ge, "<": type_.lt, "<=": type_.le}
            bounds = " and ".join(f"{sign} {limit:g}" for sign, limit in limits.items() if limit is not None)
            return f"{word} {bounds}".rstrip()
        case inspect.LiteralType():
            return " or ".join(f"`{value}`" for value in type_.values)
        case inspect.StructType() | inspect.UnionType() if any(_structs(type_)):
            where = _SAID_ELSEWHERE.get(path, path + _below(type_))
            null = " or null" if isinstance(type_, inspect.UnionType) and type_.includes_none else ""
            return f"[{'mapping' if not next(_structs(type_)).tag else 'a kind'}](#{_anchor(where)}){null}"
        case inspect.UnionType():
            return " or ".join(words(each) for each in type_.types)
        case inspect.ListType():
            return f"list of {words(type_.item_type, path + '[]')}"
        case inspect.DictType():
            return f"mapping from {words(type_.key_type)} to {words(type_.value_type, path + '.FEATURE')}"
    return {
        inspect.StrType: "text",
        inspect.BoolType: "true or false",
        inspect.NoneType: "null",
        inspect.AnyType: "any value",
    }[type(type_)]


def main() -> None:
    """Write both files."""
    DOCS.joinpath("job.md").write_text(job_md(), encoding="utf-8")
    DOCS.joinpath("job.schema.json").write_text(schema_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
