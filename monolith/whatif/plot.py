"""Hit rate against bytes as an SVG, one numbered mark a setting: what more memory buys. No plotting library needed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from monolith.errors import UnavailableError

_LEFT, _TOP, _WIDTH, _HEIGHT, _LETTER = 70, 60, 520, 340, 7  # px
_COLOURS = ("#1b6ca8", "#c0504d", "#4f8a3d", "#7d4fa0", "#c98a1b", "#357f85")


@dataclass(frozen=True)
class Mark:
    """One setting's point."""

    label: str
    bytes: int
    hit_share: float


@dataclass(frozen=True)
class _Axis:
    """A range of values, widened to round steps, on so many pixels."""

    low: float
    high: float
    step: float
    pixels: int

    def at(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low) * self.pixels

    def ticks(self) -> list[float]:
        count = round((self.high - self.low) / self.step)
        return [self.low + i * self.step for i in range(count + 1)]


def write_svg(path: Path, title: str, marks: Sequence[Mark]) -> None:
    """Draw ``marks`` into the file ``path``. Raises UnavailableError where it cannot be written."""
    try:
        path.write_text("\n".join(_svg(title, marks)) + "\n", encoding="utf-8")
    except OSError as error:
        raise UnavailableError(f"cannot write the plot {path}: {error}; name another file by --plot") from error


def _svg(title: str, marks: Sequence[Mark]) -> Iterator[str]:
    legend = 60 + _LETTER * max((len(mark.label) + 4 for mark in marks), default=0)
    height = max(_TOP + _HEIGHT + 60, _TOP + 40 + 18 * len(marks))
    unit, factor = _unit(max((mark.bytes for mark in marks), default=0))
    across = _axis([mark.bytes / factor for mark in marks], _WIDTH)
    up = _axis([100 * mark.hit_share for mark in marks], _HEIGHT)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + legend}" height="{height}" '
        f'font-family="sans-serif" font-size="12">'
    )
    yield '<rect width="100%" height="100%" fill="white"/>'
    yield _text(_LEFT, 22, title, size=14)
    yield from _grid(across, up)
    yield _text(_LEFT + _WIDTH / 2, _TOP + _HEIGHT + 40, f"table size, {unit}", anchor="middle")
    yield _text(_LEFT, _TOP - 10, "look-ups that found a row, %")
    for number, mark in enumerate(marks, start=1):
        x, y = _LEFT + across.at(mark.bytes / factor), _TOP + _HEIGHT - up.at(100 * mark.hit_share)
        yield from _mark(number, mark, x, y)
    yield "</svg>"


def _mark(number: int, mark: Mark, x: float, y: float) -> Iterator[str]:
    """The point, and its line in the legend."""
    colour = _COLOURS[(number - 1) % len(_COLOURS)]
    legend_x, legend_y = _LEFT + _WIDTH + 30, _TOP + 18 * number
    told = f"{mark.label}: {100 * mark.hit_share:.2f} % of look-ups, {mark.bytes:,} bytes"
    yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"><title>{escape(told)}</title></circle>'
    yield _text(x + 8, y - 6, str(number), colour=colour)
    yield f'<circle cx="{legend_x}" cy="{legend_y - 4}" r="4" fill="{colour}"/>'
    yield _text(legend_x + 10, legend_y, f"{number}  {mark.label}")


def _grid(across: _Axis, up: _Axis) -> Iterator[str]:
    for value in across.ticks():
        x = _LEFT + across.at(value)
        yield f'<path d="M{x:.1f} {_TOP}V{_TOP + _HEIGHT}" stroke="#ddd"/>'
        yield _text(x, _TOP + _HEIGHT + 18, f"{value:.6g}", anchor="middle")
    for value in up.ticks():
        y = _TOP + _HEIGHT - up.at(value)
        yield f'<path d="M{_LEFT} {y:.1f}H{_LEFT + _WIDTH}" stroke="#ddd"/>'
        yield _text(_LEFT - 8, y + 4, f"{value:.6g}", anchor="end")


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = "#222") -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"'
    return f"<text {where}>{escape(text)}</text>"


def _axis(values: Sequence[float], pixels: int) -> _Axis:
    """About five round steps that hold all values."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    room = (high - low) * 0.05 or max(abs(high) * 0.05, 0.5)
    low, high = max(0.0, low - room), high + room
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    return _Axis(math.floor(low / step) * step, math.ceil(high / step) * step, step, pixels)


def _unit(count: int) -> tuple[str, float]:
    """The unit in which ``count`` bytes are a handy number, and how many bytes it is."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return unit, factor
    return "bytes", 1.0
