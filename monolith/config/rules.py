"""What a job must satisfy beyond the type of each key: the rules that tie one part of the file to another.

Each rule is one function that yields what it finds wrong, with the way to the key that a person would change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from monolith.config.document import Keys, nearest
from monolith.config.feature_rules import broken_feature_rules
from monolith.config.job import JobConfig, TrainConfig
from monolith.config.kinds import HAS_ROWS_OF_IDS, broken_kind_rules
from monolith.config.label_rules import broken_label_rules
from monolith.config.model_rules import part_faults, setting_faults, sharing_faults, width_faults
from monolith.config.optimizer_rules import broken_optimizer_rules
from monolith.config.policy_rules import broken_policy_rules
from monolith.config.schema import Problem
from monolith.secrets import has_reference, masked

SOURCES = ("log", "kafka", "parquet", "memory")
PARTITIONED = ("log", "kafka")  # sources that several processes read beside each other
SINKS = ("log", "kafka", "memory")
STORES = ("lmdb", "redis", "rediss")

_DEVICE = re.compile(r"cpu|cuda(:[0-9]+)?")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")  # names become folder and key names


def broken_rules(job: JobConfig) -> Iterator[Problem]:
    """Every rule that ``job`` breaks; nothing where it is a job that can run."""
    streams = (_inputs, _partitions, _urls)
    parts = (_table_features, _declared_features, _group_by, _model, _optimizers, _policies, broken_label_rules)
    for rule in (_names, *streams, *parts, _clocks, _device):
        yield from rule(job)


def device_fault(name: str) -> str | None:
    """What is wrong with ``train.device``, whatever devices there are."""
    return None if _DEVICE.fullmatch(name) else f"{name!r} is no device; allowed: cpu, cuda, or cuda:N with a number N"


def _device(job: JobConfig) -> Iterator[Problem]:
    if fault := device_fault(job.train.device):
        yield ("train", "device"), fault


def _names(job: JobConfig) -> Iterator[Problem]:
    named: list[tuple[Keys, str]] = [(("name",), job.name)]
    named += [(("tables", i, "name"), table.name) for i, table in enumerate(job.tables)]
    named += [(("labels", i, "name"), task.name) for i, task in enumerate(job.labels)]
    for keys, name in named:
        if not _NAME.match(name):
            yield keys, f"{name!r} is no name; allowed: letters, digits, '_', '-' and '.', a letter or digit first"
    yield from _twice([(("tables", i, "name"), t.name) for i, t in enumerate(job.tables)], "table")
    yield from _twice([(("features", i, "name"), f.name) for i, f in enumerate(job.features)], "feature")
    yield from _twice([(("labels", i, "name"), task.name) for i, task in enumerate(job.labels)], "task")


def _inputs(job: JobConfig) -> Iterator[Problem]:
    given = [key for key in ("features", "actions", "samples") if getattr(job.input, key) is not None]
    if given not in (["features", "actions"], ["samples"]):
        seen = " and ".join(given) or "none of them"
        yield ("input",), f"give either both features and actions (to be joined) or samples alone; saw {seen}"


def _partitions(job: JobConfig) -> Iterator[Problem]:
    for key in ("features", "actions", "samples") if job.input.co_partitioned else ():
        scheme = (getattr(job.input, key) or "log").partition(":")[0]
        if scheme in SOURCES and scheme not in PARTITIONED:
            text = f"{key} is {scheme}://, which one process reads; allowed with it: {', '.join(PARTITIONED)}"
            yield ("input", "co_partitioned"), text


def _urls(job: JobConfig) -> Iterator[Problem]:
    for key in ("features", "actions", "samples"):
        yield from _url_problems(("input", key), getattr(job.input, key), SOURCES)
    yield from _url_problems(("input", "dead_letters"), job.input.dead_letters, SINKS)
    yield from _url_problems(("store",), job.store, STORES)


def _url_problems(keys: Keys, url: str | None, schemes: tuple[str, ...]) -> Iterator[Problem]:
    if url is None or has_reference(url.partition("://")[0]):  # what it names is seen when it is used
        return
    scheme, found, rest = url.partition("://")
    url = masked(url)
    allowed = ", ".join(f"{s}://" for s in schemes)
    if not found:
        yield keys, f"{url!r} is no URL; allowed: {allowed} followed by a place, for instance log://build/events"
    elif scheme not in schemes:
        yield keys, f"unknown scheme {scheme!r} in {url!r}{nearest(scheme, list(schemes))}; allowed: {allowed}"
    elif not rest:
        yield keys, f"{url!r} names no place after {scheme}://"
    elif scheme == "kafka" and not urlsplit(url).path.strip("/"):
        yield keys, f"{url!r} names no topic; write kafka://HOST:PORT/TOPIC"


def _table_features(job: JobConfig) -> Iterator[Problem]:
    if not job.tables:
        yield ("tables",), "the list is empty; a job needs at least one table"
    reads: list[tuple[Keys, str]] = [
        (("tables", i, "features", j) if table.features else ("tables", i, "name"), feature)
        for i, table in enumerate(job.tables)
        for j, feature in enumerate(table.feature_names())
    ]
    for i, table in enumerate(job.tables):
        yield from _twice(
            [(keys, name) for keys, name in reads if keys[1] == i], "feature", f"is read twice by {table.name!r}"
        )


def _declared_features(job: JobConfig) -> Iterator[Problem]:
    read = job.feature_names()
    for i, feature in enumerate(job.features):
        is_dense = feature.type in ("float", "bool") and not feature.boundaries
        if feature.name not in read and not is_dense:
            text = f"no table reads the feature {feature.name!r}{nearest(feature.name, read)}; read: {', '.join(read)}"
            yield ("features", i, "name"), text
        for keys, text in broken_feature_rules(feature, is_read=feature.name in read):
            yield ("features", i, *keys), text
        kinds = {table.kind for table in job.tables if feature.name in table.feature_names()}
        if feature.keep_strings and kinds and not kinds & {*HAS_ROWS_OF_IDS}:
            text = f"strings go with the rows of their ids, and in {', '.join(kinds)} tables ids have none of their own"
            yield ("features", i, "keep_strings"), text


def _group_by(job: JobConfig) -> Iterator[Problem]:
    """The default is a guess at what users are called: a job without such a feature has no within-user AUC."""
    read, name = job.feature_names(), job.train.group_by
    if name == TrainConfig().group_by:
        return
    if name not in read:
        text = f"no table reads the feature {name!r}{nearest(name, read)}; read: {', '.join(read)}"
        yield ("train", "group_by"), text
    elif job.feature(name).bag:
        yield ("train", "group_by"), f"the feature {name!r} is a bag, which names no group; allowed: a single value"


def _model(job: JobConfig) -> Iterator[Problem]:
    widths, places = _widths(job)
    for name, text in width_faults(job.model.kind, widths):
        yield places[name], text
    numbers = {table.name: i for i, table in enumerate(job.tables)}
    for name, text in sharing_faults(job.model.kind, job.tables):
        yield ("tables", numbers[name], "kind"), text
    read = job.feature_names()
    has_dense = any(feature.name not in read for feature in job.features)
    for text in part_faults(job.model.kind, has_dense=has_dense, tasks=len(job.labels)):
        yield ("model", "kind"), text
    for key, text in setting_faults(job.model):
        yield ("model", key), text


def _widths(job: JobConfig) -> tuple[dict[str, int], dict[str, Keys]]:
    """The width of each table's vectors, of each feature's where they differ in it; and the key that says it."""
    widths: dict[str, int] = {}
    places: dict[str, Keys] = {}
    for i, table in enumerate(job.tables):
        apart = len({table.vector_width(name) for name in table.feature_names()}) > 1
        for feature in table.feature_names():
            name = f"{feature}@{table.name}" if apart else table.name
            widths[name] = table.vector_width(feature)
            places[name] = ("tables", i, "probes", feature) if feature in table.probes else ("tables", i, "dim")
    return widths, places


def _optimizers(job: JobConfig) -> Iterator[Problem]:
    for i, table in enumerate(job.tables):
        for keys, text in broken_optimizer_rules(table):
            yield ("tables", i, *keys), text


def _policies(job: JobConfig) -> Iterator[Problem]:
    for i, table in enumerate(job.tables):
        for keys, text in (*broken_kind_rules(table), *broken_policy_rules(table)):
            yield ("tables", i, *keys), text


def _clocks(job: JobConfig) -> Iterator[Problem]:
    if job.join.dedup_s < job.join.window_s:
        text = (
            f"dedup_s ({job.join.dedup_s:g}) is shorter than window_s ({job.join.window_s:g}): "
            "a repeated event inside the window would count twice"
        )
        yield ("join", "dedup_s"), text


def _twice(
    named: list[tuple[Keys, str]], what: str, fault: str = "is there twice; names are unique"
) -> Iterator[Problem]:
    seen: set[str] = set()
    for keys, name in named:
        if name in seen:
            yield keys, f"the {what} {name!r} {fault}"
        seen.add(name)
