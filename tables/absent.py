"""What an id without a row reads: before it is admitted, after it expired or was evicted, and where it never comes in.

``AbsentZeros``: zeros, and its gradients are dropped. ``HashedTail(rows)``: one of ``rows`` shared rows, chosen by a
hash of the id, which its gradients train: the rare ids of one shared row learn what they have in common. Shared rows
have optimizer states and step counts of their own, neither expire nor are evicted, and are published beside the table.
With ``start_from_tail`` an id that is admitted starts from the values that it has read until then, else from the
initializer's; its optimizer state is fresh in both cases.
"""

from monolith.config.table import Absent, AbsentZeros, HashedTail

__all__ = ["Absent", "AbsentZeros", "HashedTail"]
