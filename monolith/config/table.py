"""What one embedding table is: its width, its optimizer, and the rules by which ids come and go.

These structs are both the Python surface (``monolith.tables`` re-exports them) and a part of the job file, where
``kind`` picks the variant: ``optimizer: {kind: adagrad, lr: 0.05}``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from monolith.config.absent import Absent, AbsentZeros, HashedTail
from monolith.config.admission import Admission, Always
from monolith.config.eviction import Eviction, Unlimited
from monolith.config.expiry import Expiry, Forever
from monolith.config.initializers import Initializer, Uniform
from monolith.config.limits import Count, NonNegative, Positive, Share
from monolith.config.memory import Memory, Ram
from monolith.config.optimizers import Adagrad, Optimizer, Slice

Pooling = Literal["sum", "mean"]
NonFinite = Literal["raise", "skip_row", "clip"]
Storage = Literal["float32", "bfloat16", "float16"]
KindName = Literal["collisionless", "hashed", "qr", "optembed", "unified", "cafe"]
Combine = Literal["product", "sum", "concat"]


class FeatureRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One feature's own rules in a table that others use too; what is left out is the table's."""

    admission: Admission | None = None  # of this feature's ids; None: the table's
    expiry: Expiry | None = None  # of this feature's rows; None: the table's


class TableConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table: ``dim`` values a row, for the ids of one or more features."""

    name: str  # letters, digits, '_', '-' and '.', a letter or digit first; each name once
    dim: Count  # values a row
    kind: KindName = "collisionless"  # how ids come to vectors (docs/embeddings.md)
    rows: Count | None = None  # hashed, qr, unified, cafe, which need it: how many rows (qr: vectors) ids are hashed to
    remainders: Count | None = None  # qr: the divisor; None: the square root of `rows`, rounded up
    combine: Combine | None = None  # qr: how its two rows become a vector; None: product
    width: Count | None = None  # optembed: values a row, the first of `dim`; the vector's others are 0; None: dim
    threshold: NonNegative | None = None  # collisionless, optembed: rows of a mean size up to it go; None: none does
    probation_s: Positive | None = None  # with threshold: how long a row may stay small, event time; None: 86400
    probes: dict[str, Count] = {}  # unified: how many rows, side by side, make a vector of a feature; not named: 1
    own_rows: Count | None = None  # cafe, which needs it: how many hot ids have a row of their own
    score_decay: Share | None = None  # cafe: what is left of an id's score after a step of the table; None: 0.999 of it
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

    def vector_width(self, feature: str) -> int:
        """Width of the vectors that ``feature`` reads here."""
        return self.dim * self.probes.get(feature, 1)

    @property
    def tail_rows(self) -> int:
        """How many rows ids without one share; 0: they read zeros."""
        if self.kind == "cafe":
            return self.rows or 0
        return self.absent.rows if isinstance(self.absent, HashedTail) else 0
