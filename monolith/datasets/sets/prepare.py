"""Prepares a data set: its files are checked, read, ordered, cut and written as Parquet that `monolith fit` reads.

A prepared folder has ``train.parquet``, ``valid.parquet``, ``test.parquet``, ``about.json`` and ``job.yaml``, a job
that fits a model on it. It is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from monolith.datasets.sets.about import ABOUT, About, FeatureAbout, PartAbout
from monolith.datasets.sets.description import LABEL, PARTS, PROBABILITY, START_MS, TIME, DataSet, Form, files_like
from monolith.datasets.sets.job_text import job_text
from monolith.datasets.sets.lines import Lines
from monolith.datasets.sets.ordering import ROW_GROUP, Ordering, Tell
from monolith.disk import scratch_beside
from monolith.errors import ConfigError, CorruptError, NoSamplesError, UnavailableError

_COUNTED = 1 << 20  # rows of one column that are held to count its values
MOST_DISTINCT = 1_000_000  # beyond so many values of a feature they are not counted on


def prepare(
    data: DataSet, folder: Path, out: Path, *, most_broken: float = 0.001, any_version: bool = False, tell: Tell
) -> About:
    """Prepare ``data``, whose files are in ``folder``, in ``out``, in place of what was prepared there.

    Raises ConfigError for a file that is missing or an ``out`` that is something else, CorruptError for a file of
    another version (unless ``any_version``), RejectedError for too many broken lines, NoSamplesError for an empty part.
    """
    form, paths = found_form(data, folder)
    if "?" in str(out.absolute()):
        raise ConfigError(
            f"{out.absolute()} has a '?', behind which a URL has its options: name another folder by --to"
        )
    if out.exists() and not (out / ABOUT).is_file():
        raise ConfigError(f"{out} is there and is no prepared data set; name another folder by --to")
    sums = {_name_in(folder, path): _sha256(path) for path in paths}
    if not any_version:
        _check_versions(data, form, folder, sums)
    scratch = scratch_beside(out)
    try:
        scratch.mkdir(parents=True)
        about = _write(data, form, folder, scratch, (most_broken, any_version), sums, tell)
        shutil.rmtree(out, ignore_errors=True)
        (scratch / "job.yaml").write_text(job_text(about, out))
        scratch.rename(out)
    except OSError as error:
        raise UnavailableError(f"cannot write {out}: {error}; name another folder by --to") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return about


def found_form(data: DataSet, folder: Path) -> tuple[Form, list[Path]]:
    """The first form all of whose files are in ``folder``, and these. Raises ConfigError, naming what is missing."""
    for form in data.forms:
        found = [files_like(folder, name) for name in form.files]
        if all(found):
            return form, [path for paths in found for path in paths]
    wanted = ", or ".join(" and ".join(form.files) for form in data.forms)
    there = sorted(path.name for path in folder.iterdir())[:20] if folder.is_dir() else []
    has = f"it has {', '.join(there)}" if there else "it is empty" if folder.is_dir() else "there is no such folder"
    raise ConfigError(f"{data.name} needs {wanted} in {folder}: {has}. Name the folder by --from, or by MONOLITH_DATA")


def _name_in(folder: Path, path: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


def _check_versions(data: DataSet, form: Form, folder: Path, sums: Mapping[str, str]) -> None:
    for name, known in form.sha256.items():
        if sums.get(name) != known:
            raise CorruptError(
                f"{folder / name} has SHA-256 {sums.get(name)}, and {data.name} is made of the file with {known}: it "
                f"is another version, or damaged. Get the right one, or take this one by --any-version"
            )


def _write(
    data: DataSet, form: Form, folder: Path, scratch: Path, limits: tuple[float, bool], sums: dict[str, str], tell: Tell
) -> About:
    lines = Lines(limits[0])
    ordering = Ordering(data.split, scratch, tell)
    for table in form.read(folder, lines):
        ordering.take(table)
    lines.check()
    if form.lines is not None and lines.good + lines.broken != form.lines and not limits[1]:
        raise CorruptError(
            f"the files of {data.name} in {folder} have {lines.good + lines.broken:,} lines, the known version has "
            f"{form.lines:,}: it is another version, or a part. Get the right one, or take this one by --any-version"
        )
    parts = ordering.parts() if data.timed else _numbered(ordering.parts())
    counts = _write_parts(parts, scratch)
    for left in scratch.glob("*.parquet"):
        if left.stem not in PARTS:
            left.unlink()
    features = _count(data, scratch) if not (empty := [part for part in PARTS if part not in counts]) else []
    if empty:
        raise NoSamplesError(
            f"{data.name}: no sample of {lines.good:,} is in the part {empty[0]}, split {data.split}"
            f"{_times_of(data, counts, scratch)}"
        )
    about = About(
        name=data.name, title=data.title, terms=data.terms, label=data.label, time=data.time, split=data.split,
        item=data.item, group=data.group, features=features, parts=counts, files=sums, broken=lines.broken,
        broken_lines=lines.examples, best_auc=_best_auc(scratch),
    )  # fmt: skip
    (scratch / ABOUT).write_bytes(msgspec.json.format(msgspec.json.encode(about), indent=1) + b"\n")
    return about


def _times_of(data: DataSet, parts: Mapping[str, object], scratch: Path) -> str:
    """From when to when samples are, in words; nothing where there are none, or times only stand for an order."""
    if not (data.timed and parts):
        return ""
    ends = [pc.min_max(pq.read_table(scratch / f"{part}.parquet", columns=[TIME])[TIME]) for part in parts]
    first, last = min(end["min"].as_py() for end in ends), max(end["max"].as_py() for end in ends)
    return f"; samples of one moment are not divided, and these are from {first} to {last} ms since 1970"


def _write_parts(parts: Iterator[tuple[str, pa.Table]], scratch: Path) -> dict[str, PartAbout]:
    """Write each part's file, in row groups of `ROW_GROUP`."""
    writers: dict[str, Any] = {}
    waiting: dict[str, list[pa.Table]] = {}
    counts: dict[str, list[int]] = {}
    for part, table in parts:
        labels = table[LABEL].to_numpy()
        count = counts.setdefault(part, [0, 0])
        count[:] = count[0] + len(table), count[1] + int(labels.sum())
        if part not in writers:
            writers[part] = pq.ParquetWriter(scratch / f"{part}.parquet", table.schema, compression="zstd")
        held = waiting.setdefault(part, [])
        held.append(table)
        if sum(map(len, held)) >= ROW_GROUP:
            whole = pa.concat_tables(held)
            full = len(whole) // ROW_GROUP * ROW_GROUP
            writers[part].write_table(whole.slice(0, full), row_group_size=ROW_GROUP)
            waiting[part] = [whole.slice(full)]
    for part, writer in writers.items():
        if any(map(len, waiting[part])):
            writer.write_table(pa.concat_tables(waiting[part]), row_group_size=ROW_GROUP)
        writer.close()
    return {part: PartAbout(*counts[part]) for part in PARTS if part in counts}


def _numbered(parts: Iterator[tuple[str, pa.Table]]) -> Iterator[tuple[str, pa.Table]]:
    """The same, each sample a ms behind the one before, for sets whose times only stand for an order."""
    first = START_MS
    for part, table in parts:
        index = table.schema.get_field_index(TIME)
        yield part, table.set_column(index, TIME, pa.array(np.arange(first, first + len(table))))
        first += len(table)


def _count(data: DataSet, folder: Path) -> list[FeatureAbout]:
    """How many values each feature has in the training part."""
    result = []
    for feature in data.features:
        seen, missing = np.zeros(0, np.int64), 0
        for batch in pq.ParquetFile(folder / "train.parquet").iter_batches(_COUNTED, columns=[feature.name]):
            column = batch.column(0)
            missing += column.null_count
            if len(seen) < MOST_DISTINCT:
                seen = np.union1d(seen, _numbers_of(column.flatten() if feature.bag else column))
        result.append(FeatureAbout(feature.name, feature.type, min(len(seen), MOST_DISTINCT), missing, feature.bag))
    return result


def _numbers_of(column: pa.Array) -> Any:
    """An int64 for each different value: itself, or the hash of a text, of which two in 2^64 may be taken for one."""
    values = column.unique().drop_null()
    if pa.types.is_integer(values.type):
        return values.to_numpy()
    hashes = (xxhash.xxh3_64_intdigest(text) for text in values.cast(pa.binary()).to_pylist())
    return np.fromiter(hashes, np.uint64, len(values)).view(np.int64)


def _best_auc(folder: Path) -> float | None:
    """The AUC of the true probabilities on the test part, where they are known."""
    path = folder / "test.parquet"
    if PROBABILITY not in pq.read_schema(path).names:
        return None
    from monolith.training.ranking import auc

    table = pq.read_table(path, columns=[PROBABILITY, LABEL])
    return auc(table[PROBABILITY].to_numpy().astype(np.float32), table[LABEL].to_numpy().astype(np.float32))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
