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

from monolith.config.table import Admission, Always, MinCount, Never, Probability

__all__ = ["Admission", "Always", "MinCount", "Never", "Probability"]
