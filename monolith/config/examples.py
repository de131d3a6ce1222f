"""An example of each key's value, for the reference: one that a job might well have, or else the default.

Keys that are not named here show their default, or, where there is none, the smallest value of their type.
"""

from __future__ import annotations

import math
from typing import Any

import yaml
from msgspec import inspect

# path of the key, as in the reference -> value
EXAMPLES: dict[str, Any] = {
    "name": "clicks",
    "state": "state/clicks",
    "store": "redis://:${REDIS_PASSWORD}@cache:6379/0",
    "input": {"features": "log://build/features", "actions": "log://build/actions"},
    "tables": [{"name": "user", "dim": 17}],
    "features": [{"name": "price", "type": "float"}],
    "labels": [{"name": "click"}, {"name": "price", "loss": "squared", "weight": 0.1}],
    "join": {"window_s": 600},
    "model": {"kind": "deepfm", "hidden": [128, 64]},
    "dense_optimizer": {"kind": "adam", "lr": 0.001},
    "train": {"batch_size": 64},
    "publish": {"payload": "int8_rowwise"},
    "serve": {"threads": 4},
    "input.features": "kafka://broker:9092/features",
    "input.actions": "kafka://broker:9092/actions",
    "input.samples": "parquet://clicks.parquet?time=time&item=ad&label=click&features=user,ad",
    "input.dead_letters": "log://build/dead",
    "join.positive_actions": ["click", "buy"],
    "train.group_by": "user",
    "serve.max_age_s": 60,
    "tables[].name": "user",
    "tables[].dim": 17,
    "tables[].features": ["user", "friend"],
    "tables[].slices": [{"columns": 1, "optimizer": {"kind": "ftrl"}}, {"columns": 16, "optimizer": {"kind": "adam"}}],
    "tables[].slices[].columns": 16,
    "tables[].slices[].optimizer": {"kind": "ftrl", "l1": 0.001},
    "tables[].admission": {"kind": "min_count", "count": 2},
    "tables[].expiry": {"kind": "idle", "ttl_s": 2_592_000},
    "tables[].per_feature": {"friend": {"admission": {"kind": "min_count", "count": 5}}},
    "tables[].per_feature.FEATURE.admission": {"kind": "min_count", "count": 5},
    "tables[].per_feature.FEATURE.expiry": {"kind": "idle", "ttl_s": 86_400},
    "tables[].eviction": {"kind": "lru", "max_rows": 1_000_000},
    "tables[].eviction.function": "my_rules:by_value",
    "tables[].eviction.max_rows": 1_000_000,
    "tables[].eviction.max_bytes": 1_073_741_824,
    "tables[].absent": {"kind": "hashed_tail", "rows": 1024},
    "tables[].absent.rows": 1024,
    "tables[].optimizer.clip_row_norm": 1,
    "tables[].optimizer.clip_global_norm": 10,
    "tables[].optimizer.steps": "row",
    "tables[].optimizer.schedule": {"warmup_steps": 1000, "decay": "cosine", "decay_steps": 100_000},
    "tables[].optimizer.schedule.decay_steps": 100_000,
    "tables[].optimizer.schedule.gamma": 0.5,
    "tables[].admission.half_life_s": 604_800,
    "tables[].expiry.max_age_s": 7_776_000,
    "tables[].memory": {"kind": "file", "folder": "/data/tables"},
    "tables[].memory.folder": "/data/tables",
    "features[].name": "price",
    "features[].transforms": [{"kind": "clip", "min": 0}, {"kind": "log1p"}],
    "features[].transforms[].min": 0,
    "features[].transforms[].max": 100,
    "features[].transforms[].mean": 35.2,
    "features[].transforms[].std": 12.5,
    "features[].boundaries": [18, 25, 35, 50],
    "features[].default": 0,
}


def example(path: str, type_: inspect.Type, default: str) -> Any:
    """A value of ``type_`` for the key at ``path``, as plain data."""
    if path in EXAMPLES:
        return EXAMPLES[path]
    value = None if default == "required" else yaml.safe_load(default)
    if isinstance(value, str) and isinstance(type_, inspect.FloatType):
        value = float(value)  # 1e-10, which YAML 1.1 takes for text
    return _smallest(type_) if value is None else value


def _smallest(type_: inspect.Type) -> Any:
    match type_:
        case inspect.Metadata():
            return _smallest(type_.type)
        case inspect.UnionType():
            return next(_smallest(each) for each in type_.types if not isinstance(each, inspect.NoneType))
        case inspect.IntType():
            return type_.ge if type_.ge is not None else 0
        case inspect.FloatType():
            least = max((b for b in (type_.ge, type_.gt) if b is not None), default=0.0)
            return least if type_.gt is None else math.floor(least) + 1
        case inspect.LiteralType():
            return type_.values[0]
        case inspect.BoolType():
            return True
        case inspect.ListType():
            return []
        case inspect.StructType():
            return {type_.tag_field: type_.tag} if type_.tag_field else {}
    return {} if isinstance(type_, inspect.DictType) else "text"
