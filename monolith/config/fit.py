"""`monolith fit`: epochs over bounded data before, or instead of, training online."""

from __future__ import annotations

from typing import Literal

import msgspec

from monolith.config.limits import Count, LateText, Share


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapping in the job file; an unknown key is an error."""


class LastPart(_Section, frozen=True, tag="last", tag_field="kind"):
    """The last part by event time: what a model that goes online has to be good at."""

    share: Share = 0.1  # of the samples


class RandomPart(_Section, frozen=True, tag="random", tag_field="kind"):
    """Samples by a hash of their number and the job's seed."""

    share: Share = 0.1  # of the samples


class OtherSamples(_Section, frozen=True, tag="samples", tag_field="kind"):
    """Joined samples from elsewhere."""

    url: LateText  # parquet://, log:// or kafka://


Validation = LastPart | RandomPart | OtherSamples
FitMetric = Literal["auc", "gauc", "logloss", "rmse", "mae"]


class FitConfig(_Section, frozen=True):
    """How `monolith fit` trains: epochs, what it is judged by, and when it stops."""

    samples: LateText | None = None  # URL of joined samples to fit; None: those of `input`, up to their present ends
    features: LateText | None = None  # URL of feature events to fit, with `actions`; None: those of `input`
    actions: LateText | None = None  # URL of action events to fit
    epochs: Count = 20  # at most
    patience: Count = 2  # epochs without a better score, after which it stops
    metric: FitMetric | None = None  # of the first task, on the validation part; None: auc, or rmse for a squared loss
    validation: Validation = LastPart()  # which samples are kept apart, for judging
    batch_size: Count | None = None  # samples an optimizer step; None: train.batch_size
    shuffle: bool = True  # samples anew in each epoch, in blocks of 262,144
