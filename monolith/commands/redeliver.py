"""``monolith redeliver DEAD --to URL``: put dead letters back into a stream, as they were or as somebody mended them.

What is put back is read once more by the job, with the event time that it has. The letters stay where they are, so
whoever redelivers twice delivers twice: repeats of feature and action events are then dropped by the joiner within
`join.dedup_s`, repeats of joined samples are trained on again.
"""

from __future__ import annotations

import argparse
import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monolith.errors import ConfigError, InputError
from monolith.secrets import masked, scheme

if TYPE_CHECKING:
    from monolith.streaming.deadletters import DeadLetter
    from monolith.streaming.source import Outgoing

AT_ONCE = 1000  # records that are appended together


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("redeliver", help="put dead letters back into a stream, once the cause is mended")
    parser.add_argument(
        "letters", help="the dead letters: log:// or kafka:// URL, or a file of lines as `inspect URL --head N` prints"
    )
    parser.add_argument("--to", required=True, metavar="URL", help="the stream to append to: log:// or kafka://")
    parser.add_argument(
        "--reason", action="append", default=[], metavar="R", help="only letters of this reason; repeatable"
    )
    parser.add_argument("--stream", choices=["features", "actions", "samples"], help="only letters of this stream")
    parser.add_argument("--dry-run", action="store_true", help="say what would be put back, and do nothing")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Say how many were put back, by reason. Exit 1 if there is none."""
    letters = [letter for letter in _letters(args.letters) if _is_asked_for(letter, args.reason, args.stream)]
    if not letters:
        print(f"{masked(args.letters)} has no letter like that: nothing is put back")
        return 1
    _check_one_stream(letters)
    _check_whole(letters)
    if not args.dry_run:
        _append(args.to, [_outgoing(letter) for letter in letters])
    counts = Counter(letter.reason for letter in letters)
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common())
    print(
        f"{len(letters):,} records {'would be' if args.dry_run else 'were'} put back into {masked(args.to)}: {reasons}"
    )
    return 0


def _letters(where: str) -> Iterator[DeadLetter]:
    if scheme(where):
        yield from _of_stream(where)
    elif Path(where).is_file():
        yield from _of_file(Path(where))
    else:
        raise ConfigError(f"{masked(where)!r} is neither a stream's URL nor a file of letters")


def _of_stream(url: str) -> Iterator[DeadLetter]:
    from monolith.commands.inspect_stream import answering, records_of
    from monolith.streaming.deadletters import decode_letter
    from monolith.streaming.source import open_source

    source = answering(open_source, url)
    try:
        for record in records_of(source):
            yield decode_letter(record.value or b"")
    finally:
        source.close()


def _of_file(path: Path) -> Iterator[DeadLetter]:
    """Lines of JSON that begin with ``{``; others are what `inspect` says of the stream."""
    import msgspec

    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("{"):
            try:
                yield _mended(msgspec.json.decode(line))
            except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
                raise InputError(
                    f"{path}, line {number} is no letter as `monolith inspect` prints it: {error}"
                ) from None


def _mended(line: dict[str, Any]) -> DeadLetter:
    import msgspec

    from monolith.streaming.deadletters import DeadLetter

    letter, record = line["letter"], line["record"]
    value = msgspec.msgpack.encode(record["event"]) if "event" in record else base64.b64decode(record["bytes"])
    key = record["key"]
    return DeadLetter(
        reason=letter["reason"],
        detail=letter["detail"],
        key=None if key is None else key.encode(),
        value=value,
        stream=letter["stream"],
        partition=letter["partition"],
        offset=letter["offset"],
        event_time_ms=int(record["event"].get("event_time_ms", record["event_time_ms"]))
        if "event" in record
        else int(record["event_time_ms"]),
        ingestion_time_ms=0,
    )


def _is_asked_for(letter: DeadLetter, reasons: Sequence[str], stream: str | None) -> bool:
    return (not reasons or letter.reason in reasons) and stream in (None, letter.stream)


def _check_one_stream(letters: Sequence[DeadLetter]) -> None:
    streams = sorted({letter.stream for letter in letters})
    if len(streams) > 1:
        raise ConfigError(f"these letters are of the streams {', '.join(streams)}: choose one with --stream")


def _check_whole(letters: Sequence[DeadLetter]) -> None:
    cut = [letter.place() for letter in letters if letter.is_shortened]
    if cut:
        raise InputError(
            f"{len(cut)} letters hold the beginning of their records only, such as {cut[0]}: read those from the "
            f"stream that they came from"
        )


def _outgoing(letter: DeadLetter) -> Outgoing:
    return letter.key, letter.value, letter.event_time_ms


def _append(url: str, records: Sequence[Outgoing]) -> None:
    from monolith.streaming.source import open_sink

    sink = open_sink(url)
    try:
        for begin in range(0, len(records), AT_ONCE):
            sink.append(records[begin : begin + AT_ONCE])
    finally:
        sink.close()
