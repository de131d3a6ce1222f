"""How one model is divided between several training processes (`monolith train --workers`, or torchrun)."""

from __future__ import annotations

from typing import Literal

import msgspec

from monolith.config.limits import Count, Positive

Wire = Literal["float32", "bfloat16", "float16"]


class ShardingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Training on several processes; one process alone reads none of this. See docs/sharding.md."""

    exact: bool = False  # True: the same bits at every number of processes, each of which computes the whole dense part
    wire: Wire = "float32"  # what rows and their gradients are rounded to on their way between processes
    limit_parts: Count = 16  # of a table with max_rows or max_bytes: parts, each with its share of the limit
    timeout_s: Positive = 300.0  # a process that the others wait for so long is given up, and named
    partial_recovery: bool = False  # True: when a process is lost, the others keep their rows and its updates are lost
