"""What a table holds and what has happened to it, as numbers for people and metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TableStats:
    """One moment's counts. What happened is counted since the table was made, across save and open."""

    # What it holds.
    rows: int  # expired rows that no sweep has met yet included
    free_rows: int  # places of removed rows, to be used again
    tail_rows: int  # that ids without a row share
    counters: int  # ids without a row that are remembered
    tombstones: int
    row_limit: int  # of max_rows, or of max_bytes in rows; 0: none

    # What that takes, in bytes.
    bytes_values: int  # free and shared rows included, here and in the next two
    bytes_state: int  # of the optimizer
    bytes_stamps: int  # times, sequence marks, use counts, scratch words
    bytes_index: int
    bytes_counters: int
    bytes_tombstones: int
    bytes_scratch: int  # buffers of the training step and lists of touched rows

    # What happened.
    observed: int  # occurrences
    admitted: int  # rows made
    rejected: int  # occurrences of ids that had no row and got none
    late: int  # occurrences older than a time to live, which give no row
    expired_idle: int  # rows removed because their ids were not seen for so long
    expired_age: int  # rows removed because they were made so long before
    swept: int  # of both, those that a sweep removed; the others went when their id returned, or the table was full
    evicted: int  # rows removed because the table was at its limit
    pruned: int  # rows removed because their values stayed small
    dropped_gradients: int  # gradients of ids that neither had nor shared a row
    nonfinite: int  # gradients (or sums) with NaN, infinity or too large a size that were skipped or clipped
    counter_decrements: int  # times that a bucket of counters was full, and every count in it went down by one

    @property
    def expired(self) -> int:
        """Rows removed because of their time."""
        return self.expired_idle + self.expired_age

    @property
    def bytes_overhead(self) -> int:
        """Bytes beyond values, optimizer state, counters and scratch: what the table takes for itself."""
        return self.bytes_stamps + self.bytes_index + self.bytes_tombstones


HAPPENED = (  # the native counts of what happened
    "observed",
    "admitted",
    "rejected",
    "late",
    "expired_idle",
    "expired_age",
    "swept",
    "evicted",
    "pruned",
    "dropped_gradients",
    "nonfinite",
    "counter_decrements",
)
HELD = tuple(name for name in TableStats.__dataclass_fields__ if name not in HAPPENED)
