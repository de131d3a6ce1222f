"""The job file that lies beside a prepared data set: `monolith fit` takes it as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from monolith.datasets.sets.about import About
from monolith.datasets.sets.description import LABEL, TIME


def samples_url(about: About, path: Path) -> str:
    """The URL by which a job reads a part of a prepared set."""
    features = ",".join(feature.name for feature in about.features)
    return f"parquet://{path}?time={TIME}&item={about.item}&features={features}&label={LABEL}"


def features_of(about: About) -> list[dict[str, Any]]:
    """The section `features` of a job over the set."""
    bag = {True: {"bag": True}, False: {}}
    return [{"name": one.name, "type": one.type, "missing": "own_row", **bag[one.bag]} for one in about.features]


def job_settings(about: About, folder: Path) -> dict[str, Any]:
    """A job over the set in ``folder``: DeepFM, a table of width 17 for each feature, Adam."""
    rows = {"dim": 17, "optimizer": {"kind": "adam", "lr": 0.001, "steps": "table"}}
    return {
        "name": about.name.replace("_", "-"),
        "input": {"samples": samples_url(about, folder / "train.parquet")},
        "features": features_of(about),
        "tables": [{"name": feature.name, **rows} for feature in about.features],
        "model": {"kind": "deepfm", "dropout": 0.1},
        "train": {"batch_size": 1024, "group_by": about.group},
        "fit": {"validation": {"kind": "samples", "url": samples_url(about, folder / "valid.parquet")}},
        "state": str(folder / "state"),
    }


def job_text(about: About, folder: Path) -> str:
    """The job file."""
    head = f"# {about.title}\n# monolith fit {folder / 'job.yaml'}\n# monolith evaluate {folder / 'job.yaml'} --on '"
    head += f"{samples_url(about, folder / 'test.parquet')}'\n"
    return head + str(yaml.safe_dump(job_settings(about, folder.absolute()), sort_keys=False, width=200))
