"""What `monolith inspect STATE` says of a state folder, whole or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from monolith.commands.inspect_state import folder_lines
from monolith.errors import ConfigError, CorruptError
from monolith.streaming.journal import Journal, StepEntry
from monolith.training.snapshot import SNAPSHOT_VERSION, Manifest, Snapshots


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Two snapshots and a journal."""
    journal = Journal(tmp_path / "journal")
    for step in (1, 2):
        journal.append(StepEntry(step=step, ends={"samples": {0: step}}, watermark_ms=step))
        manifest = Manifest(version=SNAPSHOT_VERSION, model="m", lineage="l", step=step, sequence=step, job={})
        Snapshots(tmp_path / "snapshots").write(manifest, {"dense.safetensors": b"x" * 100})
    journal.close()
    return tmp_path


def told(state: Path) -> tuple[str, str]:
    """What is said before the fault, and the fault."""
    lines: list[str] = []
    with pytest.raises(CorruptError) as refused:
        lines.extend(folder_lines(state))  # keeps what came before the error
    return "\n".join(lines), str(refused.value)


def test_a_whole_state_folder_is_told_with_what_takes_how_much_room(state):
    lines = "\n".join(folder_lines(state))
    assert "steps 1 to 2" in lines
    assert lines.count("all checksums right") == 2
    assert f"{state} takes " in lines
    assert "unfinished" not in lines


def test_leftovers_are_counted_with_their_bytes(state):
    for name in ("snapshots/.000000000003.tmp", "snapshots/.000000000001.old.tmp"):
        (state / name).mkdir()
        (state / name / "half").write_bytes(b"x" * 100_000)
    (state / "job.tmp").write_bytes(b"{")
    lines = "\n".join(folder_lines(state))
    assert "unfinished: 3, 2" in lines
    assert "KiB; what no running trainer has in hand goes at its next start" in lines
    assert ".000000000003.tmp: 1" in lines


def test_what_cannot_be_used_is_told_beside_all_that_can(state):
    (state / "snapshots" / "000000000002" / "dense.safetensors").write_bytes(b"")
    (state / "snapshots" / "000000000009").write_bytes(b"")
    (state / "snapshots" / "lost+found").mkdir()
    (state / "job.json").write_bytes(b"{")
    lines, fault = told(state)
    assert lines.count("all checksums right") == 1
    assert lines.count("cannot be used: ") == 2
    assert "lost+found is no snapshot and not the trainer's" in lines
    assert fault.startswith(f"3 things in {state} cannot be used: ")
    assert "job.json is damaged" in fault


def test_a_damaged_journal_does_not_hide_the_snapshots(state):
    (segment,) = (state / "journal").glob("*.journal")
    data = bytearray(segment.read_bytes())
    data[20] ^= 1
    segment.write_bytes(data)
    lines, fault = told(state)
    assert lines.count("all checksums right") == 2
    assert f"{segment}: the head" in fault


def test_settings_are_told_with_the_step_from_which_they_hold_and_what_changed_there(state):
    assert "settings: none yet, they are written before the next step" in "\n".join(folder_lines(state))
    journal = Journal(state / "journal")
    journal.settle(1, b'{"join":{"window_s":60.0},"seed":3,"tables":[{"dim":4,"name":"user"}]}')
    journal.settle(3, b'{"join":{"window_s":90.0},"seed":3,"tables":[{"dim":4,"name":"user","on_nonfinite":"clip"}]}')
    journal.close()
    lines = list(folder_lines(state))
    at = lines.index("  settings from step 1 on: 4 that decide bits")
    assert lines[at + 1 : at + 4] == [
        "  settings from step 3 on: 2 of 5 changed",
        "    join.window_s: 60.0 -> 90.0",
        "    tables[0].on_nonfinite: 'raise' -> 'clip'",
    ]


def test_what_an_older_build_kept_counts_only_where_the_journal_has_no_settings(state):
    (state / "job.json").write_bytes(b"{")
    assert "job.json is damaged" in told(state)[1]
    journal = Journal(state / "journal")
    journal.settle(1, b'{"seed":3}')
    journal.close()
    assert "job.json: of an older build, 4.0 KiB, and no longer read" in "\n".join(folder_lines(state))


def test_any_other_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"neither a snapshot .* nor a job's state folder"):
        list(folder_lines(tmp_path))
