"""What a table holds and what has happened to it, as numbers for people and metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TableStats:
    """One moment's counts. What happened is counted since the table was made, across save and open."""

    # What it holds.
    rows: int  # expired rows that no sweep has met yet included
    free_rows: int  # places of removed rows, to be used again
    counters: int  # ids without a row that are remembered
    tombstones: int

    # What that takes, in bytes.
    bytes_values: int  # free rows included, here and in the next two
    bytes_state: int  # of the optimizer
    bytes_tail: int  # last-seen times, sequence marks, scratch words, and the list of free rows
    bytes_index: int
    bytes_counters: int
    bytes_tombstones: int
    bytes_scratch: int  # buffers of the training step and lists of touched rows

    # What happened.
    observed: int  # occurrences
    admitted: int  # rows made
    rejected: int  # occurrences of ids that had no row and got none
    late: int  # occurrences older than the time to live, which give no row
    expired: int  # rows removed because they were idle
    dropped_gradients: int  # gradients of ids without a row
    nonfinite: int  # gradients (or sums of them) with NaN or infinity that were skipped or clipped
    counter_halvings: int  # times that a bucket of counters was full

    @property
    def bytes_overhead(self) -> int:
        """Bytes beyond values, optimizer state, counters and scratch: what the table takes for itself."""
        return self.bytes_tail + self.bytes_index + self.bytes_tombstones
