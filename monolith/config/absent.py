"""What an id without a row reads: before it is admitted, after it expired or was evicted, and where it never comes in.

``AbsentZeros``: zeros, and its gradients are dropped. ``HashedTail(rows)``: one of ``rows`` shared rows, chosen by a
hash of the id, which its gradients train: the rare ids of one shared row learn what they have in common. Shared rows
have optimizer states and step counts of their own, neither expire nor are evicted, and are published beside the table.
With ``start_from_tail`` an id that is admitted starts from the values that it has read until then, else from the
initializer's; its optimizer state is fresh in both cases.
"""

from __future__ import annotations

from monolith.config.limits import Count
from monolith.config.variant import Variant


class AbsentZeros(Variant, frozen=True, tag="zeros"):
    """Zeros; its gradients are dropped."""


class HashedTail(Variant, frozen=True, tag="hashed_tail"):
    """One of ``rows`` shared rows, by a hash of the id; its gradients train that row, by the table's optimizer."""

    rows: Count  # how many shared rows there are
    start_from_tail: bool = True  # an id's own row starts from the values of its shared row; False: the initializer's


Absent = AbsentZeros | HashedTail
TAIL_MARK = "#"  # in no table's name, but in that under which its shared rows are published
