"""`monolith inspect policy` as a user types it: its look-ups, options, output and refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.dom import minidom

import pytest
from policy_command import only, policy

from monolith.cli import main
from monolith.streaming.source import open_sink

START_MS = 1_700_000_000_000


# --- look-ups ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def events(tmp_path: Path) -> Callable[..., Path]:
    """Writes feature events (user, seconds after the start) to a log, and returns its folder."""

    def write(*shown: tuple[Any, float], name: str = "events", **more: Any) -> Path:
        sink = open_sink(f"log://{tmp_path / name}")
        rows = []
        for number, (user, at_s) in enumerate(shown):
            event = {"type": "feature", "v": 1, "request_id": f"r{number}", "item_id": "i", "features": {"user": user}}
            event |= {"event_time_ms": START_MS + round(at_s * 1000), **more}
            rows.append((b"k", json.dumps(event).encode(), event["event_time_ms"]))
        sink.append(rows)
        sink.close()
        return tmp_path / name

    return write


def test_an_event_looks_up_before_its_own_sample_and_after_those_before(events, capsys):
    folder = events(*[(user, number) for number, user in enumerate([1, 1, 2, 1, 2, 2, 3, 1])])
    found = policy(capsys, folder, "--feature", "user", "--admission", "always", "--admission", "min_count:3")
    assert (found["lookups"], found["distinct_ids"]) == (8, 3)
    always, third = found["settings"]
    assert (always["hits"], always["kept_share"]) == (5, 1.0)  # all but the first of each
    assert (third["hits"], third["rows"], third["kept_share"]) == (1, 2, 2 / 3)  # the fourth of user 1


def test_an_expired_row_is_no_hit_and_every_removal_a_tombstone(events, capsys):
    day = 86_400.0
    folder = events((1, 0), (1, 2 * day), (2, 2 * day), (1, 6 * day), (3, 20 * day))
    words = ["--feature", "user", "--expiry", "forever", "--expiry", "idle:3d", "--set", "train.batch_size=1"]
    found = policy(capsys, f"log://{folder}", *words)
    forever, idle = found["settings"]
    assert (forever["hits"], forever["removed"], forever["rows"]) == (2, 0, 3)
    assert (idle["hits"], idle["live_rows"]) == (1, 1)
    assert (idle["removed"], idle["admitted"]) == (3, 4)
    assert idle["removed_an_hour"] == pytest.approx(3 / (20 * 24))


def test_with_joins_a_row_comes_when_its_sample_is_complete(events, tmp_path, capsys):
    folder = events((1, 0), (1, 60), (2, 400), (1, 401), (9, 2000))  # the windows of 300 s end at 300 and 360
    open_sink(f"log://{tmp_path / 'actions'}").close()
    job = tmp_path / "job.yaml"
    job.write_text(
        f"{{name: j, input: {{features: 'log://nowhere', actions: 'log://{tmp_path}/actions'}}, "
        "join: {window_s: 300}, tables: [{name: user, dim: 4}]}"
    )
    joined = policy(capsys, folder, "--job", job)
    assert only(joined)["hits"] == 1
    assert only(policy(capsys, folder, "--feature", "user"))["hits"] == 2


def test_a_log_of_samples_needs_no_actions(tmp_path, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    users = [5, 6, 5, None, 5]
    columns = {"user": users, "label": [1, 0, 1, 0, 0], "t": [START_MS + n for n in range(5)], "item": [1] * 5}
    pq.write_table(pa.table(columns), tmp_path / "samples.parquet")
    url = f"parquet://{tmp_path}/samples.parquet?time=t&item=item&label=label&features=user"
    plain = policy(capsys, url, "--table", "user")
    assert (plain["lookups"], only(plain)["hits"], only(plain)["rows"]) == (4, 2, 2)
    job = tmp_path / "job.yaml"
    job.write_text("{name: j, input: {features: 'log://x', actions: 'log://y'}, tables: [{name: user, dim: 4}]}")
    assert only(policy(capsys, url, "--job", job))["hits"] == 2
    assert "holds samples, which are joined already" in refusal(capsys, url, "--job", job, "--actions", "log://z")


def test_features_under_a_job_of_samples_are_samples_by_themselves(events, tmp_path, capsys):
    job = tmp_path / "job.yaml"
    job.write_text("{name: j, input: {samples: 'log://nowhere'}, tables: [{name: user, dim: 4}]}")
    found = policy(capsys, events((1, 0), (1, 1), (2, 2)), "--job", job)
    assert (found["samples"], only(found)["hits"]) == (3, 1)


def test_without_a_job_the_log_says_what_its_features_are(tmp_path, capsys):
    sink = open_sink(f"log://{tmp_path / 'log'}")
    base = {"type": "feature", "v": 1, "request_id": "r", "item_id": "i"}
    shown = [{"word": "a", "tags": ["x", "y"], "seen": {"3": 0.5}}, {"word": "b", "tags": ["x"], "seen": None}]
    lines = [base | {"request_id": str(n), "event_time_ms": START_MS + n, "features": f} for n, f in enumerate(shown)]
    sink.append([(b"k", json.dumps(line).encode(), START_MS) for line in lines] + [(b"k", b"junk", START_MS)])
    sink.close()
    words = [word for name in ("word", "tags", "seen") for word in ("--feature", name)]
    found = policy(capsys, tmp_path / "log", *words, "--table", "all")
    assert (found["table"], found["features"]) == ("all", ["word", "tags", "seen"])
    assert (found["lookups"], found["distinct_ids"], only(found)["hits"]) == (6, 5, 1)
    assert found["unused_records"] == {"malformed": 1}


def test_samples_with_labels_by_task_are_replayed_without_a_job(tmp_path, capsys):
    sink = open_sink(f"log://{tmp_path / 'log'}")
    base = {"type": "sample", "request_id": "r", "item_id": "i", "features": {"user": 7}}
    labels = ({"click": 1, "price": 9.5}, {"click": 0}, {"price": 2})
    lines = [base | {"event_time_ms": START_MS + n, "label": label} for n, label in enumerate(labels)]
    sink.append([(b"k", json.dumps(line).encode(), START_MS) for line in lines])
    sink.close()
    found = policy(capsys, tmp_path / "log", "--table", "user")
    assert (found["samples"], only(found)["hits"], found["unused_records"]) == (3, 2, {})


# --- settings and output ----------------------------------------------------------------------------------------------


def test_the_settings_are_the_product_of_the_options(events, capsys):
    folder = events((1, 0))
    words = ["--admission", "always", "--admission", "never", "--expiry", "idle:2h", "--expiry", "forever"]
    found = policy(capsys, folder, "--feature", "user", *words, "--vary", "dim=4", "--admission", "always")
    seen = [tuple(setting["setting"].values()) for setting in found["settings"]]
    assert seen == [(a, e, "4") for a in ("always", "never") for e in ("idle:2h", "forever")]
    assert [setting["rows"] for setting in found["settings"]] == [1, 1, 0, 0]


def test_bytes_are_those_of_the_jobs_own_rows(events, capsys):
    folder = events(*[(user, user) for user in range(100)])
    layouts = ["dim=8", "dim=32", "storage=float32", "storage=bfloat16", "optimizer=sgd", "optimizer=adam"]
    found = policy(capsys, folder, "--feature", "user", *(word for layout in layouts for word in ("--vary", layout)))
    for setting in found["settings"]:
        dim, value = int(setting["setting"]["dim"]), 2 if setting["setting"]["storage"] == "bfloat16" else 4
        assert setting["bytes_by_kind"]["values"] == 100 * dim * value
        words = 2 * dim + 1 if setting["setting"]["optimizer"] == "adam" else 0  # two moments and the steps
        assert setting["bytes_by_kind"]["state"] == 100 * 4 * words
        assert setting["bytes"] == sum(setting["bytes_by_kind"].values())


def test_the_table_for_people_names_what_was_varied_and_what_was_not(events, capsys):
    folder = events((1, 0), (1, 3600), (2, 7200))
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "policy", str(folder), "--feature", "user", "--expiry", "idle:7d", "--expiry", "forever"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    head, *rows = (line for line in out.splitlines() if line.startswith(("expiry", "idle", "forever")))
    assert head.split()[:6] == ["expiry", "rows", "at", "most", "kept", "hits"]
    assert [row.split()[:5] for row in rows] == [[e, "2", "2", "100.0%", "33.33%"] for e in ("idle:7d", "forever")]
    assert "3 events over 2.0 hours; 3 look-ups of 2 ids" in out
    assert "the same for all: admission always" in out
    assert "comparing: 3 of 3 records" in err


def test_the_plot_has_one_mark_for_each_setting(events, tmp_path, capsys):
    folder = events((1, 0), (1, 1), (2, 2))
    words = ["--admission", "always", "--admission", "min_count:{count: 2, half_life_s: 1d}", "--expiry", "forever"]
    policy(capsys, folder, "--feature", "user", *words, "--plot", tmp_path / "p.svg")
    drawing = minidom.parse(str(tmp_path / "p.svg"))
    told = [title.firstChild.data for title in drawing.getElementsByTagName("title")]
    assert [line.split(":  ")[0].split(" bytes")[0].count("33.33 %") for line in told] == [1, 0]
    assert told[1].startswith("min_count:{count: 2, half_life_s: 1d}  forever: 0.00 % of look-ups, ")


def test_nothing_of_it_loads_torch(events):
    folder = events((1, 0), (1, 1))
    code = (
        "import sys\nfrom monolith.cli import main\n"
        f"try:\n    main(['inspect', 'policy', {str(folder)!r}, '--feature', 'user'])\n"
        "except SystemExit as ended:\n    sys.exit(ended.code or ('torch' in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- what cannot be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--admission", "min_cuont:3"],
            "--admission min_cuont:3: admission.kind: unknown kind 'min_cuont' (did you mean",
        ),
        (["--admission", "often"], "allowed kinds: always, never, min_count, probability"),
        (["--admission", "always:3"], "--admission always:3: always takes no value; saw the integer 3"),
        (["--admission", "min_count:{cuont: 3}"], "unknown key 'cuont' of kind 'min_count' (did you mean 'count'?)"),
        (["--admission", "min_count:0"], "--admission min_count:0: admission.count: expected an integer >= 1; saw 0"),
        (["--admission", "min_count:{count: 2"], "--admission min_count:{count: 2:1: not YAML"),
        (["--expiry", "idle:7y"], "--expiry idle:7y: expiry.ttl_s: expected a number > 0; saw the text '7y'"),
        (["--expiry", "idle:1e300"], "--expiry idle:1e300: table 'user': expiry.ttl_s is 1e+300"),
        (["--vary", "dim"], "--vary dim: write KEY=VALUE"),
        (["--vary", "dmi=3"], "--vary dmi=3: 'dmi' is no key that can differ between settings (did you mean 'dim'?)"),
        (["--vary", "seed=3"], "--vary seed=3: 'seed' is no key that can differ"),
        (["--admission", "never", "--vary", "admission=always"], "give its values by --admission alone"),
        (["--plot", "p.png"], "--plot p.png: the plot is an SVG"),
        (["--feature", "usr"], "no feature 'usr' in its first 1 events (did you mean 'user'?)"),
        (["--actions", "log://x"], "--actions log://x needs --job"),
        (["--journal", "x"], "--journal x needs --job"),
        (["--set", "tables.user.dmi=4"], "--set tables.user.dmi=4"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(events, capsys, words, says):
    folder = events((1, 0))
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "policy", str(folder), "--feature", "user", *words])
    assert ended.value.code == 1
    assert says in capsys.readouterr().err


def refusal(capsys, *words: object) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["inspect", "policy", *map(str, words)])
    assert ended.value.code == 1
    return capsys.readouterr().err


def test_a_log_that_cannot_be_replayed_says_why(events, tmp_path, capsys):
    (tmp_path / "x.parquet").touch()
    assert "parquet://" in refusal(capsys, tmp_path / "x.parquet", "--feature", "user")
    assert "neither a URL" in refusal(capsys, tmp_path / "nothing", "--feature", "user")
    assert "give LOG, or --job" in refusal(capsys)
    assert "which ids? Give --feature NAME" in refusal(capsys, events((1, 0)))
    acts = events((1, 0), name="acts", type="action", action="like")
    assert "holds actions" in refusal(capsys, acts, "--feature", "user")
    (tmp_path / "empty").mkdir()
    open_sink(f"log://{tmp_path / 'empty'}").close()
    assert "none of its first 0 records" in refusal(capsys, tmp_path / "empty", "--feature", "user")


def test_a_job_without_that_table_and_a_journal_of_other_streams_are_refused(events, tmp_path, capsys):
    folder = events((1, 0))
    job = tmp_path / "job.yaml"
    tables = "tables: [{name: user, dim: 4}, {name: item, dim: 4}]"
    job.write_text(f"{{name: j, input: {{features: 'log://{folder}', actions: 'log://{folder}'}}, {tables}}}")
    assert "Give --table: user, item" in refusal(capsys, "--job", job)
    assert "no such table (did you mean 'user'?)" in refusal(capsys, "--job", job, "--table", "usr")
    assert "--feature user: with --job" in refusal(capsys, "--job", job, "--feature", "user")
    assert "there is no step journal" in refusal(
        capsys, "--job", job, "--table", "user", "--journal", tmp_path / "none"
    )


def test_a_table_whose_rows_go_by_their_values_is_refused_until_its_threshold_is_left_out(events, tmp_path, capsys):
    folder = events((1, 0))
    job = tmp_path / "job.yaml"
    found = "{name: item, dim: 4, kind: optembed, width: 2, threshold: 0.1}"
    tables = f"tables: [{{name: user, dim: 4, threshold: 0.1}}, {found}]"
    job.write_text(f"{{name: j, input: {{features: 'log://{folder}', actions: 'log://{folder}'}}, {tables}}}")
    said = refusal(capsys, "--job", job, "--table", "user")
    assert "--table user: its threshold goes by the values of rows" in said
    assert "--set 'tables.*.threshold=null'" in said
    assert "--table item is of kind optembed" in refusal(capsys, "--job", job, "--table", "item")
    words = ["--job", job, "--table", "user", "--set", "tables.*.threshold=null"]
    assert only(policy(capsys, *words))["removed"] == 0


def test_a_plot_that_cannot_be_written_is_told(events, tmp_path, capsys):
    words = ["--feature", "user", "--plot", tmp_path / "no" / "p.svg"]
    assert "cannot write the plot" in refusal(capsys, events((1, 0)), *words)
