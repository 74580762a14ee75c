"""What tests of Kafka share beside their fixtures: settings as an environment, and what stands in a topic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka import TopicPartition

from consumers.clients import make_consumer
from consumers.settings import KafkaSettings


def environment(settings: KafkaSettings) -> Mapping[str, str]:
    """These settings as the environment of a command."""
    prefix = "STREAM_CURATE_KAFKA__"
    flat = settings.model_dump(mode="json", exclude_unset=True)
    names = {f"TOPICS__{key.upper()}": name for key, name in flat.pop("topics", {}).items()}
    return {prefix + key: value for key, value in names.items()} | {
        prefix + key.upper(): str(value) for key, value in flat.items() if value is not None
    }


def read_partition(settings: KafkaSettings, topic: str, partition: int) -> list[Any]:
    """All committed records of a partition."""
    consumer = make_consumer(settings)
    try:
        place = TopicPartition(topic, partition)
        consumer.assign([place])
        consumer.seek_to_beginning(place)
        end = consumer.end_offsets([place])[place]
        records: list[Any] = []
        while consumer.position(place) < end:
            for polled in consumer.poll(timeout_ms=1_000).values():
                records += polled
        return records
    finally:
        consumer.close()
