"""Kafka's settings come from the same places as the library's; secrets are never shown."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import run
from kafka.record import util

from consumers import clients
from consumers.settings import KafkaSettings, TopicNames, load_all_settings
from stream_curate.errors import ConfigError
from stream_curate.settings import ENVIRONMENT_PREFIX

SECRET = "correct-horse-battery"
CONFIG = Path(__file__).parents[2] / "config" / "kafka.yaml"
LOGIN = {"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "SCRAM-SHA-256", "sasl_user": "curator"}


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has set."""
    for name in list(os.environ):
        if name.upper().startswith(ENVIRONMENT_PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "kafka.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(config: Path | None, flags: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as error:
        load_all_settings(config, flags or {})
    assert SECRET not in "".join(traceback.format_exception(error.value))
    return str(error.value)


def test_one_file_carries_the_rule_and_kafka(config: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    path = config(
        "threshold: 5\nkafka:\n  bootstrap_servers: a:1\n  partitions: 2\n  group_id: g\n  topics: {pairs: x}\n"
    )
    monkeypatch.setenv("STREAM_CURATE_KAFKA__BOOTSTRAP_SERVERS", "b:2,c:3")
    monkeypatch.setenv("STREAM_CURATE_KAFKA__TOPICS__LEDGER", "l")

    settings = load_all_settings(path, {"kafka": {"partitions": 4}, "seed": "7"})

    assert (settings.threshold, settings.read_seed()) == (5, 7)
    kafka = settings.kafka
    assert (kafka.bootstrap_servers, kafka.partitions, kafka.group_id) == ("b:2,c:3", 4, "g")
    assert kafka.topics == TopicNames(pairs="x", ledger="l")


def test_the_explained_file_holds_exactly_every_setting_with_its_default() -> None:
    written = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))

    assert set(written) == {"kafka"}
    assert set(written["kafka"]) == set(KafkaSettings.model_fields)
    assert set(written["kafka"]["topics"]) == set(TopicNames.model_fields)
    assert load_all_settings(CONFIG, {}).kafka == KafkaSettings()


def test_every_setting_is_explained() -> None:
    """A comment stands above each key, or above the group of keys that it is in."""
    lines = [line.strip() for line in CONFIG.read_text(encoding="utf-8").splitlines()]
    for key in (*KafkaSettings.model_fields, *TopicNames.model_fields):
        place = next(i for i, line in enumerate(lines) if line.startswith(f"{key}:"))
        while place and lines[place] and not lines[place].startswith("#"):
            place -= 1
        assert lines[place].startswith("#"), key


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kafka: {bootstrap: x}", "kafka.bootstrap: there is no such setting"),
        ("kafka: {topics: {pears: x}}", "kafka.topics.pears: there is no such setting"),
        ("kafka: {topics: {pairs: 'a b'}}", "kafka.topics.pairs: String should match"),
        ("kafka: {topics: {pairs: '..'}}", "kafka.topics.pairs: String should match"),
        ("kafka: {topics: {pairs: ledger}}", "two topics have the same name"),
        ("kafka: {partitions: 0}", "kafka.partitions: Input should be greater than or equal to 1 (given was 0)"),
        ("kafka: {compression: brotli}", "kafka.compression"),
        ("kafka: {commit_interval_s: .nan}", "kafka.commit_interval_s"),
        ("kafka: {security_protocol: SASL_SSL}", "needs sasl_mechanism and sasl_user"),
        ("kafka: {security_protocol: SASL_SSL, sasl_mechanism: PLAIN, sasl_user: u}", "needs sasl_password_file"),
        ("kafka: {sasl_mechanism: PLAIN}", "security_protocol PLAINTEXT has no login"),
        ("kafka: {session_timeout_s: 60}", "session_timeout_s must be below max_poll_interval_s"),
        ("kafka: {request_timeout_s: 10}", "request_timeout_s must be below transaction_timeout_s"),
        ("kafka: {ssl_cafile: ca.pem}", "with security_protocol PLAINTEXT nothing is encrypted"),
        ("kafka: {sasl_user: u}", "security_protocol PLAINTEXT has no login"),
        ("kafka: 5", "kafka: Input should be"),
    ],
)
def test_what_cannot_be_is_named(text: str, words: str, config: Callable[[str], Path]) -> None:
    assert words in refusal(config(text))


def test_a_password_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "password"
    path.write_text(f" {SECRET}\r\n")
    from_file = load_all_settings(None, {"kafka": LOGIN | {"sasl_password_file": path}}).kafka
    monkeypatch.setenv("STREAM_CURATE_KAFKA__SASL_PASSWORD", SECRET)
    from_environment = load_all_settings(None, {"kafka": LOGIN}).kafka

    assert from_file.read_sasl_password() == f" {SECRET}"  # a space can be part of it, a line end cannot
    assert from_environment.read_sasl_password() == SECRET
    assert KafkaSettings().read_sasl_password() is None
    for settings in (from_file, from_environment):
        for shown in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
            assert SECRET not in shown
    assert "both sasl_password and sasl_password_file" in refusal(None, {"kafka": LOGIN | {"sasl_password_file": path}})


def test_a_password_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    settings = KafkaSettings.model_validate(LOGIN | {"sasl_password_file": tmp_path / "none"})
    with pytest.raises(ConfigError, match=r"none that kafka\.sasl_password_file names cannot be read: No such file"):
        settings.read_sasl_password()
    (tmp_path / "none").write_bytes(b"\xff" + SECRET.encode())
    with pytest.raises(ConfigError, match="not text in UTF-8") as error:
        settings.read_sasl_password()
    assert SECRET not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize(
    "text",
    [
        f"kafka: {SECRET}",
        f"kafka: [{SECRET}]",
        f"kafka: {{sasl_password: [{SECRET}]}}",
        f"kafka: {{sasl_password: {{is: {SECRET}}}}}",
        f"kafka: {{sasl_pasword: {SECRET}}}",
        f"kafka: {{sasl_password: {SECRET}, partitions: 0}}",
        f"kafka: {{sasl_password: {SECRET}, sasl_password_file: x}}",
        f"kafka: {{ssl_key_password: {SECRET}, ssl_key_password_file: x}}",
        f"seed: {SECRET}\nkafka: 5",
    ],
)
def test_a_secret_is_in_no_error(text: str, config: Callable[[str], Path]) -> None:
    """`refusal` looks for it, in the message and in the traceback."""
    assert "cannot be used" in refusal(config(text))


@pytest.mark.parametrize("name", ["KAFKA", "KAFKA__TOPICS", "KAFKA__SASL_PASSWORD__X"])
def test_a_secret_in_a_wrong_place_of_the_environment_is_in_no_error(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"STREAM_CURATE_{name}", SECRET)
    assert "cannot be used" in refusal(None)


def test_a_password_of_digits_is_text(config: Callable[[str], Path]) -> None:
    login = ", ".join(f"{key}: {value}" for key, value in LOGIN.items())
    assert load_all_settings(config(f"kafka: {{{login}, sasl_password: 123}}"), {}).kafka.read_sasl_password() == "123"


def test_a_slow_kafka_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    clients.check_installation()
    monkeypatch.setattr(util, "crc32c_c", None)
    with pytest.raises(ConfigError, match=r"kafka-python finds no crc32c: .* pip install 'stream-curate\[kafka\]'"):
        clients.check_installation()


def test_a_certificate_that_cannot_be_used_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text(SECRET)
    for paths in ({"ssl_cafile": "none.pem"}, {"ssl_cafile": "key.pem"}, {"ssl_certfile": "key.pem"}):
        wanted = {key: tmp_path / name for key, name in paths.items()}
        settings = KafkaSettings.model_validate({"security_protocol": "SSL", "give_up_after_s": 1} | wanted)
        with pytest.raises(ConfigError, match=r"kafka\.ssl_cafile, .* cannot be used") as error:
            clients.make_admin(settings)
        assert SECRET not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("command", [["worker"], ["settler", "--out", "never"]])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--decisions", "final"], "final decisions need pool_size"),
        (["--pool-size", "1e6"], "pool_size is 1,000,000, which means something to final decisions alone"),
    ],
)
def test_worker_and_settler_want_the_pool_size_of_final_decisions_before_a_broker(
    command: list[str], flags: list[str], words: str
) -> None:
    assert words in run(*command, *flags).ended(3).words
