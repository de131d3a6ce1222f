"""What is known of a prepared data set: `about.json` in its folder."""

from __future__ import annotations

from pathlib import Path

import msgspec

from monolith.datasets.sets.description import PARTS, Split
from monolith.errors import ConfigError

ABOUT = "about.json"
VERSION = 1


class FeatureAbout(msgspec.Struct, frozen=True, omit_defaults=True):
    """A feature in the training part."""

    name: str
    type: str
    values: int  # different ones; at most a million are counted
    missing: int  # samples without any
    bag: bool = False  # a sample has several


class PartAbout(msgspec.Struct, frozen=True):
    """How many samples a part has, and how many of them are positive."""

    samples: int
    positives: int


class About(msgspec.Struct, frozen=True, kw_only=True):
    """A prepared data set."""

    version: int = VERSION
    name: str
    title: str
    terms: str
    label: str
    time: str
    split: Split
    item: str
    group: str
    features: list[FeatureAbout]
    parts: dict[str, PartAbout]
    files: dict[str, str]  # source file -> SHA-256
    broken: int  # lines that could not be used
    broken_lines: list[str]  # the first of them
    best_auc: float | None = None  # of the truth on the test part, where the set is generated

    def lines(self) -> list[str]:
        """What a person wants to know, for a terminal."""
        parts = ", ".join(
            f"{name} {part.samples:,} ({part.positives / part.samples:.2%} positive)"
            for name, part in self.parts.items()
        )
        said = [f"{self.name}: {self.title}", f"label: {self.label}", f"split: {self.split} ({self.time}): {parts}"]
        width = max(len(feature.name) for feature in self.features)
        for feature in self.features:
            missing = f", missing {feature.missing:,}" if feature.missing else ""
            several = ", several a sample" if feature.bag else ""
            said.append(f"  {feature.name:{width}}  {feature.type:6}  {feature.values:,} values{several}{missing}")
        said.append(f"item: {self.item}; within-{self.group} AUC")
        if self.best_auc is not None:
            said.append(f"best AUC on test that any model can have: {self.best_auc:.5f}")
        if self.broken:
            said.append(f"broken lines left out: {self.broken:,} ({'; '.join(self.broken_lines)})")
        said += [f"made of {name}, SHA-256 {sha}" for name, sha in self.files.items()]
        return [*said, f"terms: {self.terms}"]


def read_about(folder: Path) -> About:
    """What is said of the prepared set in ``folder``. Raises ConfigError where there is none."""
    try:
        about = msgspec.json.decode((folder / ABOUT).read_bytes(), type=About)
    except FileNotFoundError:
        raise ConfigError(f"{folder} is no prepared data set: make one with `monolith data prepare`") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"{folder / ABOUT} cannot be read ({error}): prepare the set again") from None
    missing = [part for part in PARTS if not (folder / f"{part}.parquet").is_file()]
    if about.version != VERSION or missing:
        what = f"has no {missing[0]}.parquet" if missing else f"is of version {about.version}, not {VERSION}"
        raise ConfigError(f"the prepared set in {folder} {what}: prepare it again")
    return about
