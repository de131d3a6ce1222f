"""What one embedding table is: its width, its optimizer, and the rules by which ids come and go.

These structs are both the Python surface (``monolith.tables`` re-exports them) and a part of the job file, where
``kind`` picks the variant: ``optimizer: {kind: adagrad, lr: 0.05}``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from monolith.config.limits import Count, NonNegative, Positive, Share
from monolith.config.optimizers import Adagrad, Optimizer, Slice

Pooling = Literal["sum", "mean"]
NonFinite = Literal["raise", "skip_row", "clip"]
Storage = Literal["float32", "bfloat16", "float16"]
KindName = Literal["collisionless", "hashed", "qr"]
Combine = Literal["product", "sum", "concat"]


class _Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """One choice among several, told apart in YAML by ``kind``."""


# --- admission: when an id first gets a row ---------------------------------------------------------------------------


class Always(_Variant, frozen=True, tag="always"):
    """Every id has a row from its first occurrence on."""


class Never(_Variant, frozen=True, tag="never"):
    """No id gets a new row: a frozen table."""


class MinCount(_Variant, frozen=True, tag="min_count"):
    """An id has a row from its ``count``-th occurrence on, counted in samples; ``count=1`` admits at once."""

    count: Count = 2  # occurrences, in samples, from which on an id has a row
    half_life_s: Positive | None = None  # a count halves after this much event time without the id; None: never
    max_counters: Count = 4_000_000  # ids without a row that are remembered, at most


class Probability(_Variant, frozen=True, tag="probability"):
    """Each occurrence admits with probability ``p``, drawn from hash(seed, id, occurrence number)."""

    p: Share = 0.1  # chance of each occurrence to admit its id
    half_life_s: Positive | None = None  # the number halves after this much event time without the id; None: never
    max_counters: Count = 4_000_000


Admission = Always | Never | MinCount | Probability


# --- expiry: when a row goes because of its time ----------------------------------------------------------------------


class Forever(_Variant, frozen=True, tag="forever"):
    """Rows never expire."""


class Idle(_Variant, frozen=True, tag="idle"):
    """A row whose id was last seen more than ``ttl_s`` seconds of event time before the watermark is gone; with
    ``max_age_s``, so is one that was made longer before it, however often its id is seen.
    """

    ttl_s: Positive = 30 * 86_400.0  # event time; idle: since the id was last seen, absolute: since its row was made
    max_age_s: Positive | None = None  # event time since the row was made, however often its id is seen; None: any


class Absolute(_Variant, frozen=True, tag="absolute"):
    """A row that was made more than ``ttl_s`` seconds of event time before the watermark is gone."""

    ttl_s: Positive = 30 * 86_400.0


Expiry = Forever | Idle | Absolute


# --- eviction: which row goes when the table is full ------------------------------------------------------------------


class Unlimited(_Variant, frozen=True, tag="unlimited"):
    """The table grows as it needs to."""


class LRU(_Variant, frozen=True, tag="lru"):
    """At the limit, rows whose ids were not seen for the longest time go. Give one of the two limits."""

    max_rows: Count | None = None  # of the table; at the limit rows go
    max_bytes: Count | None = None  # of values, state, tail and index


class LFU(_Variant, frozen=True, tag="lfu"):
    """At the limit, rows whose ids were seen the least often since they got them go; in a tie, the longest unseen."""

    max_rows: Count | None = None
    max_bytes: Count | None = None
    half_life_s: Positive | None = 86_400.0  # a use count halves after this much event time without the id; None: never


class Score(_Variant, frozen=True, tag="score"):
    """At the limit, rows of the lowest score by ``function`` go: a registered name, or ``module:function``."""

    function: str  # name of a registered function, or module:function
    max_rows: Count | None = None
    max_bytes: Count | None = None
    half_life_s: Positive | None = 86_400.0  # of the use counts that the function is told


Eviction = Unlimited | LRU | LFU | Score


class FeatureRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One feature's own rules in a table that others use too; what is left out is the table's."""

    admission: Admission | None = None  # of this feature's ids; None: the table's
    expiry: Expiry | None = None  # of this feature's rows; None: the table's


# --- absent ids: what an id without a row reads -----------------------------------------------------------------------


class AbsentZeros(_Variant, frozen=True, tag="zeros"):
    """Zeros; its gradients are dropped."""


class HashedTail(_Variant, frozen=True, tag="hashed_tail"):
    """One of ``rows`` shared rows, by a hash of the id; its gradients train that row, by the table's optimizer."""

    rows: Count  # how many shared rows there are
    start_from_tail: bool = True  # an id's own row starts from the values of its shared row; False: the initializer's


Absent = AbsentZeros | HashedTail
TAIL_MARK = "#"  # in no table's name, but in that under which its shared rows are published


# --- initial values: a function of (seed, table, id, column) ----------------------------------------------------------


class Uniform(_Variant, frozen=True, tag="uniform"):
    """Uniform in [-scale, scale)."""

    scale: NonNegative = 0.05  # half the width of the interval


class Zeros(_Variant, frozen=True, tag="zeros"):
    """All zeros."""


class TruncatedNormal(_Variant, frozen=True, tag="truncated_normal"):
    """Normal with standard deviation ``std``, cut at two standard deviations."""

    std: Positive = 0.01  # standard deviation before the cut


Initializer = Uniform | Zeros | TruncatedNormal


# --- memory: where rows and their index lie while the table is open ---------------------------------------------------


class Ram(_Variant, frozen=True, tag="ram"):
    """In the process's memory."""


class File(_Variant, frozen=True, tag="file"):
    """In a file without a name in ``folder``, by way of the system's page cache; it goes with the process."""

    folder: str  # on a local disk with room for the rows


Memory = Ram | File


class TableConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table: ``dim`` values a row, for the ids of one or more features."""

    name: str  # letters, digits, '_', '-' and '.', a letter or digit first; each name once
    dim: Count  # values a row
    kind: KindName = "collisionless"  # how ids come to vectors (docs/embeddings.md)
    rows: Count | None = None  # hashed, qr, which need it: how many vectors their ids are hashed to
    remainders: Count | None = None  # qr: the divisor; None: the square root of `rows`, rounded up
    combine: Combine | None = None  # qr: how its two rows become a vector; None: product
    features: list[str] = []  # empty: the feature of the table's own name
    pooling: Pooling = "sum"  # how the vectors of a bag become one
    shared_ids: bool = False  # True: the same id in two features is the same row (as in torchrec); False: salted apart
    optimizer: Optimizer = Adagrad()  # steps the rows, float32 throughout
    slices: list[Slice] = []  # in place of `optimizer`: one for each run of columns, dim columns in all
    admission: Admission = Always()  # when an id first gets a row
    expiry: Expiry = Forever()  # when a row goes because of its time
    per_feature: dict[str, FeatureRules] = {}  # not with shared_ids: rows are then no feature's own
    eviction: Eviction = Unlimited()  # which rows go when the table is full
    absent: Absent = AbsentZeros()  # what an id without a row reads
    initializer: Initializer = Uniform()  # values of a new row, a function of seed, table, id and column
    storage: Storage = "float32"  # of values; 16 bits are rounded by chance, a function of the state; steps are float32
    on_nonfinite: NonFinite = "raise"  # NaN, infinity or more than 2^50 in a gradient (docs/optimizers.md)
    max_gradient: Positive = 1.0  # the size that `clip` cuts such values to (NaN becomes 0)
    memory: Memory = Ram()  # changes no bit; may differ from run to run, and is not saved with the table
    seed: int = 0  # of initial values, rounding and whatever else is drawn

    def feature_names(self) -> list[str]:
        """The features that read this table, in declared order."""
        return self.features or [self.name]

    @property
    def tail_rows(self) -> int:
        """How many rows ids without one share; 0: they read zeros."""
        return self.absent.rows if isinstance(self.absent, HashedTail) else 0
