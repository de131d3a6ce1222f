"""What an error repeats of somebody's data."""

from __future__ import annotations

import pytest

from monolith.echo import MOST_SHOWN, MOST_TOLD, clipped, shown
from monolith.errors import EventError

HUGE = 4 * 2**20


@pytest.mark.parametrize("value", [17, "text", b"bytes", None, 1.5, ["a", 2], {"a": 1}, True])
def test_a_small_value_is_shown_as_it_is(value):
    assert shown(value) == repr(value)


@pytest.mark.parametrize(
    "value",
    ["x" * HUGE, b"x" * HUGE, ["x" * HUGE] * 100, {"x" * HUGE: 1}, [[["x" * 99] * 99] * 99] * 99, 10**4000, 10**5000],
    ids=["text", "bytes", "list", "key", "nested", "integer", "integer that Python does not write"],
)
def test_a_huge_value_is_shown_shortly(value):
    assert 5 < len(shown(value)) <= MOST_SHOWN


def test_a_long_text_keeps_its_beginning_and_its_end_in_one_line():
    text = clipped("begin " + "x\n" * HUGE + " end")
    assert len(text) <= MOST_TOLD
    assert text.startswith("begin ")
    assert text.endswith(" end")
    assert "\n" not in text


def test_an_events_error_is_bounded_whatever_it_is_made_of():
    error = EventError("malformed", "x" * HUGE)
    assert len(error.detail) <= MOST_TOLD
    assert len(str(error)) <= MOST_TOLD + len("malformed: ")
