"""Each reader, on a few made-up lines in the form of its owner's files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from monolith.datasets.sets.delimited import Format, blocks
from monolith.datasets.sets.description import START_MS
from monolith.datasets.sets.lines import Lines
from monolith.datasets.sets.planted import Planted
from monolith.datasets.sets.prepare import found_form
from monolith.datasets.sets.registry import SETS, find, generated
from monolith.errors import ConfigError, CorruptError, RejectedError

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"


def read(name: str, folder: Path, form: int = 0, lines: Lines | None = None) -> dict[str, list]:
    tables = list(SETS[name].forms[form].read(folder, lines or Lines()))
    return pa.concat_tables(tables).to_pydict()


def write_movielens(folder: Path, times: bool) -> None:
    ratings = {"user_id": [2, 1, 1], "movie_id": [9, 9, 7], "rating": [5, 3, 4]}
    ratings |= {"timestamp": [30, 20, 10]} if times else {}
    pq.write_table(pa.table(ratings), folder / "ratings.parquet")
    users = {"user_id": [1, 2], "gender": ["F", "M"], "age": [1, 56], "occupation": ["10", "16"], "zip": ["48067", "7"]}
    pq.write_table(pa.table(users), folder / "users.parquet")
    movies = {"movie_id": [7, 9], "title": ["A", "B"], "genres": ["Drama", "Comedy|War"]}
    pq.write_table(pa.table(movies), folder / "movies.parquet")


def test_a_rating_is_a_sample_with_what_is_known_of_its_user_and_movie(tmp_path: Path):
    write_movielens(tmp_path, times=True)
    assert read("ml-100k", tmp_path) == {
        "label": [1, 0, 1],
        "time_ms": [30_000, 20_000, 10_000],
        "user": [2, 1, 1],
        "movie": [9, 9, 7],
        "gender": ["M", "F", "F"],
        "age": [56, 1, 1],
        "occupation": ["16", "10", "10"],
        "zip": ["7", "48067", "48067"],
        "genres": ["Comedy|War", "Comedy|War", "Drama"],
    }


def test_ratings_without_times_stand_in_their_order_or_by_arriving_users(tmp_path: Path):
    write_movielens(tmp_path, times=False)
    assert read("ml-1m", tmp_path)["time_ms"] == [START_MS, START_MS + 1, START_MS + 2]
    by_user = read("ml-1m-arrival", tmp_path)
    assert [user for _, user in sorted(zip(by_user["time_ms"], by_user["user"], strict=True))] == [2, 1, 1]


def test_a_rating_of_three_can_be_left_out(tmp_path: Path):
    write_movielens(tmp_path, times=False)
    assert read("ml-1m-likes", tmp_path)["label"] == [1, 1]


def test_the_owners_files_of_movielens_1m_give_the_same_samples(tmp_path: Path):
    write_movielens(tmp_path, times=True)
    (tmp_path / "ratings.dat").write_text("2::9::5::30\n1::9::3::20\n1::7::4::10\n")
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::7\n")
    (tmp_path / "movies.dat").write_bytes("7::Star: A::Drama\n9::Amélie::Comedy|War\n".encode("latin-1"))
    as_text = read("ml-1m", tmp_path, form=1)
    assert as_text["occupation"] == [16, 10, 10]
    as_parquet = {name: value for name, value in read("ml-1m", tmp_path).items() if name != "occupation"}
    assert {name: value for name, value in as_text.items() if name != "occupation"} == as_parquet


def test_movielens_25m_knows_the_genres_behind_a_title_with_commas(tmp_path: Path):
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,9,3.5,20\n1,8,3.0,21\n")
    (tmp_path / "movies.csv").write_text('movieId,title,genres\n9,"Lion, The",Drama|War\n')
    assert read("ml-25m", tmp_path) == {
        "label": [1, 0],
        "time_ms": [20_000, 21_000],
        "user": [1, 1],
        "movie": [9, 8],
        "genres": ["Drama|War", None],
    }


def criteo_line(label: str, first: str) -> str:
    return "\t".join([label, first, *[""] * 12, "68fd1e64", *[""] * 25]) + "\n"


@pytest.mark.parametrize("packed", [False, True])
def test_criteos_lines_are_read_plain_and_packed(tmp_path: Path, packed: bool):
    text = criteo_line("1", "2") + criteo_line("0", "1000") + criteo_line("0", "-1")
    if packed:
        (tmp_path / "train.txt.gz").write_bytes(gzip.compress(text.encode()))
    else:
        (tmp_path / "train.txt").write_text(text)
    found = read("criteo-kaggle", tmp_path, int(packed))
    assert found["label"] == [1, 0, 0]
    assert found["I1"] == [2, 47, -1]  # 2 stays, floor(ln(1000)^2), -1 stays
    assert found["I2"] == [None, None, None]
    assert found["C1"] == ["68fd1e64"] * 3


def test_avazus_hours_become_times(tmp_path: Path):
    words = ["C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"]
    words += ["device_id", "device_ip", "device_model", "device_type", "device_conn_type"]
    words += [f"C{n}" for n in range(14, 22)]
    head = ",".join(["id", "click", "hour", *words])
    line = ",".join(["7", "1", "14102123", *[f"w{n}" for n in range(len(words))]])
    odd = ",".join(["8", "0", "14132123", *[f"w{n}" for n in range(len(words))]])
    (tmp_path / "train.csv").write_text(f"{head}\n{line}\n{odd}\n")
    lines = Lines()
    found = read("avazu", tmp_path, lines=lines)
    assert found["time_ms"] == [int(np.datetime64("2014-10-21T23", "ms").astype(int))]
    assert found["hour"] == [23]
    assert found["C21"] == ["w20"]
    assert lines.examples == ["train.csv:3: hour is '14132123', allowed is a moment as YYMMDDHH"]


def test_kuairands_logs_are_read_one_after_another(tmp_path: Path):
    head = "user_id,video_id,date,hourmin,time_ms,is_click,is_like,duration_ms,tab\n"
    (tmp_path / "log_standard_4_08_to_4_21_pure.csv").write_text(head + "1,5,20220408,0,1649347200000,1,0,30000,1\n")
    (tmp_path / "log_standard_4_22_to_5_08_pure.csv").write_text(head + "2,6,20220422,0,1650556800000,0,0,,1\n")
    found = read("kuairand", tmp_path)
    assert found["user"] == [1, 2]
    assert found["hour"] == [0, 0]  # midnight in China
    assert found["duration"] == [11, None]


def test_frappes_three_files_are_its_three_parts(tmp_path: Path):
    line = " ".join(f"{n}:1" for n in range(10))
    for part, label in (("train", "1"), ("validation", "-1"), ("test", "1")):
        (tmp_path / f"frappe.{part}.libfm").write_text(f"{label} {line}\n")
    found = read("frappe", tmp_path)
    assert (found["label"], found["part"], found["city"]) == ([1, 0, 1], [0, 1, 2], [9, 9, 9])


LOG = """\
user_id,session_id,timestamp,step,action_type,reference,platform,city,device,current_filters,impressions,prices
u,s,10,1,search for poi,Port,AU,"Bendigo, Australia",mobile,,,
u,s,11,2,interaction item image,5,AU,"Bendigo, Australia",mobile,,,
u,s,12,3,clickout item,7,AU,"Bendigo, Australia",mobile,,5|7|9,80|16|1
u,t,13,1,clickout item,5,AU,"Bendigo, Australia",mobile,,5|9,80
v,w,14,1,clickout item,9,DE,Berlin,mobile,,9|5,30|40
"""


def test_a_session_log_gives_the_lists_that_ended_in_a_click_out(tmp_path: Path):
    (tmp_path / "train.csv").write_text(LOG)
    lines = Lines()
    found = read("recsys-2019", tmp_path, lines=lines)
    assert found["list"] == [0, 0, 0, 1, 1]
    assert found["label"] == [0, 1, 0, 1, 0]
    assert found["last_item"] == [5, 5, 5, -1, -1]
    assert found["is_last"] == [1, 0, 0, 0, 0]
    assert found["price"] == [25, 16, 0, 19, 21]
    assert found["price_rank"] == [2, 1, 0, 0, 1]
    assert found["city"][0] == "Bendigo, Australia"
    assert (lines.broken, "2 impressions and 1 prices" in lines.examples[0]) == (1, True)


@pytest.mark.shared
def test_the_session_log_gives_the_impressions_that_others_made_of_it(tmp_path: Path):
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there: the real datasets are not part of this repository")
    pyarrow.csv.write_csv(pq.read_table(SHARED / "trivago/sessions.parquet"), tmp_path / "train.csv")
    ours = pa.concat_tables(SETS["recsys-2019"].forms[0].read(tmp_path, Lines()))
    theirs = pa.concat_tables(SETS["trivago"].forms[0].read(SHARED / "trivago", Lines()))
    keys = [(name, "ascending") for name in ("time_ms", "user", "position", "item", "last_item", "price_rank", "label")]
    ours, theirs = ours.sort_by(keys), theirs.sort_by(keys)
    assert len(ours) == len(theirs)
    columns = [name for name in theirs.column_names if name not in ("list", "last_item", "is_last")]
    assert all(ours[name].combine_chunks().equals(theirs[name].combine_chunks()) for name in columns)
    differ = ours["last_item"].to_numpy() != theirs["last_item"].to_numpy()
    assert differ.sum() <= 25  # one list, of a session with two lines in one second


def test_planted_samples_are_the_same_whatever_their_number():
    long, short = (
        pa.concat_tables(generated(Planted(rows=rows, seed=3)).forms[0].read(Path(), Lines())) for rows in (70_000, 900)
    )
    assert long.slice(0, 900).equals(short)
    assert 0.2 < float(np.mean(long["label"].to_numpy())) < 0.45


def broken_file(path: Path) -> None:
    path.write_bytes(b"a,b\n1,x\n2\n3,y\nz,y\n,y\n6,\xff\n7,w\n1,2,3\n8,v\n")


def test_broken_lines_are_counted_and_named_by_line_and_reason(tmp_path: Path):
    broken_file(tmp_path / "f.csv")
    lines = Lines(most=0.9)
    tables = [
        b.table({"a": b.integers("a", required=True), "b": b.texts("b")})
        for b in blocks(tmp_path / "f.csv", Format(("a", "b")), lines)
    ]
    assert pa.concat_tables(tables).to_pydict() == {"a": [1, 3, 7, 8], "b": ["x", "y", "w", "v"]}
    assert (lines.good, lines.broken) == (4, 5)
    assert sorted(lines.examples) == [
        "f.csv:3: 1 cells, expected 2",
        "f.csv:5: a is 'z', allowed is a whole number",
        "f.csv:6: a is nothing, allowed is a whole number",
        "f.csv:7: b is '�', allowed is text in UTF-8",
        "f.csv:9: 3 cells, expected 2",
    ]
    lines.check()


def test_more_broken_lines_than_allowed_stop_the_reader():
    lines = Lines(most=0.1)
    lines.reject(Path("f.csv"), 7, "so")
    lines.take(4)
    with pytest.raises(RejectedError, match=r"1 of 5 lines are broken, 20.00%; allowed are 10.00%. f.csv:7: so"):
        lines.check()


def test_a_file_without_a_column_of_the_set_is_none_of_it(tmp_path: Path):
    (tmp_path / "f.csv").write_text("x,b\n1,2\n")
    with pytest.raises(CorruptError, match=r"f.csv has no column a; its first line has x, b"):
        list(blocks(tmp_path / "f.csv", Format(("a", "b")), Lines()))


def test_a_packed_file_that_ends_early_is_refused(tmp_path: Path):
    data = gzip.compress((criteo_line("1", "2") * 3000).encode())
    (tmp_path / "train.txt.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptError, match=r"train.txt.gz cannot be read"):
        read("criteo-kaggle", tmp_path, 1)


def test_a_name_that_is_no_set_is_refused_with_those_that_are():
    with pytest.raises(ConfigError, match=r"no data set 'ml-10m'; allowed: ml-100k, ml-1m.* or a description file"):
        find("ml-10m")


def test_the_plain_file_is_read_where_the_packed_one_lies_beside_it(tmp_path: Path):
    (tmp_path / "train.txt").write_text(criteo_line("1", "2"))
    (tmp_path / "train.txt.gz").write_bytes(b"")
    form, paths = found_form(SETS["criteo-kaggle"], tmp_path)
    assert [path.name for path in paths] == ["train.txt"]
    assert len(pa.concat_tables(form.read(tmp_path, Lines()))) == 1


def test_an_archive_is_named_as_what_is_there(tmp_path: Path):
    (tmp_path / "train.zip").write_bytes(b"PK")
    with pytest.raises(
        ConfigError, match=r"avazu needs train.csv, or train.gz, or train.csv.gz in .*: it has train.zip"
    ):
        found_form(SETS["avazu"], tmp_path)


def test_a_line_of_bytes_that_are_no_text_and_too_few_cells_is_one_broken_line(tmp_path: Path):
    (tmp_path / "train.txt").write_bytes(
        criteo_line("1", "2").encode() + b"\xff\xfe\xbc\n" + criteo_line("0", "3").encode()
    )
    lines = Lines(most=0.9)
    assert read("criteo-kaggle", tmp_path, lines=lines)["label"] == [1, 0]
    assert lines.examples == ["train.txt:2: 1 cells, expected 40"]


def test_a_mark_of_the_order_of_bytes_before_a_header_is_left_out(tmp_path: Path):
    (tmp_path / "f.csv").write_bytes("\N{ZERO WIDTH NO-BREAK SPACE}a,b\r\n1,ä\r\n".encode())
    (block,) = blocks(tmp_path / "f.csv", Format(("a", "b")), Lines())
    assert block.table({"a": block.integers("a"), "b": block.texts("b")}).to_pydict() == {"a": [1], "b": ["ä"]}


def test_broken_lines_behind_those_that_are_named_are_counted(tmp_path: Path):
    (tmp_path / "f.csv").write_text("a,b\n" + "x,y\n" * 40)
    lines = Lines(most=1.0)
    (block,) = blocks(tmp_path / "f.csv", Format(("a", "b")), lines)
    block.table({"a": block.integers("a", required=True)})
    assert (lines.broken, lines.examples[4]) == (40, "f.csv:6: a is 'x', allowed is a whole number")
    assert lines.said().endswith("; and 35 more")


def test_numbers_of_more_than_64_bits_are_broken_lines(tmp_path: Path):
    huge, ids = "9" * 20, " 5:1" * 9
    for name in ("train", "validation", "test"):
        (tmp_path / f"frappe.{name}.libfm").write_text(f"1 {huge}:1{ids}\n-1 7:1{ids}\n")
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\njunk\n2::M::x::3::4\n")
    (tmp_path / "movies.dat").write_text("")
    (tmp_path / "ratings.dat").write_text(f"1::9::5::30\n{huge}::9::5::30\n2::9::5::30\n")
    lines = Lines(most=0.9)
    assert read("frappe", tmp_path, lines=lines)["user"] == [7, 7, 7]
    assert lines.broken == 3
    found = read("ml-1m", tmp_path, 1, lines)
    assert (found["user"], found["gender"], found["genres"]) == ([1, 2], ["F", None], [None, None])
    assert lines.broken == 6


def test_broken_click_outs_of_a_session_log_are_counted(tmp_path: Path):
    head = "user_id,session_id,timestamp,step,action_type,reference,platform,city,device,current_filters"
    head += ",impressions,prices"
    rows = [
        "u,s,1541037460,1,clickout item,7,AU,X,mobile,,7|8,5|6",
        f"u,s,1541037461,2,clickout item,7,AU,X,mobile,,7|8,5|{'9' * 20}",
        "u,s,1541037462,3,,,AU,X,mobile,,7|8,5|6",
        "u,s,1541037463,4,clickout item,7,AU,X,mobile,,7|8,5",
    ]
    (tmp_path / "train.csv").write_text("\n".join([head, *rows]) + "\n")
    lines = Lines(most=0.9)
    assert read("recsys-2019", tmp_path, lines=lines)["label"] == [1, 0]
    assert lines.broken == 2


def test_a_file_of_nothing_but_broken_lines_is_left_long_before_its_end(tmp_path: Path):
    (tmp_path / "f.csv").write_text("a,b\n1,x\n" + "garbage\n" * 5000)
    lines = Lines(most=0.5)
    with pytest.raises(RejectedError, match=r"1,001 of 1,003 lines are broken, 99.80%.*f.csv:3: 1 cells, expected 2"):
        list(blocks(tmp_path / "f.csv", Format(("a", "b")), lines))
    assert sum(map(len, blocks(tmp_path / "f.csv", Format(("a", "b")), Lines(most=1.0)))) == 1
