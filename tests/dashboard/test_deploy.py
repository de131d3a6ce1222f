"""What the Grafana dashboard and the alert rules ask for are metrics that trainers and replicas have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from monolith.dashboard.metrics import metrics_text
from monolith.serving.metrics import ServerMetrics
from monolith.serving.replica import Age, Freshness, ReplicaStatus, Version

DEPLOY = Path(__file__).parents[2] / "deploy"
NAME = re.compile(r"\bmonolith_\w+")


def expressions() -> list[str]:
    board = json.loads((DEPLOY / "grafana.json").read_text())
    rules = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"][0]["rules"]
    return [t["expr"] for panel in board["panels"] for t in panel["targets"]] + [rule["expr"] for rule in rules]


class Replica:
    """A replica that serves something."""

    def status(self) -> ReplicaStatus:
        version = Version(generation=1, sequence=2, watermark_ms=5, published_ms=6)
        age, freshness = Age(1.0, 2.0, 3.0), Freshness(p50_ms=1.0, p99_ms=2.0, samples=3)
        return ReplicaStatus(True, version, 0.0, None, age, freshness, applied=1, images=1)


@pytest.fixture
def known(make_status) -> set[str]:
    server = ServerMetrics(Replica())
    server.answered("lookup", 200, 0.001, 1)
    text = metrics_text(make_status()).decode() + server.text().decode()
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def test_every_metric_that_is_asked_for_exists(known):
    asked = {name for expression in expressions() for name in NAME.findall(expression)}
    assert len(asked) > 20
    assert asked <= known, sorted(asked - known)


def test_every_alert_says_what_to_do():
    for rule in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["action"], rule["alert"]
