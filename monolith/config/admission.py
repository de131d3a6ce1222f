"""When an id first gets a row. Occurrences are counted one by one, in the order of the batch.

``Always``: at its first occurrence. ``Never``: not at all; rows that are there still train.

``MinCount(count)``: at its ``count``-th occurrence.

``Probability(p)``: at the first occurrence ``n`` whose draw, a hash of (seed, table, id, n), is below p.

With ``half_life_s``, a count is halved (rounded down) for every whole half-life of event time that passed between two
occurrences of the id; the draws of ``Probability`` are then of the event time too.

Both count exactly as long as a bucket (1/1,024 of the ids) holds fewer than ``ceil(max_counters / 1024)`` ids without a
row, k. When one more comes, every count of that bucket goes down by one, and it is not kept: of n occurrences in a
bucket an id's count misses at most n / (k + 1), and is never too high. So ids may come later than at their exact count,
not earlier. ``stats().counter_decrements`` tells how often that happened. A counter goes when its id is admitted, and
an id whose row expired or was evicted starts again at zero. ``docs/policies.md`` has the proof.
"""

from __future__ import annotations

from monolith.config.limits import Count, Positive, Share
from monolith.config.variant import Variant


class Always(Variant, frozen=True, tag="always"):
    """Every id has a row from its first occurrence on."""


class Never(Variant, frozen=True, tag="never"):
    """No id gets a new row: a frozen table."""


class MinCount(Variant, frozen=True, tag="min_count"):
    """An id has a row from its ``count``-th occurrence on, counted in samples; ``count=1`` admits at once."""

    count: Count = 2  # occurrences, in samples, from which on an id has a row
    half_life_s: Positive | None = None  # a count halves after this much event time without the id; None: never
    max_counters: Count = 4_000_000  # ids without a row that are remembered, at most


class Probability(Variant, frozen=True, tag="probability"):
    """Each occurrence admits with probability ``p``, drawn from hash(seed, id, occurrence number)."""

    p: Share = 0.1  # chance of each occurrence to admit its id
    half_life_s: Positive | None = None  # the number halves after this much event time without the id; None: never
    max_counters: Count = 4_000_000


Admission = Always | Never | MinCount | Probability
