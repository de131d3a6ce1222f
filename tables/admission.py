"""When an id first gets a row. Occurrences are counted one by one, in the order of the batch.

``Always``: at its first occurrence. ``Never``: not at all; rows that are there still train.

``MinCount(count)``: at its ``count``-th occurrence. With ``half_life_s``, a count is halved (rounded down) for every
whole half-life of event time that passed between two occurrences of the id.

``Probability(p)``: at the first occurrence ``n`` whose draw, a hash of (seed, table, id, n), is below p.

Both count exactly as long as a bucket (1/1,024 of the ids) holds fewer than ``ceil(max_counters / 1024)`` ids without a
row. When one more comes, all counts of that bucket are halved and those that reach zero are forgotten, again until
there is room: ids may then be admitted later than at their exact count, never earlier. ``stats().counter_halvings``
tells how often that happened. A counter goes when its id is admitted, and an id whose row expired starts again at zero.
"""

from monolith.config.table import Admission, Always, MinCount, Never, Probability

__all__ = ["Admission", "Always", "MinCount", "Never", "Probability"]
