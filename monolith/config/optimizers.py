"""The table's optimizers: one step for each unique id of a batch, on the sum ``g`` of its gradients.

All in float32, in the order of operations written in ``docs/optimizers.md``. Every one has ``weight_decay`` (L2, into
the gradient; that of AdamW and RowWiseAdamW is decoupled), before that ``clip_row_norm`` on each summed gradient and
``clip_global_norm`` on those of all rows of a call, and a ``schedule`` of its ``lr`` by the table's own step.

The native struct of the same name and fields (``tables/native/optimizers/rules``) makes the steps. A field's type is
its limit: ``Decay`` is below 1, ``Positive`` above 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import msgspec

from monolith.config.limits import Count, Decay, Fraction, NonNegative, NonNegativeCount, Positive

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

    warmup_steps: NonNegativeCount = 0  # over which the share rises from 0 to 1; 0: there is no warm-up
    decay: LrDecay = "constant"  # what the share does after the warm-up (formulas in docs/optimizers.md)
    decay_steps: Count | None = None  # of cosine and step, which need it
    gamma: Fraction | None = None  # of step, which needs it
    floor: Fraction = 0.0  # what the share falls towards


class _Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """What each optimizer can say beyond its fields."""

    # The largest size in a gradient, as in the native struct. Above 2**50 sums of squares could become infinite, and
    # the row would stand still for ever.
    LARGEST_GRADIENT: ClassVar[float] = 2.0**50

    def layout(self) -> str:
        """What a row's state means, in words: a table keeps its rows as long as this stays the same."""
        return str(type(self).__struct_config__.tag)

    def faults(self) -> Iterator[tuple[str, str]]:
        """What is wrong with fields together, each with the field to name."""
        yield from ()


class SGD(_Rule, frozen=True, tag="sgd"):
    """``w -= lr * g``."""

    LARGEST_GRADIENT: ClassVar[float] = (2 - 2.0**-23) * 2.0**127  # float32's largest number: SGD keeps no sum

    lr: Positive = 0.01  # the learning rate
    weight_decay: NonNegative = 0.0  # times the value, added to its gradient; adamw kinds: apart from the gradient
    clip_row_norm: Positive | None = None  # a row's summed gradient is brought down to this norm; None: it is not
    clip_global_norm: Positive | None = None  # then those of all rows of a call, as one vector, to this one
    schedule: Schedule = Schedule()  # of the learning rate, by the table's step


class Momentum(_Rule, frozen=True, tag="momentum"):
    """``b = momentum * b + g; w -= lr * b``; with ``nesterov``, ``w -= lr * (g + momentum * b)``."""

    LARGEST_GRADIENT: ClassVar[float] = 2.0**100  # it sums, but no squares

    lr: Positive = 0.01
    momentum: Decay = 0.9  # share of the last step's move that is kept
    nesterov: bool = False  # look ahead by the move that is kept
    weight_decay: NonNegative = 0.0
    clip_row_norm: Positive | None = None
    clip_global_norm: Positive | None = None
    schedule: Schedule = Schedule()


class Adagrad(_Rule, frozen=True, tag="adagrad"):
    """``n += g*g; w -= lr * g / (sqrt(n) + eps)``, one ``n`` a column, starting at ``initial_accumulator``.

    It starts at 0, as torch's does: gradients of a batch's mean loss are so small that their squares take long to
    come near a start of 0.1, as TensorFlow has it, and until then a row learns hardly anything.
    """

    lr: Positive = 0.05
    initial_accumulator: NonNegative = 0.0  # where the sums of squared gradients start
    eps: Positive = 1e-10  # added to the root below the gradient, so that nothing is divided by 0
    weight_decay: NonNegative = 0.0
    clip_row_norm: Positive | None = None
    clip_global_norm: Positive | None = None
    schedule: Schedule = Schedule()


class RowWiseAdagrad(_Rule, frozen=True, tag="rowwise_adagrad"):
    """``n += mean(g*g); w -= lr * g / (sqrt(n) + eps)``, one ``n`` a row (FBGEMM's EXACT_ROWWISE_ADAGRAD)."""

    lr: Positive = 0.05
    initial_accumulator: NonNegative = 0.0
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    clip_row_norm: Positive | None = None
    clip_global_norm: Positive | None = None
    schedule: Schedule = Schedule()


class RMSProp(_Rule, frozen=True, tag="rmsprop"):
    """``n = alpha * n + (1 - alpha) * g*g; w -= lr * g / (sqrt(n) + eps)``."""

    lr: Positive = 0.01
    alpha: Decay = 0.99  # share of the mean square that a step keeps
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    clip_row_norm: Positive | None = None
    clip_global_norm: Positive | None = None
    schedule: Schedule = Schedule()


class Adam(_Rule, frozen=True, tag="adam"):
    """Adam; its bias corrections go by the table's ``steps``, as in torch's SparseAdam, or by each row's own.

    By its own count a row that is new or rare makes smaller steps: at 0.32 of the size in its first (with beta2 0.999).
    """

    lr: Positive = 0.001
    beta1: Decay = 0.9  # share of the first moment that a step keeps
    beta2: Decay = 0.999  # share of the second moment that a step keeps
    eps: Positive = 1e-8
    # whose count corrects the moments' bias; None: as the table was saved, a new one its own
    steps: StepCount | None = None
    weight_decay: NonNegative = 0.0
    amsgrad: bool = False  # the greatest v so far takes the place of v
    clip_row_norm: Positive | None = None
    clip_global_norm: Positive | None = None
    schedule: Schedule = Schedule()

    def layout(self) -> str:
        """The kind, and whether the greatest moments are there."""
        return super().layout() + (" with amsgrad" if self.amsgrad else "")


class AdamW(_Rule, frozen=True, tag="adamw"):
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

    def layout(self) -> str:
        """The kind, and whether the greatest moments are there."""
        return super().layout() + (" with amsgrad" if self.amsgrad else "")


class RowWiseAdam(_Rule, frozen=True, tag="rowwise_adam"):
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


class RowWiseAdamW(_Rule, frozen=True, tag="rowwise_adamw"):
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


class FTRL(_Rule, frozen=True, tag="ftrl"):
    """FTRL-proximal: exact zeros where the gradients' sum stays within ``l1``. Its columns start at 0, whatever the
    table's initializer.
    """

    lr: Positive = 0.05
    beta: NonNegative = 1.0  # added to the root of the sum of squares, as in the per-coordinate rate of FTRL
    l1: NonNegative = 0.0  # strength of the pull to exact zeros
    l2: NonNegative = 0.0  # strength of the pull towards zero
    initial_accumulator: NonNegative = 0.0
    weight_decay: NonNegative = 0.0
    clip_row_norm: Positive | None = None
    clip_global_norm: Positive | None = None
    schedule: Schedule = Schedule()

    def faults(self) -> Iterator[tuple[str, str]]:
        """A first rate that would be infinite."""
        if self.beta == 0 and self.initial_accumulator == 0:
            text = "beta and initial_accumulator are both 0, and the first rate infinite; allowed: one of them above 0"
            yield "beta", text


Optimizer = SGD | Momentum | Adagrad | RowWiseAdagrad | RMSProp | Adam | AdamW | RowWiseAdam | RowWiseAdamW | FTRL


class Slice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The next ``columns`` of a row, with an optimizer of their own."""

    columns: Count  # how many
    optimizer: Optimizer  # of these columns
