"""What a sweep tries: ``--set`` options with several values, as a grid or drawn at random.

--set model.kind=fm,deepfm              two values
--set model.hidden=[64],[128,64]        commas in brackets, braces and quotes belong to the value
--set tables.*.optimizer.lr=0.001..0.1:log    a range to draw from; two whole numbers: whole numbers are drawn
--set train.batch_size=256              one value: every trial has it
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from monolith.errors import ConfigError

_NUMBER = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_RANGE = re.compile(rf"^\s*(?P<low>{_NUMBER})\.\.(?P<high>{_NUMBER})\s*(?P<log>:log)?\s*$")
_OPENING, _CLOSING = "[{", "]}"
DIGITS = 4  # significant, of a drawn number

Settings = tuple[str, ...]  # ``a.b=c`` for each axis, in order


@dataclass(frozen=True)
class Span:
    """A range of numbers to draw from, both ends within."""

    low: float
    high: float
    whole: bool
    log: bool


@dataclass(frozen=True)
class Axis:
    """One setting that differs between trials."""

    key: str
    values: tuple[str, ...] = ()  # YAML; empty: drawn from `span`
    span: Span | None = None


@dataclass(frozen=True)
class Space:
    """All that a sweep may try."""

    axes: list[Axis]
    fixed: list[str]  # options that every trial has

    def grid(self) -> list[Settings]:
        """Every combination. Raises ConfigError for a range."""
        for axis in self.axes:
            if axis.span is not None:
                raise ConfigError(
                    f"--set {axis.key}: a range is drawn from by --random --trials N; a grid needs values"
                )
        return [tuple(chosen) for chosen in product(*([f"{a.key}={value}" for value in a.values] for a in self.axes))]

    def drawn(self, count: int, seed: int) -> list[Settings]:
        """``count`` different combinations by chance, fewer where there are no more; a larger ``count`` adds to them.

        Raises ConfigError where optuna is missing, or where nothing is to be drawn.
        """
        if not self.axes:
            raise ConfigError("--random needs something to draw: --set KEY=VALUE,VALUE or --set KEY=LOW..HIGH")
        found: dict[Settings, None] = {}
        for settings in self._draws(seed, 50 * count):
            found[settings] = None
            if len(found) == count:
                break
        return list(found)

    def _draws(self, seed: int, most: int) -> Iterator[Settings]:
        optuna = load_optuna("--random")
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        kinds = {axis.key: _distribution(optuna.distributions, axis) for axis in self.axes}
        for _ in range(most):
            chosen = study.ask(kinds).params
            yield tuple(f"{axis.key}={_text(axis, chosen[axis.key])}" for axis in self.axes)


def space_of(options: Sequence[str]) -> Space:
    """The space that ``--set`` options span. Raises ConfigError naming the option."""
    axes: list[Axis] = []
    fixed: list[str] = []
    for option in options:
        key, sign, text = option.partition("=")
        span, values = _span(option, text), _values(text)
        if not sign or (span is None and len(values) == 1):
            fixed.append(option)  # `load_job` refuses what is no option
        elif "" in values:
            raise ConfigError(f"--set {option}: a value between the commas is missing")
        elif any(axis.key == key.strip() for axis in axes):
            raise ConfigError(f"--set {option}: {key.strip()} is given twice; list all its values in one option")
        else:
            axes.append(Axis(key.strip(), span=span) if span is not None else Axis(key.strip(), tuple(values)))
    return Space(axes, fixed)


def load_optuna(what: str) -> Any:
    """The library; raises ConfigError where it is missing. ``what`` needs it."""
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(f"{what} needs the package optuna ({error}): pip install 'monolith-recsys[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _values(text: str) -> list[str]:
    """``text`` cut at the commas that stand in no bracket, brace or quote."""
    values, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and not values[-1].strip():  # one within a word is an apostrophe
            quote = letter
        depth += 0 if quote else (letter in _OPENING) - (letter in _CLOSING)
        if letter == "," and depth <= 0 and not quote:
            values.append("")
        else:
            values[-1] += letter
    return [value.strip() for value in values]


def _span(option: str, text: str) -> Span | None:
    match = _RANGE.match(text)
    if match is None:
        return None
    low, high, log = float(match["low"]), float(match["high"]), match["log"] is not None
    if not low < high or (log and low <= 0):
        wanted = "0 < LOW < HIGH" if log else "LOW < HIGH"
        raise ConfigError(f"--set {option}: a range needs {wanted}; saw {match['low']} and {match['high']}")
    whole = all(re.fullmatch(r"[-+]?\d+", match[end]) for end in ("low", "high"))
    return Span(low, high, whole, log)


def _distribution(kinds: Any, axis: Axis) -> Any:
    span = axis.span
    if span is None:
        return kinds.CategoricalDistribution(axis.values)
    if span.whole:
        return kinds.IntDistribution(int(span.low), int(span.high), log=span.log)
    return kinds.FloatDistribution(span.low, span.high, log=span.log)


def _text(axis: Axis, value: Any) -> str:
    """A drawn value as YAML; numbers short enough to be typed again, and within their range."""
    if axis.span is None or axis.span.whole:
        return str(value)
    return repr(min(max(float(f"{value:.{DIGITS}g}"), axis.span.low), axis.span.high))
