"""From a job file to a `JobConfig`: YAML, then ``--set`` options, then the types, then the rules.

A job that comes out has every key known and typed, every limit kept and every cross-check passed. One that does not
is refused by a single `ConfigError` that lists all that is wrong, each with its line or option.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import inspect

from monolith.config.default_kinds import give_kinds
from monolith.config.document import Document, path_text
from monolith.config.job import JobConfig, ServeConfig
from monolith.config.references import settle, without_passwords
from monolith.config.rules import broken_rules
from monolith.config.schema import Problem, problems
from monolith.errors import ConfigError
from monolith.secrets import MASK


def load_job(path: str | Path, sets: Iterable[str] = ()) -> JobConfig:
    """The job in the file ``path``, with each of ``sets`` (``"train.batch_size=64"``) put over it in order.

    Raises `ConfigError` naming file and line, or the option, the key's full path, what was seen and what is allowed.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the job file {path}: {error}") from error
    return parse_job(text, str(path), sets)


def parse_job(text: str, source: str, sets: Iterable[str] = ()) -> JobConfig:
    """As `load_job`, from YAML ``text``; ``source`` is its name in errors."""
    document = Document(text, source)
    for option in sets:
        document.set(option)
    give_kinds(document)
    _refuse(document, settle(document, inspect.type_info(JobConfig)))
    _refuse(document, problems(document.data, inspect.type_info(JobConfig)))
    job = msgspec.convert(document.data, JobConfig)
    _refuse(document, broken_rules(job))
    return job


def load_serve(sets: Iterable[str]) -> ServeConfig:
    """The server's settings where there is no job file: ``sets`` (``"serve.threads=4"``) over the defaults.

    Raises `ConfigError` as `load_job` does.
    """
    document = Document("{}", "the options")
    for option in sets:
        document.set(option)
    _refuse(document, settle(document, inspect.type_info(_ServeOnly)))
    _refuse(document, problems(document.data, inspect.type_info(_ServeOnly)))
    return msgspec.convert(document.data, _ServeOnly).serve


class _ServeOnly(msgspec.Struct, forbid_unknown_fields=True):
    serve: ServeConfig = ServeConfig()


def job_json(job: JobConfig) -> bytes:
    """Canonical JSON of ``job``: every key, defaults included, sorted; equal jobs give equal bytes.

    It holds no secret: references are in it as they stand in the job file, passwords in URLs are masked.
    """
    return msgspec.json.encode(without_passwords(msgspec.to_builtins(job)), order="sorted")


def job_from_json(data: bytes) -> JobConfig:
    """The job that `job_json` wrote; raises `ConfigError` where the bytes are none of this build's."""
    try:
        return msgspec.json.decode(data, type=JobConfig)
    except msgspec.DecodeError as error:
        raise ConfigError(f"the stored job cannot be read by this build: {error}") from error


def _refuse(document: Document, found: Iterable[Problem]) -> None:
    lines = [_line(document, problem) for problem in found]
    if len(lines) > 1:
        lines.insert(0, f"{document.source}: {len(lines)} things are wrong:")
    if lines:
        raise ConfigError("\n".join(lines))


def _line(document: Document, problem: Problem) -> str:
    keys, text = problem
    path = path_text(keys)
    if keys in document.revealed:
        text = _without(document.revealed[keys], text)
    return f"{document.where(keys)}: {path}: {text}" if path else f"{document.where(keys)}: {text}"


def _without(value: str, text: str) -> str:
    """``text`` on the value of a reference, without the value."""
    if len(value) > 40:  # what is shown of a longer one may be a part of it
        return "what the reference stands for does not fit; see docs/job.md for what the key takes"
    forms = (form for form in (value, repr(value)[1:-1]) if form)
    for form in forms:
        text = text.replace(form, MASK)
    return text
