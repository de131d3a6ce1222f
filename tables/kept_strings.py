"""What the ids of a model's tables stand for: string features with ``keep_strings``, id -> string, beside the tables.

A string is kept when its id has a row at the end of a step that trained on it, and counts as gone when no table that
reads the feature has a live row of the id. So what is kept is a function of the tables and of the samples since each
row came, whatever was forgotten when: an id whose row comes back brings its string along. Forgetting goes over all
strings when there are twice as many as live rows, which bounds memory and costs little a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from monolith.card import CardFeature
from monolith.config.kinds import HAS_ROWS_OF_IDS
from monolith.errors import CorruptError, VersionError
from monolith.tables.embedding import Embedding
from monolith.tables.hashing import salted

VERSION = 1
SLACK = 4096  # strings beyond twice the rows that may wait to be forgotten

Ids = npt.NDArray[np.int64]
Strings = Mapping[str, Mapping[int, str]]  # feature -> id -> string


class _Kept(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    reads: list[tuple[str, bool]]  # tables, and whether their keys are salted with the feature's name
    ids: list[int]  # ascending
    texts: list[bytes]  # UTF-8; a lone surrogate as its three bytes


class _File(msgspec.Struct, array_like=True):
    version: int
    features: dict[str, _Kept]


def _has_rows_of_ids(table: Embedding) -> bool:
    """Whether an id has a row of its own, which comes and goes; in other kinds every id is there always."""
    return table.config.kind in HAS_ROWS_OF_IDS


class KeptStrings:
    """The strings of one model. One thread."""

    def __init__(self, features: Sequence[CardFeature]) -> None:
        self._reads = {f.name: [(r.table, r.salted) for r in f.reads] for f in features if f.config.keep_strings}
        self._texts: dict[str, dict[int, str]] = {name: {} for name in self._reads}

    @property
    def features(self) -> list[str]:
        """Whose strings are kept."""
        return list(self._reads)

    def of(self, feature: str) -> Mapping[int, str]:
        """The strings of a feature; some of them may be of ids whose rows are gone."""
        return self._texts.get(feature, {})

    def by_key(self, table: str) -> dict[int, str]:
        """What the keys of a table stand for, of all features that it holds."""
        found: dict[int, str] = {}
        for name, reads in self._reads.items():
            for read, is_salted in reads:
                if read == table:
                    found |= zip(
                        _keys(name, self._ids(name), is_salted).tolist(), self._texts[name].values(), strict=True
                    )
        return found

    def take(self, strings: Strings, tables: Mapping[str, Embedding]) -> None:
        """Keep those of a step's ``strings`` whose ids have a row now, at its end."""
        for name, texts in self._texts.items():
            new = {id_: text for id_, text in strings.get(name, {}).items() if id_ not in texts}
            texts |= self._alive(name, new, tables)
            rows = sum(len(tables[table]) for table, _ in self._reads[name] if _has_rows_of_ids(tables[table]))
            if len(texts) > 2 * rows + SLACK:
                self._texts[name] = self._alive(name, texts, tables)

    def _alive(self, name: str, texts: dict[int, str], tables: Mapping[str, Embedding]) -> dict[int, str]:
        if not texts:
            return {}
        ids, alive = np.fromiter(texts, np.int64, len(texts)), np.zeros(len(texts), np.bool_)
        for table, is_salted in self._reads[name]:
            native = tables[table].one_table
            if native is not None and _has_rows_of_ids(tables[table]):
                alive |= native.contains(_keys(name, ids, is_salted))
        return {id_: texts[id_] for id_ in ids[alive].tolist()}

    def _ids(self, name: str) -> Ids:
        return np.fromiter(self._texts[name], np.int64, len(self._texts[name]))

    def state(self, tables: Mapping[str, Embedding]) -> bytes:
        """The strings of all ids that have a live row; equal ones give equal bytes."""
        features = {}
        for name, texts in self._texts.items():
            alive = sorted(self._alive(name, texts, tables).items())
            coded = [text.encode("utf-8", "surrogatepass") for _, text in alive]
            features[name] = _Kept(self._reads[name], [id_ for id_, _ in alive], coded)
        return msgspec.msgpack.encode(_File(VERSION, features))

    def restore(self, data: bytes) -> None:
        """Go on with what `state` gave, of those features whose strings the model still keeps.

        Raises VersionError or CorruptError.
        """
        for name, kept in _decoded(data).items():
            if name in self._texts:
                self._texts[name] = _texts(kept)

    @classmethod
    def from_state(cls, data: bytes) -> KeptStrings:
        """What `state` gave, for people who only look. Raises VersionError or CorruptError."""
        kept, found = cls([]), _decoded(data)
        kept._reads = {name: one.reads for name, one in found.items()}
        kept._texts = {name: _texts(one) for name, one in found.items()}
        return kept


def _keys(feature: str, ids: Ids, is_salted: bool) -> Ids:
    return salted(feature, ids) if is_salted else ids


def _texts(kept: _Kept) -> dict[int, str]:
    return {id_: text.decode("utf-8", "surrogatepass") for id_, text in zip(kept.ids, kept.texts, strict=True)}


def _decoded(data: bytes) -> dict[str, _Kept]:
    try:
        file = msgspec.msgpack.decode(data, type=_File)
    except msgspec.DecodeError as error:
        raise CorruptError(f"the kept strings cannot be read: {error}") from None
    if file.version != VERSION:
        raise VersionError(f"the kept strings are of version {file.version}, this build reads {VERSION}")
    if any(len(one.ids) != len(one.texts) for one in file.features.values()):
        raise CorruptError("the kept strings have another number of ids than of strings")
    return file.features
