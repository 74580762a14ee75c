"""What Kafka's errors come out as, and which of them waiting does not mend."""

from __future__ import annotations

import pytest
from kafka import errors

from consumers.errors import KafkaProblem, in_words, is_hopeless
from consumers.settings import KafkaSettings
from stream_curate import exit_codes

SETTINGS = KafkaSettings(bootstrap_servers="broker.example:9092")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.TopicAuthorizationFailedError("pairs"), "do not allow it"),
        (errors.KafkaError("Cannot send", errors.TopicAuthorizationFailedError("pairs")), "do not allow it"),
        (errors.SaslAuthenticationFailedError("no"), "refused the login"),
        (errors.FencedInstanceIdError("a"), "another worker has the same kafka.instance_id"),
        (errors.MessageSizeTooLargeError("x"), "stream-curate topics check"),
        (errors.RecordListTooLargeError("x"), "stream-curate topics check"),
        (errors.LogTruncationError({}, {}), "make new topics, all of them"),
        (errors.KafkaConfigurationError("a must be below b"), "the settings cannot be used: KafkaConfigurationError"),
        (errors.InvalidSessionTimeoutError("x"), "broker.example:9092 said"),
    ],
)
def test_what_waiting_does_not_mend_is_told_with_its_remedy(error: errors.KafkaError, words: str) -> None:
    assert is_hopeless(error)
    with pytest.raises(KafkaProblem, match="reading it: ") as told, in_words(SETTINGS, "reading it"):
        raise error
    assert words in str(told.value)
    assert told.value.exit_code == exit_codes.KAFKA


@pytest.mark.parametrize(
    "error",
    [
        errors.KafkaTimeoutError("x"),
        errors.NotLeaderForPartitionError("x"),
        errors.ProducerFencedError("x"),
        errors.KafkaError("Cannot send", errors.ProducerFencedError("x")),
        errors.UnknownTopicOrPartitionError("x"),
        OSError("x"),
    ],
)
def test_what_may_pass_is_tried_again(error: Exception) -> None:
    assert not is_hopeless(error)
