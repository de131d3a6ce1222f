"""`monolith check` and `monolith init` on Kafka."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.service


def test_streams_of_a_broker_are_described_with_their_retention(kit, kafka, topic):
    features, actions = kafka.create(topic, partitions=2), _kept_briefly(kafka, f"{topic}-a")
    kit.fill(features, actions, count=60)
    job = kit.job("k", input={"features": features, "actions": actions}, join={"window_s": 600})
    told = kit.run("check", job)
    assert told.returncode == 0, told.stdout + told.stderr
    assert f"features: {features}: 60 records in 2 partitions" in told.stdout
    assert "kept for 0.1 h" in told.stdout
    assert "input.actions: the topic keeps records for less time than join.window_s (600)" in told.stdout
    gone = kit.run("check", job, "--set", f"input.features={features}-none", "--set", "input.follow=true")
    assert "is not there yet: the job would wait for it" in gone.stdout


def _kept_briefly(kafka, topic: str) -> str:
    """A topic that keeps records for less than ten minutes, by the broker's stamp."""
    return kafka.create(topic, retention_ms="240000", message_timestamp_type="LogAppendTime")


def test_topic_that_lost_all_to_its_retention_is_warned_about(kit, kafka, topic):
    features, actions = kafka.create(topic), kafka.create(f"{topic}-a")
    kit.fill(features, actions, count=60)
    _remove_all(kafka, topic)
    told = kit.run("check", kit.job("k", input={"features": features, "actions": actions}))
    assert "input.features: the stream is empty, 60 records of it are gone" in told.stdout


def _remove_all(kafka, topic: str) -> None:
    from kafka import KafkaAdminClient, TopicPartition

    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    try:
        admin.delete_records({TopicPartition(topic, 0): 60})
    finally:
        admin.close()


def test_job_is_made_from_topics_and_no_group_is_told_of_it(kit, kafka, topic):
    from kafka import KafkaAdminClient

    features, actions = kafka.create(topic), kafka.create(f"{topic}-a")
    kit.fill(features, actions, count=200)
    made = kit.run("init", "--from", features, "--actions", actions, "--out", "job.yaml")
    assert made.returncode == 0, made.stderr
    told = kit.run("check", "job.yaml")
    assert told.returncode == 0, told.stdout
    assert "of the first 200, 200 fit the job" in told.stdout
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    try:
        assert topic not in str(admin.list_groups())
    finally:
        admin.close()
