"""What one embedding table is: its width, its optimizer, and the rules by which ids come and go.

These structs are both the Python surface (``monolith.tables`` re-exports them) and a part of the job file, where
``kind`` picks the variant: ``optimizer: {kind: adagrad, lr: 0.05}``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from monolith.config.limits import Count, Decay, Fraction, NonNegative, NonNegativeCount, Positive, Share

Pooling = Literal["sum", "mean"]
NonFinite = Literal["raise", "skip_row", "clip"]
Storage = Literal["float32", "bfloat16", "float16"]
KindName = Literal["collisionless", "hashed", "qr"]
Combine = Literal["product", "sum", "concat"]


class _Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """One choice among several, told apart in YAML by ``kind``."""


# --- optimizers: float32 throughout; formulas in docs/optimizers.md ---------------------------------------------------

LrDecay = Literal["constant", "inverse_sqrt", "cosine", "step"]

# Whose steps correct the bias of Adam's moments. None: the count by which the table was saved, in a new table its own,
# by which models learn better (docs/optimizers.md has the figures).
StepCount = Literal["row", "table"]


class Schedule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The share of ``lr`` at the table's step t: up in a line to 1 at ``warmup_steps``, then by ``decay``.

    A table's step is one ``apply_gradients`` call. With s = t - warmup_steps and ``floor`` f it is f + (1 - f) * x:
    ``constant``: x = 1; ``inverse_sqrt``: x = sqrt(warmup_steps / t); ``cosine``: x = (1 + cos(pi * s / decay_steps)) /
    2, and 0 from there on; ``step``: x = gamma ** (s // decay_steps).
    """

    warmup_steps: NonNegativeCount = 0
    decay: LrDecay = "constant"
    decay_steps: Count | None = None  # of cosine and step, which need it
    gamma: Fraction | None = None  # of step, which needs it
    floor: Fraction = 0.0  # what the share falls towards


class SGD(_Variant, frozen=True, tag="sgd"):
    """``w -= lr * g``."""

    lr: Positive = 0.01
    weight_decay: NonNegative = 0.0
    clip_row_norm: Positive | None = None  # a row's summed gradient is brought down to this norm; None: it is not
    clip_global_norm: Positive | None = None  # then those of all rows of a call, as one vector, to this one
    schedule: Schedule = Schedule()


class Momentum(_Variant, frozen=True, tag="momentum"):
    """``b = momentum * b + g; w -= lr * b``; with ``nesterov``, ``w -= lr * (g + momentum * b)``."""

    lr: Positive = 0.01
    momentum: Decay = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 0.0
    clip_row_norm: Positive | None = None
    clip_global_norm: Positive | None = None
    schedule: Schedule = Schedule()


class Adagrad(_Variant, frozen=True, tag="adagrad"):
    """``n += g*g; w -= lr * g / (sqrt(n) + eps)``, one ``n`` a column, starting at ``initial_accumulator``.

    It starts at 0, as torch's does: gradients of a batch's mean loss are so small that their squares take long to
    come near a start of 0.1, as TensorFlow has it, and until then a row learns hardly anything.
    """

    lr: Positive = 0.05
    initial_accumulator: NonNegative = 0.0
    eps: Positive = 1e-10
    weight_decay: NonNegative = 0.0
    clip_row_norm: Positive | None = None
    clip_global_norm: Positive | None = None
    schedule: Schedule = Schedule()


class RowWiseAdagrad(_Variant, frozen=True, tag="rowwise_adagrad"):
    """``n += mean(g*g); w -= lr * g / (sqrt(n) + eps)``, one ``n`` a row (FBGEMM's EXACT_ROWWISE_ADAGRAD)."""

    lr: Positive = 0.05
    initial_accumulator: NonNegative = 0.0
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    clip_row_norm: Positive | None = None
    clip_global_norm: Positive | None = None
    schedule: Schedule = Schedule()


class RMSProp(_Variant, frozen=True, tag="rmsprop"):
    """``n = alpha * n + (1 - alpha) * g*g; w -= lr * g / (sqrt(n) + eps)``."""

    lr: Positive = 0.01
    alpha: Decay = 0.99
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    clip_row_norm: Positive | None = None
    clip_global_norm: Positive | None = None
    schedule: Schedule = Schedule()


class Adam(_Variant, frozen=True, tag="adam"):
    """Adam; its bias corrections go by the table's ``steps``, as in torch's SparseAdam, or by each row's own.

    By its own count a row that is new or rare makes smaller steps: at 0.32 of the size in its first (with beta2 0.999).
    """

    lr: Positive = 0.001
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Positive = 1e-8
    steps: StepCount | None = None
    weight_decay: NonNegative = 0.0
    amsgrad: bool = False  # the greatest v so far takes the place of v
    clip_row_norm: Positive | None = None
    clip_global_norm: Positive | None = None
    schedule: Schedule = Schedule()


class AdamW(_Variant, frozen=True, tag="adamw"):
    """Adam whose decay is apart from the gradient: ``w *= 1 - lr * weight_decay`` first."""

    lr: Positive = 0.001
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Positive = 1e-8
    steps: StepCount | None = None
    weight_decay: NonNegative = 0.01
    amsgrad: bool = False
    clip_row_norm: Positive | None = None
    clip_global_norm: Positive | None = None
    schedule: Schedule = Schedule()


class RowWiseAdam(_Variant, frozen=True, tag="rowwise_adam"):
    """Adam with one second moment a row, of ``mean(g*g)``."""

    lr: Positive = 0.001
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Positive = 1e-8
    steps: StepCount | None = None
    weight_decay: NonNegative = 0.0
    clip_row_norm: Positive | None = None
    clip_global_norm: Positive | None = None
    schedule: Schedule = Schedule()


class RowWiseAdamW(_Variant, frozen=True, tag="rowwise_adamw"):
    """Row-wise Adam whose decay is apart from the gradient; with ``steps="table"``, FBGEMM's PARTIAL_ROWWISE_ADAM."""

    lr: Positive = 0.001
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Positive = 1e-8
    steps: StepCount | None = None
    weight_decay: NonNegative = 0.01
    clip_row_norm: Positive | None = None
    clip_global_norm: Positive | None = None
    schedule: Schedule = Schedule()


class FTRL(_Variant, frozen=True, tag="ftrl"):
    """FTRL-proximal: exact zeros where the gradients' sum stays within ``l1``. Its columns start at 0, whatever the
    table's initializer.
    """

    lr: Positive = 0.05
    beta: NonNegative = 1.0
    l1: NonNegative = 0.0
    l2: NonNegative = 0.0
    initial_accumulator: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    clip_row_norm: Positive | None = None
    clip_global_norm: Positive | None = None
    schedule: Schedule = Schedule()


Optimizer = SGD | Momentum | Adagrad | RowWiseAdagrad | RMSProp | Adam | AdamW | RowWiseAdam | RowWiseAdamW | FTRL


class Slice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The next ``columns`` of a row, with an optimizer of their own."""

    columns: Count
    optimizer: Optimizer


# --- admission: when an id first gets a row ---------------------------------------------------------------------------


class Always(_Variant, frozen=True, tag="always"):
    """Every id has a row from its first occurrence on."""


class Never(_Variant, frozen=True, tag="never"):
    """No id gets a new row: a frozen table."""


class MinCount(_Variant, frozen=True, tag="min_count"):
    """An id has a row from its ``count``-th occurrence on, counted in samples; ``count=1`` admits at once."""

    count: Count = 2
    half_life_s: Positive | None = None  # a count halves after this much event time without the id; None: never
    max_counters: Count = 4_000_000  # ids without a row that are remembered, at most


class Probability(_Variant, frozen=True, tag="probability"):
    """Each occurrence admits with probability ``p``, drawn from hash(seed, id, occurrence number)."""

    p: Share = 0.1
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

    ttl_s: Positive = 30 * 86_400.0
    max_age_s: Positive | None = None


class Absolute(_Variant, frozen=True, tag="absolute"):
    """A row that was made more than ``ttl_s`` seconds of event time before the watermark is gone."""

    ttl_s: Positive = 30 * 86_400.0


Expiry = Forever | Idle | Absolute


# --- eviction: which row goes when the table is full ------------------------------------------------------------------


class Unlimited(_Variant, frozen=True, tag="unlimited"):
    """The table grows as it needs to."""


class LRU(_Variant, frozen=True, tag="lru"):
    """At the limit, rows whose ids were not seen for the longest time go. Give one of the two limits."""

    max_rows: Count | None = None
    max_bytes: Count | None = None  # of values, state, tail and index


class LFU(_Variant, frozen=True, tag="lfu"):
    """At the limit, rows whose ids were seen the least often since they got them go; in a tie, the longest unseen."""

    max_rows: Count | None = None
    max_bytes: Count | None = None
    half_life_s: Positive | None = 86_400.0  # a use count halves after this much event time without the id; None: never


class Score(_Variant, frozen=True, tag="score"):
    """At the limit, rows of the lowest score by ``function`` go: a registered name, or ``module:function``."""

    function: str
    max_rows: Count | None = None
    max_bytes: Count | None = None
    half_life_s: Positive | None = 86_400.0  # of the use counts that the function is told


Eviction = Unlimited | LRU | LFU | Score


class FeatureRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One feature's own rules in a table that others use too; what is left out is the table's."""

    admission: Admission | None = None
    expiry: Expiry | None = None


# --- absent ids: what an id without a row reads -----------------------------------------------------------------------


class AbsentZeros(_Variant, frozen=True, tag="zeros"):
    """Zeros; its gradients are dropped."""


class HashedTail(_Variant, frozen=True, tag="hashed_tail"):
    """One of ``rows`` shared rows, by a hash of the id; its gradients train that row, by the table's optimizer."""

    rows: Count
    start_from_tail: bool = True  # an id's own row starts from the values of its shared row; False: the initializer's


Absent = AbsentZeros | HashedTail
TAIL_MARK = "#"  # in no table's name, but in that under which its shared rows are published


# --- initial values: a function of (seed, table, id, column) ----------------------------------------------------------


class Uniform(_Variant, frozen=True, tag="uniform"):
    """Uniform in [-scale, scale)."""

    scale: NonNegative = 0.05


class Zeros(_Variant, frozen=True, tag="zeros"):
    """All zeros."""


class TruncatedNormal(_Variant, frozen=True, tag="truncated_normal"):
    """Normal with standard deviation ``std``, cut at two standard deviations."""

    std: Positive = 0.01


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

    name: str
    dim: Count
    kind: KindName = "collisionless"  # how ids come to vectors (docs/embeddings.md)
    rows: Count | None = None  # hashed, qr, which need it: how many vectors their ids are hashed to
    remainders: Count | None = None  # qr: the divisor; None: the square root of `rows`, rounded up
    combine: Combine | None = None  # qr: how its two rows become a vector; None: product
    features: list[str] = []  # empty: the feature of the table's own name
    pooling: Pooling = "sum"
    shared_ids: bool = False  # True: the same id in two features is the same row (as in torchrec); False: salted apart
    optimizer: Optimizer = Adagrad()
    slices: list[Slice] = []  # in place of `optimizer`: one for each run of columns, dim columns in all
    admission: Admission = Always()
    expiry: Expiry = Forever()
    per_feature: dict[str, FeatureRules] = {}  # not with shared_ids: rows are then no feature's own
    eviction: Eviction = Unlimited()
    absent: Absent = AbsentZeros()
    initializer: Initializer = Uniform()
    storage: Storage = "float32"  # of values; 16 bits are rounded by chance, a function of the state; steps are float32
    on_nonfinite: NonFinite = "raise"  # NaN, infinity or more than 2^50 in a gradient (docs/optimizers.md)
    max_gradient: Positive = 1.0  # the size that `clip` cuts such values to (NaN becomes 0)
    memory: Memory = Ram()  # changes no bit; may differ from run to run, and is not saved with the table
    seed: int = 0

    def feature_names(self) -> list[str]:
        """The features that read this table, in declared order."""
        return self.features or [self.name]

    @property
    def tail_rows(self) -> int:
        """How many rows ids without one share; 0: they read zeros."""
        return self.absent.rows if isinstance(self.absent, HashedTail) else 0
