"""What a data set is: files, features, label, split and terms, said once, for every reader and benchmark.

A reader yields tables of samples in the order of its files, with these columns: ``label`` (int8, 0 or 1), ``time_ms``
(int64; where a set has no time, ``START_MS`` and the sample's number), the features (int64 or string, null where a
value is missing), and where the set has them ``list`` (int64: consecutive samples that were shown together), ``part``
(int8: 0 to train, 1 to validate, 2 to test) and ``probability`` (float64: of a positive, in a generated set). A feature
of several values a sample is a list of them.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from monolith.datasets.sets.lines import Lines

LABEL, TIME, LIST, PART, PROBABILITY = "label", "time_ms", "list", "part", "probability"
KEY = "__key"  # by which samples are ordered; in files that are in the way later
RESERVED = (LABEL, TIME, LIST, PART, PROBABILITY, KEY)
START_MS = 946_684_800_000  # 2000-01-01: times of sets without any are counted from here, 1 ms a sample
PARTS = ("train", "valid", "test")

Table = Any  # a pyarrow.Table
Read = Callable[[Path, Lines], Iterator[Table]]  # of a folder


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which samples train, validate and test.

    ``time``: by time, the last ones test. ``lists``: the same, lists are whole and counted as one. ``random``: by a
    hash of the sample's number. ``given``: as the source split it.
    """

    kind: Literal["time", "lists", "random", "given"] = "time"
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0  # of random

    def __str__(self) -> str:
        if self.kind == "given":
            return "as the source gives it"
        shares = "/".join(f"{100 * share:g}" for share in self.shares)
        return {"time": "in order of time", "lists": "in order of time, lists whole", "random": "at random"}[
            self.kind
        ] + f", {shares}"


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A feature: one value, or none, a sample; ``bag``: any number of them."""

    name: str
    type: Literal["int", "string"] = "int"
    bag: bool = False


@dataclass(frozen=True)
class Form:
    """One of the forms in which a set's files are found."""

    files: tuple[str, ...]  # below the set's folder; `*` stands for anything
    read: Read
    sha256: Mapping[str, str] = field(default_factory=dict)  # file -> checksum, where it is known
    lines: int | None = None  # how many good and broken ones there are, where it is known


def files_like(folder: Path, name: str) -> list[Path]:
    """The files of a name, in which `*` stands for anything, below ``folder``, in order of name."""
    names = sorted(glob.glob(name, root_dir=folder)) if "*" in name else [name]
    return [folder / one for one in names if (folder / one).is_file()]


@dataclass(frozen=True)
class DataSet:
    """One set. ``item`` and ``group`` are features: what is shown, and within what GAUC compares."""

    name: str
    title: str
    terms: str
    features: tuple[Column, ...]
    item: str
    group: str
    split: Split
    label: str  # the rule, in words
    forms: tuple[Form, ...]
    time: str = "event time"  # what `time_ms` is, in words
    timed: bool = True  # False: what is prepared is numbered anew, in its order
    folder: str = ""  # where below $MONOLITH_DATA its files are looked for; empty: its name
