"""What one embedding table is: its width, its optimizer, and the rules by which ids come and go.

These structs are both the Python surface (``monolith.tables`` re-exports them) and a part of the job file, where
``kind`` picks the variant: ``optimizer: {kind: adagrad, lr: 0.05}``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from monolith.config.limits import Count, Decay, NonNegative, Positive, Share

Pooling = Literal["sum", "mean"]
NonFinite = Literal["raise", "skip_row", "clip"]


class _Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """One choice among several, told apart in YAML by ``kind``."""


# --- optimizers: float32 throughout; formulas in tables/optimizers.py -------------------------------------------------


class SGD(_Variant, frozen=True, tag="sgd"):
    """``w -= lr * g``."""

    lr: Positive = 0.01
    weight_decay: NonNegative = 0.0


class Adagrad(_Variant, frozen=True, tag="adagrad"):
    """``n += g*g; w -= lr * g / (sqrt(n) + eps)``, one ``n`` a column, starting at ``initial_accumulator``."""

    lr: Positive = 0.05
    initial_accumulator: NonNegative = 0.1
    eps: Positive = 1e-10
    weight_decay: NonNegative = 0.0


class RowWiseAdagrad(_Variant, frozen=True, tag="rowwise_adagrad"):
    """``n += mean(g*g); w -= lr * g / (sqrt(n) + eps)``, one ``n`` a row (FBGEMM's EXACT_ROWWISE_ADAGRAD)."""

    lr: Positive = 0.05
    initial_accumulator: NonNegative = 0.0
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0


class Adam(_Variant, frozen=True, tag="adam"):
    """Adam with a step count *per row*, so that a row born late has its full bias correction."""

    lr: Positive = 0.001
    beta1: Decay = 0.9
    beta2: Decay = 0.999
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0


Optimizer = SGD | Adagrad | RowWiseAdagrad | Adam


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
    max_counters: Count = 4_000_000


Admission = Always | Never | MinCount | Probability


# --- expiry: when a row goes because its id was not seen --------------------------------------------------------------


class Forever(_Variant, frozen=True, tag="forever"):
    """Rows never expire."""


class Idle(_Variant, frozen=True, tag="idle"):
    """A row whose id was last seen more than ``ttl_s`` seconds of event time before the watermark is gone."""

    ttl_s: Positive = 30 * 86_400.0


Expiry = Forever | Idle


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


class TableConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One table: ``dim`` float32 values a row, for the ids of one or more features."""

    name: str
    dim: Count
    features: list[str] = []  # empty: the feature of the table's own name
    pooling: Pooling = "sum"
    shared_ids: bool = False  # True: the same id in two features is the same row (as in torchrec); False: salted apart
    optimizer: Optimizer = Adagrad()
    admission: Admission = Always()
    expiry: Expiry = Forever()
    initializer: Initializer = Uniform()
    on_nonfinite: NonFinite = "raise"  # NaN or infinity in a gradient
    max_gradient: Positive = 1.0  # the bound that `clip` cuts infinities to (NaN becomes 0)
    seed: int = 0

    def feature_names(self) -> list[str]:
        """The features that read this table, in declared order."""
        return self.features or [self.name]
