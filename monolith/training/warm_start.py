"""A job begins with what still fits of another run's model: of another version of the job, or of another job.

Tables are matched by name, dense weights by name, shape and what their columns stand for, streams by name. Whatever is
not taken is as in a fresh run, and the report names each part and says why (``tables/carry.py`` and
``dense_carry.py`` have the rules). The same job takes everything: its tables, dense weights, optimizer states and
places in the streams are those of the snapshot, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from monolith.card import CardFeature
from monolith.config import JobConfig, TableConfig
from monolith.config.changes import job_of_manifest
from monolith.errors import ConfigError, CorruptError, UnavailableError
from monolith.events import WATERMARK_START
from monolith.secrets import masked
from monolith.streaming.joiner_segments import read_joiner
from monolith.streaming.joiner_state import joiner_version
from monolith.streaming.journal import Positions
from monolith.streaming.marks import is_other, read_marks, state_of
from monolith.streaming.reader_state import STATE_FILE, ReaderState, decode_reader_state
from monolith.streaming.source import Begin, open_source
from monolith.tables.carry import carried, misfit, new_at
from monolith.tables.collection import Output
from monolith.tables.embedding import Embedding
from monolith.tables.schema import card_features
from monolith.training.dense_carry import carry_dense
from monolith.training.dense_state import read_dense_state
from monolith.training.embeddings import outputs_of
from monolith.training.learner import Learner
from monolith.training.models.columns import Network, Runs
from monolith.training.snapshot import Snapshot, find_snapshot
from monolith.training.start import About, Outcome, has_begun, read_start, strings_of, write_start

_OF_MODEL = ("dense.safetensors", "metrics.bin", "history.bin", "clock.bin", "start.json")


class _Streams(NamedTuple):
    """Where the run begins in its streams."""

    positions: Positions
    files: Mapping[str, bytes]  # with what waits there
    watermark_ms: int
    report: list[Outcome]


def warm_start(job: JobConfig, source: Path, *, begin: Begin = "kept", by: str = "monolith train --from") -> About:
    """Write the start of the run of ``job.state`` from the snapshot or state folder ``source``; returns what it is.

    ``begin``: the run reads its streams from where that run stood (``kept``), from their beginnings, or from where
    they end now. ``by``: the command, for people. A run that has begun from the same ``source`` is left as it is.
    Raises ConfigError where it has another start, and for a ``source`` that holds no snapshot or is of a job that this
    build cannot have; CorruptError for damage; UnavailableError for a stream that does not say where it ends.
    """
    state, given = Path(job.state), str(source.absolute())
    if has_begun(state):
        return _begun(state, given)
    if (start := read_start(state)) is not None and start.about.given != given:
        raise ConfigError(
            f"{state} has a start already ({start.about.origin}): leave --from out to begin with it, or give a new "
            f"`state`"
        )
    snapshot = _found(source)
    was = job_of_manifest(snapshot.manifest.job, str(snapshot.path))
    learner = Learner(job)
    report = [*_feature_report(was, job), *_carry_tables(was, job, snapshot, learner)]
    report += _carry_dense(was, job, snapshot, learner)
    streams = _streams(was, job, snapshot, begin)
    manifest = snapshot.manifest
    about = About(
        f"{by} {source}: model {manifest.model}, run {manifest.lineage or 'not begun'}, step {manifest.step}",
        streams.positions,
        given,
        streams.watermark_ms,
        [*report, *streams.report],
    )
    write_start(state, job, learner, about, strings_of(snapshot, learner), streams=streams.files)
    return about


def _begun(state: Path, given: str) -> About:
    start = read_start(state)
    if start is None or start.about.given != given:
        raise ConfigError(
            f"the run in {state} has begun, so it cannot start from another model any more: leave --from out to go on "
            f"with it, or give a new `state`"
        )
    return start.about


def _found(source: Path) -> Snapshot:
    """The snapshot that is meant; of a state folder whose run made none yet, the model that it starts from."""
    if (
        (source / "start").is_dir()
        and not (source / "snapshots").is_dir()
        and (start := read_start(source)) is not None
    ):
        return start.snapshot
    return find_snapshot(source)


# --- tables -----------------------------------------------------------------------------------------------------------


def _carry_tables(was: JobConfig, job: JobConfig, snapshot: Snapshot, learner: Learner) -> Iterator[Outcome]:
    folders, sequence = snapshot.tables(), snapshot.manifest.sequence + 1
    before, made = {table.name: table for table in was.tables}, dict[str, Embedding]()
    for config in job.tables:
        folder, old = folders.get(config.name), before.get(config.name)
        reason = "there was none"
        if folder is not None and old is not None:
            reason = misfit(folder, old, config) or _other_ids(was, job, old, config) or ""
        if folder is None or old is None or reason:
            made[config.name] = new_at(config, sequence)
            yield Outcome(f"table {config.name}", "new" if folder is None else "left", reason)
            continue
        table, rows, afresh = carried(folder, old, config)
        if table.sequence != sequence:
            raise CorruptError(f"{folder} is of sequence {table.sequence - 1}, its snapshot of {sequence - 1}")
        made[config.name] = table
        yield Outcome(f"table {config.name}", "partly taken" if afresh else "taken", _rows_text(rows, afresh))
    for name in sorted({*folders} - {*made}):
        yield Outcome(f"table {name}", "left", "the job has no such table")
    learner.collection.replace_tables(made)


def _rows_text(rows: int, afresh: tuple[str, ...]) -> str:
    return "; ".join([f"{rows:,} rows with values and stamps", *(afresh or ["optimizer states too"])])


def _other_ids(was: JobConfig, job: JobConfig, old: TableConfig, config: TableConfig) -> str | None:
    """Why an id of the table is of another value now."""
    before = {feature.name: _ids_of(feature) for feature in card_features(was)}
    for feature in card_features(job):
        if feature.name not in {*old.feature_names()} & {*config.feature_names()}:
            continue
        for key, now in _ids_of(feature).items():
            if (then := before[feature.name].get(key)) != now:
                return f"{key} of its feature {feature.name} was {then}, it is {now}: its ids mean something else"
    return None


def _ids_of(feature: CardFeature) -> dict[str, object]:
    """What says which id a value of the feature has."""
    config = feature.config
    how: dict[str, object] = {"type": config.type}
    if config.type == "string":
        how["seed of the hash"] = feature.seed
    if config.type == "float":
        how |= {"boundaries": config.boundaries, "transforms": config.transforms}
    if config.type in ("hour", "weekday"):
        how["utc_offset_h"] = config.utc_offset_h
    return how


def _feature_report(was: JobConfig, job: JobConfig) -> Iterator[Outcome]:
    """Features that came, went, or read another table; the others go without saying."""
    before, after = _readers(was), _readers(job)
    for name in [*after, *(name for name in before if name not in after)]:
        tables, others = before.get(name), after.get(name)
        if tables == others:
            continue
        if tables is None:
            yield Outcome(f"feature {name}", "new", "there was none")
        elif others is None:
            yield Outcome(f"feature {name}", "left", "the job has no such feature; rows of it go as they expire")
        else:
            moved = f"it read {_names(tables)}, it reads {_names(others)}: rows stay in the table in which they are"
            yield Outcome(f"feature {name}", "new", moved)


def _readers(job: JobConfig) -> dict[str, list[str]]:
    return {feature.name: [read.table for read in feature.reads] for feature in card_features(job)}


def _names(tables: list[str]) -> str:
    return ", ".join(tables) or "no table"


# --- the network ------------------------------------------------------------------------------------------------------


def _carry_dense(was: JobConfig, job: JobConfig, snapshot: Snapshot, learner: Learner) -> Iterator[Outcome]:
    old = read_dense_state(snapshot.read("dense.safetensors"))
    for found in carry_dense(old, _network(was), _network(job), learner.model, learner.optimizer, learner.modes):
        is_weight = not found.name.startswith(("all ", "dense "))
        yield Outcome(f"weight {found.name}" if is_weight else found.name, found.outcome, found.detail)


def _network(job: JobConfig) -> Network:
    """Its inputs by feature and table, and its tasks by name and loss: what a column that is called so stands for."""
    tables = {table.name: table for table in job.tables}
    vectors = tuple((_key(out), tables[out.table].vector_width(out.feature)) for out in outputs_of(job.tables))
    dense = [feature for feature in card_features(job) if not feature.reads]
    numbers: Runs = tuple((_number_key(feature), feature.config.width) for feature in dense)
    return Network(job.model, vectors, numbers, tuple((f"{task.name} ({task.loss})", 1) for task in job.labels))


def _key(out: Output) -> str:
    return out.feature if out.feature == out.table else f"{out.feature} in {out.table}"


def _number_key(feature: CardFeature) -> str:
    transforms = "".join(f", {step!r}" for step in feature.config.transforms)
    return f"{feature.name} ({feature.config.type}{transforms})"


# --- streams ----------------------------------------------------------------------------------------------------------


def _streams(was: JobConfig, job: JobConfig, snapshot: Snapshot, begin: Begin) -> _Streams:
    """The places of that run, with what waits there, where both runs read the same streams and make the same labels."""
    if STATE_FILE not in snapshot.manifest.files:
        return _Streams({}, {}, WATERMARK_START, [Outcome("streams", "new", "the snapshot is of no run that read any")])
    state = decode_reader_state(snapshot.read(STATE_FILE))
    if begin == "beginning":
        return _Streams({}, {}, WATERMARK_START, [Outcome("streams", "new", "--from-beginning")])
    waiting = _waiting(state, snapshot)
    if begin == "end":
        positions, outcomes = _ends(job)
        return _Streams(positions, {}, WATERMARK_START, [*outcomes, *_left(waiting)])
    now, then = _urls(job), _urls(was)
    read = [name for name, url in now.items() if name in state.lanes and then.get(name) == url]
    anew = _made_anew(job, snapshot, read)
    same = [name for name in read if name not in anew]
    report = [Outcome(f"stream {url}", *_place_text(state, name, same, anew)) for name, url in now.items()]
    if [*now] == same and {*same} == {*state.lanes} and _labels(was) == _labels(job):
        files = [name for name in snapshot.manifest.files if not name.startswith("tables/") and name not in _OF_MODEL]
        report += [Outcome("records that wait", "taken", f"{waiting:,}")] if waiting else []
        return _Streams({}, {name: snapshot.read(name) for name in files}, state.watermark_ms, report)
    positions = {now[name]: {p: lane.position for p, lane in state.lanes[name].items()} for name in same}
    return _Streams(positions, {}, WATERMARK_START, [*report, *_left(waiting)])


def _ends(job: JobConfig) -> tuple[Positions, list[Outcome]]:
    """Where the job's streams end now. Raises ConfigError and UnavailableError for one that does not say."""
    positions, report = dict[str, dict[int, int]](), list[Outcome]()
    for name, url in _urls(job).items():
        source = open_source(getattr(job.input, name))
        try:
            if not source.partitions():
                raise UnavailableError(f"{url} does not say where it ends: {source.missing}")
            positions[url] = source.end_position()
        finally:
            source.close()
        ends = ", ".join(f"partition {p} at {end:,}" for p, end in sorted(positions[url].items()))
        report.append(Outcome(f"stream {url}", "new", f"from its end: {ends}"))
    return positions, report


def _left(waiting: int) -> list[Outcome]:
    """What was read and made no sample yet, if it is read no more."""
    if not waiting:
        return []
    return [Outcome("records that wait", "left", f"{waiting:,} that were read and had no label yet make no sample")]


def _made_anew(job: JobConfig, snapshot: Snapshot, names: Sequence[str]) -> list[str]:
    """The streams that are others by now than those which the snapshot's run read under these URLs."""
    state = state_of(snapshot.path)
    known = {} if state is None else read_marks(state)
    return [name for name in names if name in known and is_other(known[name], getattr(job.input, name))]


def _place_text(state: ReaderState, name: str, same: Sequence[str], anew: Sequence[str]) -> tuple[str, str]:
    if name in anew:
        return "new", "it was made anew since that run read it: from its beginning"
    if name not in same:
        return "new", "that run did not read it: from its beginning"
    lanes = state.lanes[name]
    return "taken", "from " + ", ".join(f"partition {p} at {lane.position:,}" for p, lane in sorted(lanes.items()))


def _labels(job: JobConfig) -> object:
    """What the labels of records that wait depend on."""
    return [task.name for task in job.labels], job.labels if job.input.samples is None else None


def _urls(job: JobConfig) -> dict[str, str]:
    """The job's streams, each as its source is called: without options and secrets."""
    urls = {name: getattr(job.input, name) for name in ("samples", "features", "actions")}
    return {name: masked(url).partition("?")[0] for name, url in urls.items() if url is not None}


def _waiting(state: ReaderState, snapshot: Snapshot) -> int:
    """Records that were read and that no sample was made of yet."""
    held = sum(len(lane.held) for lanes in state.lanes.values() for lane in lanes.values())
    if joiner_version(state.joiner) == 1:  # of an early build, which did not say so in columns
        return held
    return read_joiner(state.joiner, snapshot.read).unlabelled() + held
