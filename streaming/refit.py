"""A joiner's state as this job and this build want it: from an older version, or from other features.

Settings may change between two starts of a run, and samples that wait for their label then hold packed rows of the
features as they were. Those whose settings are the same stay in the rows; the others count as missing.
"""

from __future__ import annotations

import logging
import struct

import msgspec

from monolith.card import CardFeature
from monolith.errors import CorruptError, EventError
from monolith.streaming.joiner import Joiner
from monolith.streaming.joiner_segments import Read, no_files, read_joiner
from monolith.streaming.joiner_state import JoinerState, joiner_version
from monolith.streaming.joiner_v1 import upgraded
from monolith.streaming.labels import LabelBlocks
from monolith.streaming.reader_state import ReaderState
from monolith.tables.schema import FeatureSchema

log = logging.getLogger(__name__)


def refitted(
    state: ReaderState, schema: FeatureSchema, blocks: LabelBlocks, joiner: Joiner, read: Read = no_files
) -> JoinerState:
    """What ``joiner``, whose rows are of ``blocks`` and ``schema``, goes on with; ``read`` gives a snapshot's files.

    Raises VersionError or CorruptError.
    """
    held = _of_features(state, schema, blocks, joiner, read)
    if state.tasks == blocks.names:
        return held
    if state.tasks:
        raise CorruptError(f"waiting samples have labels of the tasks {state.tasks}, the job has {blocks.names}")
    return held.repacked(lambda row, label: blocks.of_label(label) + row)


def _of_features(
    state: ReaderState, schema: FeatureSchema, blocks: LabelBlocks, joiner: Joiner, read: Read
) -> JoinerState:
    """The joiner's state with rows of ``schema`` behind the label blocks that it was kept with."""
    if joiner_version(state.joiner) == 1:
        try:
            return upgraded(state.joiner, schema.pack, joiner.is_ignored)
        except EventError as error:
            raise CorruptError(f"a waiting event no longer fits the job: {error}; set back its features") from None
    held, size = read_joiner(state.joiner, read), blocks.size if state.tasks else 0
    try:
        old = FeatureSchema(msgspec.msgpack.decode(state.features, type=list[CardFeature]), keep_strings=True)
    except msgspec.DecodeError as error:
        raise CorruptError(f"the features of the reader's state cannot be read: {error}") from None
    if old.layout == schema.layout:
        return held
    log.warning("features changed: waiting samples keep those whose settings are the same, the others are missing")
    try:
        return held.repacked(lambda row, _: row[:size] + schema.repacked(row[size:], old))
    except (ValueError, struct.error) as error:
        raise CorruptError(f"the joiner's packed rows are not of the features that the state names: {error}") from None
