"""Which deltas a store takes and which it keeps: the rules that LMDB and Redis share, without either of them.

A store's *head* says what it holds. ``accepts`` decides about a delta in one place, so that every store drops, refuses
and asks for the same ones; a store has only to run it and the write in one atomic step.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import xxhash

from monolith.card import CARD_VERSION, ModelCard, oldest_version, upgraded
from monolith.errors import CorruptError, FencedError, GapError, InputError, VersionError
from monolith.serving.content import Contents, differs, lost
from monolith.serving.packed import PackedDelta
from monolith.serving.payload import RowFormat, check_payload

log = logging.getLogger(__name__)

FLOAT32_FORMAT = 1  # what older builds read as well
PAYLOAD_FORMAT = 2  # rows of another payload, which the head names
MENDED = "the trainer sends an image when it looks, within seconds"  # of a store that lost something
_CHECK_BYTES = 8
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Held:
    """What a trainer that takes a store over finds there: its new generation, and what need not be sent again."""

    generation: int
    sequence: int  # 0: send an image
    lineage: str  # under which to publish: that of the card, or the revision of it that the store holds
    digest: str = ""  # of what the store holds; empty where whoever wrote it gave none
    fault: str | None = None  # why what is held is not what its head says; None: it is, as far as a look can tell
    rows: int = 0  # in all tables, by the head


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at a store finds."""

    version: Version
    digest: str
    fault: str | None = None  # as in ``Held``
    alive_ms: int = 0  # wall time at which the trainer that may write was last heard of; 0: never
    rows: int = 0  # in all tables, by the head


@dataclass(frozen=True, slots=True)
class Writer:
    """Who hands in a delta: the take-over it stands on."""

    owner: str
    generation: int
    lineage: str


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """What a store or a replica holds. ``sequence == 0``: nothing yet."""

    generation: int = 0  # of the trainer that wrote it
    sequence: int = 0
    lineage: str = ""
    image: str = ""  # names the image that the deltas since have built upon
    step: int = 0
    watermark_ms: int = 0
    published_ms: int = 0  # wall time at which the trainer handed it over


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """A store's own state: who may write, and what is held."""

    format: int = FLOAT32_FORMAT
    generation: int = 0  # of the trainer that may write
    owner: str = ""  # random name of that trainer's take-over
    tables: dict[str, int] = {}  # name -> dim of what is held
    payload: str = "float32"  # of the rows that are held
    version: Version = Version()
    digest: str = ""  # what the version was made from, by the trainer's history; empty: the writer gave none
    contents: Contents | None = None  # of the tables that are held; None: the writer, an older build, did not count

    def row_format(self, table: str, where: str) -> RowFormat:
        """How the rows of ``table`` are stored. Raises InputError with the tables there are."""
        if table not in self.tables:
            raise InputError(f"{where} has no table {table!r}, it has {sorted(self.tables)}")
        return RowFormat(self.payload, self.tables[table])


class Beat(msgspec.Struct, frozen=True):
    """A sign of life from a trainer that has nothing to publish."""

    owner: str  # its take-over
    alive_ms: int  # wall time


class LogEntry(msgspec.Struct, frozen=True, array_like=True):
    """One delta that the log still holds."""

    base_sequence: int
    sequence: int
    size: int  # bytes


# msgspec prepares a type where it is first used, which no two threads may do at once; stores are read from many.
_prepared = [msgspec.json.Decoder(kind) for kind in (Head, Beat, LogEntry, ModelCard)]


@dataclass(frozen=True, slots=True)
class LogLimits:
    """How much of the past a store's delta log keeps."""

    max_deltas: int = 512
    max_bytes: int = 256 * 2**20


def new_owner() -> str:
    """A name for one take-over that no other trainer has."""
    return secrets.token_hex(8)


def claim(head: Head, owner: str, generation: int | None, where: str) -> Head:
    """The head after ``owner`` took the store over.

    ``generation=None`` raises the generation by one. A number claims exactly that generation, for a trainer whose
    store lost its memory; FencedError unless the store's is lower, or this owner's own.
    """
    if generation is None:
        return msgspec.structs.replace(head, generation=head.generation + 1, owner=owner)
    if generation < head.generation or (generation == head.generation and owner != head.owner):
        raise FencedError(_fenced(head, generation, where))
    return msgspec.structs.replace(head, generation=generation, owner=owner)


def new_revision(lineage: str) -> str:
    """A name, which nobody had before, for another way that the run ``lineage`` went: ``RUN.REVISION``."""
    return f"{lineage.partition('.')[0]}.{secrets.token_hex(4)}"


def adopted(card: ModelCard, held: ModelCard | None) -> ModelCard:
    """``card`` under the revision of its run that the store holds, if the two are the same in all else."""
    if held is None or held.lineage.partition(".")[0] != card.lineage:
        return card
    return held if msgspec.structs.replace(held, lineage=card.lineage) == card else card


def alive_ms(head: Head, sealed_beat: bytes | None, where: str) -> int:
    """When the trainer that may write was last heard of: it published, or gave a beat. A damaged beat is none."""
    published_ms = head.version.published_ms
    try:
        beat = Beat("", 0) if sealed_beat is None else unseal_json(sealed_beat, Beat, f"the beat of {where}")
    except CorruptError as error:
        log.warning("a sign of the trainer's life cannot be read: %s", error)
        return published_ms
    return max(published_ms, beat.alive_ms) if beat.owner == head.owner else published_ms


def rows_of(head: Head) -> int:
    """How many rows the tables have, by what the head tells."""
    return sum(content.rows for content in (head.contents or {}).values())


def fault_of(counts: Mapping[str, int], head: Head, where: str, gone: Sequence[str] = ()) -> str | None:
    """Why a store with so many rows in its tables is not what its head says, None if it may be.

    ``gone``: what else is not there of a model whose head is: its card, graph or dense weights.
    """
    reason = f"has lost its {' and '.join(gone)}" if gone and head.version.sequence else lost(counts, head.contents)
    return f"{where} {reason}; {MENDED}" if reason else None


def check_contents(seen: Contents, head: Head, where: str) -> None:
    """Raise CorruptError unless all rows, as they were read, are those that the head tells of."""
    if reason := differs(seen, head.contents):
        raise CorruptError(
            f"{where} {reason}. A lost row is sent again within seconds; if this stays, rows were altered: "
            f"empty the store, the trainer fills it again"
        )


def held_sequence(head: Head, held_card: ModelCard | None, card: ModelCard) -> int:
    """How far the store already is on the way of ``card``'s run; 0 when an image has to come first.

    The card has to be the same in all it says: deltas change numbers, only an image changes what they mean.
    """
    return head.version.sequence if held_card == card else 0


@dataclass(frozen=True, slots=True)
class Cards:
    """The card of what a store holds, and that of the trainer which took over last, while it has published nothing."""

    held: ModelCard | None
    next: ModelCard | None

    @property
    def writing(self) -> ModelCard | None:
        """The card that a delta handed in now belongs to."""
        return self.next or self.held


def accepts(head: Head, writer: Writer, cards: Cards, delta: PackedDelta, where: str) -> bool:
    """Whether the store applies ``delta``; False: it is known already.

    Raises FencedError when that is another one, GapError when the
    delta does not follow on what is held or the store forgot this trainer, InputError when it is not of the card.
    """
    card = check_writer(head, writer, cards, where)
    check_belongs(card, writer.lineage, delta)
    return follows(held_sequence(head, cards.held, card), delta.base_sequence, delta.sequence, where)


def check_writer(head: Head, writer: Writer, cards: Cards, where: str) -> ModelCard:
    """The card of what ``writer`` writes. Raises FencedError unless it may, GapError where the store lost it."""
    if writer.generation > head.generation:
        raise GapError(f"{where} knows generation {head.generation}, not {writer.generation}: it lost its memory")
    if writer.generation < head.generation or writer.owner != head.owner:
        raise FencedError(_fenced(head, writer.generation, where))
    if cards.writing is None:
        raise GapError(f"{where} has lost its card; it gets an image")
    return cards.writing


def follows(held: int, base: int, sequence: int, where: str) -> bool:
    """Whether a delta leads on from sequence ``held``; False: it is known already. Raises GapError after a gap."""
    if sequence <= held:
        return False
    if base > held:
        raise GapError(f"{where} holds sequence {held}, the delta starts at {base}: send one from {held}")
    return True


def _fenced(head: Head, generation: int, where: str) -> str:
    return (
        f"{where} was taken over by a trainer of generation {head.generation}; this one has {generation} and must "
        f"stop: let only one trainer run for a model"
    )


def check_belongs(card: ModelCard, lineage: str, delta: PackedDelta) -> None:
    """Raise InputError unless lineage, tables, dims and payload are the card's."""
    check_lineage(card, lineage, delta.sequence)
    if (tables := tables_of(delta)) != card.tables:
        raise InputError(f"delta {delta.sequence} has tables {tables}, model {card.model!r} has {card.tables}")
    if delta.payload != card.payload:
        raise InputError(f"delta {delta.sequence} is of payload {delta.payload}, the trainer's card of {card.payload}")


def check_lineage(card: ModelCard, lineage: str, sequence: int) -> None:
    """Raise InputError unless the lineage is the card's."""
    if lineage != card.lineage:
        raise InputError(f"delta {sequence} is of lineage {lineage!r}, the trainer's card of {card.lineage!r}")


def tables_of(delta: PackedDelta) -> dict[str, int]:
    """Name -> dim."""
    return {name: table.format.dim for name, table in delta.tables.items()}


def advance(head: Head, lineage: str, delta: PackedDelta, published_ms: int, contents: Contents | None) -> Head:
    """The head after ``delta`` was applied, which leaves ``contents``."""
    image = f"{head.owner}-{delta.sequence}" if delta.base_sequence == 0 else head.version.image
    version = Version(
        generation=head.generation,
        sequence=delta.sequence,
        lineage=lineage,
        image=image,
        step=delta.step,
        watermark_ms=delta.watermark_ms,
        published_ms=published_ms,
    )
    form = FLOAT32_FORMAT if delta.payload == "float32" else PAYLOAD_FORMAT
    return msgspec.structs.replace(
        head,
        format=form,
        tables=tables_of(delta),
        payload=delta.payload,
        version=version,
        digest=delta.digest,
        contents=contents,
    )


def trimmed(log: list[LogEntry], limits: LogLimits) -> list[LogEntry]:
    """The newest entries that fit the limits; all of a log's later ones, so that it never has a hole."""
    kept: list[LogEntry] = []
    size = 0
    for entry in reversed(log):
        size += entry.size
        if len(kept) == limits.max_deltas or size > limits.max_bytes:
            break
        kept.append(entry)
    return kept[::-1]


def check_reach(held: Version, now: Version, first_base: int | None, where: str) -> None:
    """Raise GapError if deltas cannot lead from ``held`` to ``now``; ``first_base``: of the first newer delta kept."""
    if held.lineage != now.lineage or held.image != now.image:
        raise GapError(f"{where} holds another image than the one followed so far: reload it")
    if now.sequence > held.sequence and (first_base is None or first_base > held.sequence):
        raise GapError(f"the delta log of {where} no longer reaches back to sequence {held.sequence}: reload the image")


def seal(payload: bytes) -> bytes:
    """``payload`` behind its xxh3-64, 8 bytes little-endian: how a store keeps everything that is not a row."""
    return xxhash.xxh3_64_intdigest(payload).to_bytes(_CHECK_BYTES, "little") + payload


def unseal(data: bytes, where: str) -> bytes:
    """What was sealed. Raises CorruptError, naming ``where``, if a byte changed."""
    payload = data[_CHECK_BYTES:]
    if seal(payload)[:_CHECK_BYTES] != data[:_CHECK_BYTES]:
        raise CorruptError(f"{where} fails its checksum, its bytes have changed: empty the store, restart the trainer")
    return payload


def seal_json(value: object) -> bytes:
    """A struct as sealed JSON, which people can read in the store too."""
    return seal(msgspec.json.encode(value))


def unseal_json(data: bytes, kind: type[_T], where: str) -> _T:
    """The struct that ``seal_json`` wrote. Raises CorruptError for what is not one."""
    payload = unseal(data, where)
    try:
        return msgspec.json.decode(payload, type=kind)
    except msgspec.DecodeError as error:
        raise CorruptError(f"{where} is not a {kind.__name__}: {error}") from error


def unseal_head(data: bytes | None, where: str) -> Head:
    """The head in a store, or an empty one where there is none yet. Raises VersionError for another format."""
    if data is None:
        return Head()
    head = unseal_json(data, Head, f"the head of {where}")
    if head.format not in (FLOAT32_FORMAT, PAYLOAD_FORMAT):
        known = f"{FLOAT32_FORMAT} and {PAYLOAD_FORMAT}"
        raise VersionError(f"{where} has format {head.format}, this build reads {known}: use an empty store")
    check_payload(head.payload, where)
    return head


def seal_card(card: ModelCard) -> bytes:
    """A model card as sealed JSON, of the oldest version that says all of it."""
    return seal_json(msgspec.structs.replace(card, version=oldest_version(card)))


def unseal_card(data: bytes, where: str) -> ModelCard:
    """A model card in a store. Raises VersionError for another card version."""
    what = f"the model card of {where}"
    plain = unseal_json(data, dict, what)
    if plain.get("version") not in range(1, CARD_VERSION + 1):
        raise VersionError(f"{what} has version {plain.get('version')}, this build reads 1 to {CARD_VERSION}")
    try:
        if plain["version"] == 1:
            plain |= {"features": msgspec.to_builtins(upgraded(plain.get("features", [])))}
        card = msgspec.convert(plain | {"version": CARD_VERSION}, ModelCard)
    except msgspec.ValidationError as error:
        raise CorruptError(f"{what} is not a ModelCard: {error}") from error
    check_payload(card.payload, f"the model card of {where}")
    return card
