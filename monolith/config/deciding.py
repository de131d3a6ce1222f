"""Which settings decide the bits of a run, and the document of them that the step journal keeps.

A setting *decides* where the result of a step depends on it, besides the state before the step and the step's records
and journal entry. All others are *indifferent*: they may differ between a run and its replay. Every key of a job is in
one of the two lists below; a key that is in neither (an optimizer's rate, say) is as the key above it.

Whoever adds a key to a job adds it here, and gives it the default that leaves everything as it was. In doubt it
decides: the price is an entry in the journal, while a deciding key that passes for indifferent makes replays differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from monolith.config.job import JobConfig
from monolith.config.load import job_json

Settings = bytes  # canonical JSON of the deciding part of a job: sorted keys, defaults included, no white space


def _paths(sections: Mapping[str, str]) -> frozenset[str]:
    return frozenset(f"{section}.{key}".lstrip(".") for section, keys in sections.items() for key in keys.split())


DECIDING = _paths(
    {
        "": "seed tables features labels join model dense_optimizer",
        "tables": "name dim kind rows remainders combine width probes own_rows score_decay threshold probation_s"
        " features pooling shared_ids optimizer slices admission expiry per_feature eviction absent"
        " initializer storage on_nonfinite max_gradient seed",
        "features": "name type bag width transforms boundaries missing default utc_offset_h keep_strings",
        "labels": "name loss weight actions value default",
        "join": "positive_actions window_s early_s dedup_s late_positives negative_rate max_bytes",
        "model": "kind hidden bottom cross_layers cross_rank activation norm dropout embedding_l2 options",
        "dense_optimizer": "kind lr weight_decay on_nonfinite",
        "input": "co_partitioned max_out_of_order_s max_future_s jump_records max_jump_s time_unit check_time_unit"
        " unknown_features",
        "train": "batch_size sweep_rows threads device window_samples group_by",
        "sharding": "exact wire limit_parts",
    }
)
INDIFFERENT = _paths(
    {
        "": "name state store files",  # `Trainer.restore` refuses a snapshot of another name
        "tables": "memory",
        "input": "features actions samples dead_letters follow idle_s on_data_loss max_reject_share",
        "train": "step_records step_linger_s publish_every_s snapshot_every_s keep_snapshots keep_journal"
        " milestone_every_s keep_milestones",
        "publish": "payload",
        "sharding": "timeout_s partial_recovery",
        "serve": "max_rows max_values max_sample_values max_request_bytes threads max_waiting max_connections"
        " keep_alive_s head_timeout_s body_timeout_s answer_timeout_s max_age_s token_file token_variable"
        " tls_certificate tls_key",
        "fit": "samples features actions epochs patience metric validation batch_size shuffle",
    }
)


def _above(key: str) -> Iterator[str]:
    """The keys that ``key`` is below, the nearest first."""
    while "." in key:
        key = key.rpartition(".")[0]
        yield key


# Sections with keys of either kind, or of the indifferent one.
MIXED = frozenset(section for key in INDIFFERENT for section in _above(key))


def is_deciding(key: str) -> bool:
    """Whether the setting ``key``, a path without places in lists (``tables.optimizer.lr``), decides bits."""
    nearest = next((name for name in (key, *_above(key)) if name in DECIDING or name in INDIFFERENT), None)
    return nearest in DECIDING


def settings_of(job: JobConfig) -> Settings:
    """The deciding settings of ``job``: equal bytes for jobs that make the same of the same records."""
    return settings_in(job_json(job))


def settings_in(job: bytes) -> Settings:
    """The deciding settings in a job's JSON, which may be of an older build: its keys are kept as they are."""
    return msgspec.json.encode(_part(msgspec.json.decode(job), ""), order="sorted")


def _part(section: dict[str, Any], path: str) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, child in section.items():
        key = f"{path}.{name}".lstrip(".")
        if key in MIXED and isinstance(child, list):
            kept[name] = [_part(item, key) for item in child]
        elif key in MIXED and isinstance(child, dict):
            if part := _part(child, key):
                kept[name] = part
        elif is_deciding(key):
            kept[name] = child
    return kept


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """The leaves of plain data by their path, places in lists included: ``tables[0].optimizer.lr``."""
    if isinstance(value, dict):
        items = [(f"{key}.{name}" if key else name, child) for name, child in value.items()]
    elif isinstance(value, list):
        items = [(f"{key}[{i}]", child) for i, child in enumerate(value)]
    else:
        return {key: value}
    return {path: leaf for name, child in items for path, leaf in flat(child, name).items()}


def flat_json(settings: Settings) -> bytes:
    """The settings as one JSON object of their leaves, sorted by path."""
    leaves = flat(msgspec.json.decode(settings))
    return msgspec.json.encode({key: leaves[key] for key in sorted(leaves)})
