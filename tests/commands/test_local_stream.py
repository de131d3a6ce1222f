from __future__ import annotations

from pathlib import Path

import pytest

from monolith.commands.local_stream import Bar, fresh_folder, local_sets, parts_of, urls_of, write_stream
from monolith.config import parse_job
from monolith.datasets.impressions import timeline
from monolith.datasets.streams import open_stream
from monolith.errors import ConfigError
from monolith.streaming.source import open_source

JOB = "{name: j, input: {features: log://x, actions: log://y}, tables: [{name: user, dim: 2}]}"


def test_a_fresh_folder_is_emptied_if_it_was_made_here(tmp_path: Path):
    fresh_folder(tmp_path / "run")
    (tmp_path / "run" / "old").write_text("x")
    fresh_folder(tmp_path / "run")
    assert not (tmp_path / "run" / "old").exists()


def test_a_folder_with_other_peoples_files_is_not_touched(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="holds files that are not of an earlier run; name another folder by --dir"):
        fresh_folder(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_the_two_parts_are_the_stream_cut_in_event_time():
    stream = open_stream("synthetic", 600)
    cut_ms = stream.cut_ms(0.8)
    earlier, later = (list(part) for part in parts_of(stream, cut_ms))
    assert earlier + later == list(timeline(stream.start()))
    assert earlier[-1].event_time_ms < cut_ms <= later[0].event_time_ms


def test_a_stream_is_written_to_the_logs_of_the_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    job = parse_job(JOB, "j.yaml", local_sets(tmp_path))
    events = list(timeline(open_stream("synthetic", 500).start()))
    assert write_stream(urls_of(job), events, len(events), note=lambda: "lag 3") == len(events)
    ends = [sum(open_source(url).end_position().values()) for url in (job.input.features, job.input.actions)]
    assert ends == [500, len(events) - 500]
    assert f"writing events: {len(events):,} of {len(events):,} events  lag 3" in capsys.readouterr().err


def test_a_job_of_joined_samples_has_no_streams_to_write_to():
    job = parse_job("{name: j, input: {samples: parquet://x}, tables: [{name: user, dim: 2}]}", "j.yaml")
    with pytest.raises(ConfigError, match=r"job 'j' reads joined samples; this command needs input\.features"):
        urls_of(job)


def test_without_a_terminal_progress_is_a_line_at_the_end_of_each_piece_of_work(
    capsys: pytest.CaptureFixture[str],
):
    with Bar() as bar:
        for label in ("one", "two"):
            for done in range(1, 101):
                bar(label, done, 100)
    assert capsys.readouterr().err == "one: 100 of 100 samples\ntwo: 100 of 100 samples\n"
