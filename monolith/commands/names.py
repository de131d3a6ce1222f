"""What the values of features are called: strings that were hashed on the way are remembered while they are read."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from monolith.config import JobConfig
from monolith.errors import EventError
from monolith.events import Decoded, Record
from monolith.streaming.codec import FeatureDecoder, Stream
from monolith.tables.kept_strings import KeptStrings

_loose = msgspec.msgpack.Decoder()


class Names:
    """The names of the ids of some features. ``decoder`` is what the streams must be read with, if there is any."""

    def __init__(self, job: JobConfig, features: Sequence[str]) -> None:
        self.features = list(features)
        strings = [name for name in features if job.feature(name).type == "string"]
        self._kept: KeptStrings | None = None
        self._decoder = _Remembering(job, strings) if strings else None

    @property
    def decoder(self) -> FeatureDecoder | None:
        """Decodes and remembers; None: the job's own decoder will do."""
        return self._decoder

    def know(self, kept: KeptStrings | None) -> None:
        """Take what a model kept as well: rows of Parquet are read without their strings."""
        self._kept = kept

    def of(self, feature: str, id: int) -> str:
        """The value that has ``id``."""
        known = {} if self._decoder is None else self._decoder.names.get(feature, {})
        kept = {} if self._kept is None else self._kept.of(feature)
        return known.get(id) or kept.get(id) or str(id)


class _Remembering(FeatureDecoder):
    def __init__(self, job: JobConfig, features: Sequence[str]) -> None:
        super().__init__(job)
        self.names: dict[str, dict[int, str]] = {name: {} for name in features}

    def decode(self, record: Record, stream: Stream) -> Decoded:
        """As `FeatureDecoder`; a refused record gives no names."""
        event = super().decode(record, stream)
        value = record.value or b""
        features = (msgspec.json.decode(value) if value[:1] == b"{" else _loose.decode(value)).get("features", {})
        for name, names in self.names.items():
            given = features.get(name)
            for text in [given] if isinstance(given, str) else given or ():
                try:
                    names[int(self.schema.ids_of(name, [text])[0])] = text
                except EventError:
                    continue
        return event
