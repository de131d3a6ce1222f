"""Readers of the pair never see a change half made, and never wait for one."""

from __future__ import annotations

import threading

import pytest

from monolith.serving.left_right import LeftRight


def test_a_change_is_made_to_both_copies():
    pair = LeftRight([0], [0])
    for value in (1, 2, 3):
        pair.change(lambda copy, value=value: copy.append(value))
    for _ in range(2):
        with pair.reading() as copy:
            assert copy == [0, 1, 2, 3]
        pair.change(lambda copy: None)


def test_a_reader_keeps_its_copy_while_the_other_is_already_in_front(in_thread, wait_until):
    pair = LeftRight([0], [0])
    with pair.reading() as old:
        writing = in_thread(lambda: pair.change(lambda copy: copy.append(1)))

        def sees_the_change() -> bool:
            with pair.reading() as new:
                return new == [0, 1]

        wait_until(sees_the_change, "the new copy coming to the front")
        assert old == [0]
        assert writing.is_alive()
    writing.join(20)
    assert old == [0, 1]


def test_a_change_that_fails_leaves_the_front_as_it_was():
    pair = LeftRight([0], [0])

    def broken(copy) -> None:
        copy.append(1)
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        pair.change(broken)
    with pair.reading() as copy:
        assert copy == [0]


def test_many_readers_never_see_a_copy_that_is_being_changed(in_thread):
    pair = LeftRight([0] * 50, [0] * 50)
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            with pair.reading() as copy:
                seen = list(copy)
            assert len(set(seen)) == 1

    def change(copy) -> None:
        for index in range(len(copy)):
            copy[index] += 1

    for _ in range(3):
        in_thread(read)
    for _ in range(300):
        pair.change(change)
    done.set()
    with pair.reading() as copy:
        assert copy == [300] * 50
