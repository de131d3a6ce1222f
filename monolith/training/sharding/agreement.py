"""All ranks train the same tables: what is checked before the first step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

import msgspec

from monolith.config.table import TableConfig
from monolith.errors import ConfigError
from monolith.training.sharding.transport import Transport


def check_agreed(transport: Transport, configs: Sequence[TableConfig], options: Mapping[str, Any]) -> None:
    """Raise ConfigError, on every rank, naming the first rank that differs from rank 0, and in what. Collective.

    Where rows lie in memory (``memory``) may differ.
    """
    mine: dict[str, Any] = {"version": metadata.version("monolith-recsys")}
    mine |= {f"option {name}": value for name, value in options.items()}
    mine["tables"] = [config.name for config in configs]
    for config in configs:
        document = msgspec.to_builtins(config)
        document.pop("memory", None)
        mine |= {f"table {config.name!r}, {key}": value for key, value in document.items()}
    everyones: list[Any] = transport.objects(mine)
    for rank, theirs in enumerate(everyones):
        for key in [*everyones[0], *theirs]:
            if everyones[0].get(key) != theirs.get(key):
                raise ConfigError(
                    f"rank {rank} has {key} = {theirs.get(key)!r}, rank 0 has {everyones[0].get(key)!r}: start every "
                    f"rank with the same tables and options"
                )
