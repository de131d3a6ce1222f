"""What a rank says of the snapshot that it sees."""

from __future__ import annotations

import pytest

from monolith.errors import ConfigError
from monolith.training.sharding.own_parts import check_same_snapshot, manifest_checksum
from monolith.training.snapshot import PARTS_VERSION, Manifest, Snapshots


def snapshot(folder, lineage):
    manifest = Manifest(version=PARTS_VERSION, model="m", lineage=lineage, step=1, sequence=1, job={})
    return Snapshots(folder).write(manifest, {"dense.safetensors": b"x"}) / "tables"


def test_a_rank_that_sees_another_snapshot_or_none_is_refused_by_name(tmp_path):
    one, other = (snapshot(tmp_path / lineage, lineage) for lineage in ("one", "other"))
    check_same_snapshot(one, manifest_checksum(one), 1)
    with pytest.raises(ConfigError, match="rank 1 has another snapshot at"):
        check_same_snapshot(other, manifest_checksum(one), 1)
    with pytest.raises(ConfigError, match="rank 2 does not see the snapshot that rank 0 goes on from"):
        check_same_snapshot(tmp_path / "nowhere" / "tables", manifest_checksum(one), 2)
