"""At any moment a replica sees one sequence, whole: parts in any order, readers beside, processes killed."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal

import msgspec
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from staged_parts import Follower, large, part_of, publish, served, without_tables

from monolith.errors import FencedError, GapError, InputError, UnavailableError
from monolith.serving import redis_staging, staging
from monolith.serving.staging import Receipt, Ticket
from monolith.serving.store import open_store

RUNS = itertools.count()
MOVES = {"write": 3, "begin": 3, "stage": 6, "commit": 2, "commit the rest": 2, "take over": 1}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from([kind for kind, weight in MOVES.items() for _ in range(weight)]),
            st.sampled_from([0, 0, 0, 1, 2]),  # which attempt by age, or how far behind a delta begins
            st.integers(0, 2),  # which part, or how many more than one
            st.frozensets(st.integers(-6, 6), max_size=5),
        ),
        min_size=30,
        max_size=60,
    )
)
def test_any_interleaving_of_attempts_shows_only_whole_sequences(store, scripted, moves):
    """Attempts begin, are staged in any order and left half done; trainers come and go; a reader looks after each."""
    play = Play(store, scripted(f"run {next(RUNS)}"))
    for move in moves:
        play.do(*move)
        play.look()


class Play:
    """One store, one history, attempts by their age (0 is the newest)."""

    def __init__(self, store, model) -> None:
        self.store, self.model, self.held = store, model, 0
        self.generation = store.take_over(model.card).generation
        self.attempts: list[tuple[Ticket, int, dict[int, Receipt]]] = []
        self.follower: dict[int, bytes] = {}
        self.followed = None

    def do(self, kind, back, part, ids) -> None:
        if kind == "write":
            self.model.write(*ids, remove=tuple({0, 1, 2, 3} - ids)[:part])
        elif kind == "take over":
            self.generation = self.store.take_over(self.model.card).generation
        elif kind == "begin":
            self._begin(max(0, self.held - back), part + 1)
        elif back < len(self.attempts):
            ticket, generation, receipts = self.attempts[-1 - back]
            if kind == "stage" and part < ticket.parts:
                self._stage(ticket, [part], receipts)
            if kind == "commit the rest":
                self._stage(ticket, set(range(ticket.parts)) - set(receipts), receipts)
            if kind != "stage":
                self._commit(ticket, generation, receipts, newest=back == 0)

    def _stage(self, ticket, parts, receipts) -> None:
        delta = self.model.delta(ticket.base_sequence, ticket.sequence)
        for part in parts:
            with contextlib.suppress(UnavailableError):  # another attempt began
                receipts[part] = self.store.stage(ticket, part, part_of(delta, part, ticket.parts))

    def _begin(self, base, parts) -> None:
        if base >= self.model.sequence:
            return
        ticket = self.store.begin(base, self.model.sequence, parts, self.generation, self.model.lineage)
        assert (ticket is None) == (self.model.sequence <= self.held)
        if ticket is not None:
            self.attempts.append((ticket, self.generation, {}))

    def _commit(self, ticket, generation, receipts, *, newest) -> None:
        whole = len(receipts) == ticket.parts
        current = generation == self.generation and ticket.sequence > self.held
        try:
            delta = self.model.delta(ticket.base_sequence, ticket.sequence)
            applied = self.store.commit(ticket, list(receipts.values()), without_tables(delta))
        except (InputError, UnavailableError, FencedError, GapError):
            assert not (whole and newest and current)
        else:
            assert whole
            assert applied == current
            self.held = max(self.held, ticket.sequence)
            event(f"applied: {applied}")

    def look(self) -> None:
        """Both a reader of images and a follower see one sequence of the history, the same, whole."""
        if not self.held:
            return
        assert self.store.version().sequence == self.held
        assert served(self.store, self.model) == self.model.states[self.held]
        try:
            for published in [] if self.followed is None else self.store.deltas(self.followed, 0.0):
                table = published.delta.tables["user"]
                self.follower = {k: row for k, row in self.follower.items() if k not in set(table.removed.tolist())}
                self.follower |= self.model.rows_of(table)
        except GapError:
            self.followed = None
        if self.followed is None:
            self.follower = served(self.store, self.model)
        self.followed = self.store.version()
        assert self.follower == self.model.states[self.held]


def test_replicas_see_whole_sequences_while_parts_are_staged_side_by_side(connect, scripted):
    model, writer, reader = scripted(), connect(), connect()
    model.write(*range(-200, 200))
    generation = writer.take_over(model.card).generation
    publish(writer, model.delta(0), 3, generation, model.lineage)
    for sequence in range(2, 30):
        model.write(*range(-200, 200, 2), 1000 + sequence, remove=(1000 + sequence - 1,))
    with Follower(reader, model):
        for sequence in range(2, 30):
            since = 0 if sequence % 10 == 0 else sequence - 1
            if since == 0:  # an image in between: under another card
                card = msgspec.structs.replace(model.card, ignore_unknown=sequence % 20 == 0)
                generation = writer.take_over(card).generation
            publish(writer, model.delta(since, sequence), 3, generation, model.lineage)


def test_a_process_killed_while_it_stages_leaves_the_sequence_before_and_nothing_in_the_next(
    connect, address, scripted
):
    """Real processes, SIGKILL between any two pieces; a replica looks on, and each time the job begins again."""
    model, store, dice = large(scripted, dim=8), connect(), random.Random(11)
    ids = sorted(model.states[-1])
    generation = store.take_over(model.card, b"").generation
    publish(store, model.delta(0), 2, generation, model.lineage)
    held, killed = model.sequence, 0
    with Follower(connect(), model) as follower:
        for turn in range(24):
            model.write(*ids[turn % 5 :: 2], remove=(ids[turn],))
            image = turn % 4 == 3
            if image:
                generation = store.take_over(
                    msgspec.structs.replace(model.card, ignore_unknown=turn % 8 == 3)
                ).generation
            ticket = store.begin(0 if image else held, model.sequence, 2, generation, model.lineage)
            delta = model.delta(ticket.base_sequence)
            victim = dice.randrange(3)  # 2: nobody dies
            staged = [
                Stager(address, ticket, part, delta, dice.randrange(9) if part == victim else -1) for part in (0, 1)
            ]
            killed += victim < 2
            receipts = [stager.receipt() for stager in staged]
            assert store.version().sequence == held
            assert served(store, model) == model.states[held]
            assert (None in receipts) == (victim < 2)
            if None in receipts:
                with pytest.raises(InputError, match="receipts of parts"):
                    store.commit(ticket, [receipt for receipt in receipts if receipt], delta)
                assert publish(store, delta, 2, generation, model.lineage)
            else:
                assert store.commit(ticket, receipts, without_tables(delta))
            held = model.sequence
            assert served(store, model) == model.states[held]
        follower.reach(held)
    assert killed > 8


class Stager:
    """A process that stages one part and sends the receipt; it kills itself at piece ``dies_at``, -1: at none."""

    def __init__(self, address, ticket, part, delta, dies_at) -> None:
        self._read, write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            with contextlib.suppress(BaseException):
                _die_at(dies_at)
                receipt = open_store(address, "demo").stage(ticket, part, part_of(delta, part, 2))
                os.write(write, msgspec.json.encode(receipt))
            os._exit(0)
        os.close(write)

    def receipt(self) -> Receipt | None:
        os.waitpid(self._pid, 0)
        with os.fdopen(self._read, "rb") as pipe:
            data = pipe.read()
        return msgspec.json.decode(data, type=Receipt) if data else None


def _die_at(piece: int) -> None:
    """In a child: pieces are small and sent one by one, and with the given one the process is gone."""
    staging.PIECE_ROWS, staging.LEAST_PIECE_ROWS, redis_staging.PIECES_AT_ONCE = 200, 100, 1
    count, numbers = staging.of_rows, itertools.count()

    def counted(*rows):
        if next(numbers) == piece:
            os.kill(os.getpid(), signal.SIGKILL)
        return count(*rows)

    staging.of_rows = counted
