"""A short run of `make chaos`, on logs and LMDB: kills, power cuts, a full disk, folders that go and come back."""

from __future__ import annotations

import shutil

import chaos
import pytest
from chaos_faults import full_disk, kill_two, power_cut, remove_store, restore_state, slow_clients

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler: no cc on the path"),
]


SEED = 7


@pytest.mark.timeout(600)
def test_whatever_happens_nothing_is_lost_and_the_bits_are_those_of_a_replay(tmp_path, tell):
    faults = [restore_state, slow_clients, power_cut, remove_store, full_disk, restore_state, kill_two]
    count = chaos.run(tmp_path / "run", SEED, 300.0, faults, events=3_000, quiet=True)
    assert count == len(faults), "the machine is too slow for so many"
    tell(f"{count} faults of a short `make chaos`: everything is as promised")
