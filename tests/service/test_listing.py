"""Several models in one Redis: `monolith inspect redis://...`, `monolith serve --store redis://...`."""

from __future__ import annotations

import pytest

from monolith.cli import main, parser
from monolith.commands.serve import what_to_serve
from monolith.errors import ConfigError, UnavailableError
from monolith.serving.listing import models, only_model
from monolith.serving.publisher import Publisher
from monolith.serving.store import open_store

pytestmark = pytest.mark.service


@pytest.fixture
def publish(redis_server, scripted):
    publishers = []

    def published(name: str, steps: int = 1) -> None:
        model = scripted(name)
        for step in range(1, steps + 1):
            model.write(step)
        publisher = Publisher(open_store(redis_server.url, name))
        publishers.append(publisher)
        publisher.start(model.card)
        if steps:
            publisher.publish(steps, model.since)

    yield published
    for publisher in publishers:
        publisher.close()


def told(capsys, *words: str) -> tuple[object, list[str], str]:
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    return ended.value.code, out.splitlines(), err


def test_inspect_lists_every_model_by_name(redis_server, publish, capsys):
    publish("movies", 3)
    publish("ads")
    redis_server.client().set("{not a model}:cart", "x")
    code, lines, _ = told(capsys, "inspect", redis_server.url)
    assert code == 0
    assert [line.split(",")[0] for line in lines] == ["model ads: generation 1", "model movies: generation 1"]
    assert "sequence 3, published " in lines[1]
    assert lines[1].endswith(" rows")


def test_a_model_that_published_nothing_yet_is_listed(redis_server, publish, capsys):
    publish("coming", 0)
    assert [(one.model, one.version.sequence) for one in models(redis_server.url)] == [("coming", 0)]
    assert "model coming: nothing is published yet" in told(capsys, "inspect", redis_server.url)[1][0]
    assert only_model(redis_server.url) == "coming"


def test_a_damaged_head_is_listed_with_what_is_wrong(redis_server, publish):
    publish("movies")
    publish("ads")
    redis_server.client().set("{movies}:head", b"damaged!" * 4)
    ads, movies = models(redis_server.url)
    assert ads.fault is None
    assert "fails its checksum" in movies.fault


def test_serve_names_the_models_where_there_are_several(redis_server, publish):
    def served(*words: str) -> str:
        return what_to_serve(parser().parse_args(["serve", "--store", redis_server.url, *words]))[1]

    with pytest.raises(UnavailableError, match="holds no model yet"):
        served()
    publish("movies")
    assert served() == "movies"
    publish("ads")
    with pytest.raises(ConfigError, match="holds 2 models, ads, movies: name one"):
        served()
    assert served("--model", "ads") == "ads"
    assert only_model(redis_server.url + "?model=ads") == "ads"


def test_export_needs_no_name_where_there_is_one_model(redis_server, publish, tmp_path, capsys):
    publish("movies")
    out = str(tmp_path / "rows.csv")
    assert told(capsys, "export", redis_server.url, "--table", "user", "--out", out)[0] == 0
    assert (tmp_path / "rows.csv").read_text().splitlines()[0] == "id,v0,v1,v2"
    code, _, err = told(capsys, "export", redis_server.url, "--table", "users", "--out", out)
    assert (code, "no table 'users'" in err, "there are user" in err) == (1, True, True)
    publish("ads")
    code, _, err = told(capsys, "export", redis_server.url, "--table", "user", "--out", out)
    assert (code, "holds 2 models, ads, movies: name one" in err) == (1, True)
    assert told(capsys, "export", redis_server.url, "--model", "ads", "--table", "user", "--out", out)[0] == 0


def test_a_password_is_not_shown(redis_server):
    with pytest.raises(UnavailableError, match="holds no model yet") as caught:
        only_model(redis_server.url.replace("redis://", "redis://default:secret@"))
    assert "secret" not in str(caught.value)
