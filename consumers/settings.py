"""The settings of the Kafka commands: those of the library, and a group `kafka` with what is Kafka's.

They come from the same places as the library's, so one file given with --config carries both, and
STREAM_CURATE_KAFKA__BOOTSTRAP_SERVERS in the environment is `kafka.bootstrap_servers`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from stream_curate.errors import ConfigError
from stream_curate.settings import Settings, load_settings_of

SecurityProtocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
SaslMechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
Compression = Literal["none", "gzip", "snappy", "lz4", "zstd"]

_TOPIC_NAME = r"^[a-zA-Z0-9._-]*[a-zA-Z0-9_-][a-zA-Z0-9._-]*$"
_MAX_NAME = 249  # characters, as Kafka has it


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TopicNames(_Group):
    """What the topics are called; `accepted` is one where decisions are final."""

    pairs: str = Field("pairs", pattern=_TOPIC_NAME, max_length=_MAX_NAME)
    ledger: str = Field("ledger", pattern=_TOPIC_NAME, max_length=_MAX_NAME)
    counts: str = Field("counts", pattern=_TOPIC_NAME, max_length=_MAX_NAME)
    dlq: str = Field("pairs.dlq", pattern=_TOPIC_NAME, max_length=_MAX_NAME)
    accepted: str = Field("accepted", pattern=_TOPIC_NAME, max_length=_MAX_NAME)

    @model_validator(mode="after")
    def _differ(self) -> Self:
        names = list(self.model_dump().values())
        if len(set(names)) < len(names):
            raise ValueError("two topics have the same name")
        return self


class KafkaSettings(_Group):
    """What `config/kafka.yaml` explains, key by key. Times are in seconds."""

    bootstrap_servers: str = Field("localhost:9092", min_length=1)
    topics: TopicNames = TopicNames()
    partitions: int = Field(8, ge=1, le=10_000)
    replication_factor: int = Field(3, ge=1, le=32_767)
    pairs_retention_h: float = Field(168.0, gt=0)
    dlq_retention_h: float = Field(720.0, gt=0)
    group_id: str = Field("stream-curate", min_length=1)
    client_id: str = Field("stream-curate", min_length=1)
    instance_id: str | None = Field(None, pattern=_TOPIC_NAME, max_length=_MAX_NAME)
    commit_records: int = Field(32_768, ge=1, le=1_048_576)
    commit_interval_s: float = Field(5.0, gt=0)
    settle_idle_s: float = Field(10.0, gt=0)
    cache_dir: Path | None = None
    transaction_timeout_s: float = Field(10.0, ge=1, le=900)
    request_timeout_s: float = Field(3.0, ge=1, le=300)
    session_timeout_s: float = Field(10.0, ge=1, le=1_800)
    max_poll_interval_s: float = Field(60.0, ge=1)
    give_up_after_s: float = Field(30.0, ge=1)
    stalled_after_s: float = Field(120.0, gt=0)
    http_host: str = Field("127.0.0.1", min_length=1)
    http_port: int | None = Field(None, ge=0, le=65_535)
    compression: Compression = "lz4"
    security_protocol: SecurityProtocol = "PLAINTEXT"
    sasl_mechanism: SaslMechanism | None = None
    sasl_user: str | None = None
    sasl_password: SecretStr | None = None
    sasl_password_file: Path | None = None
    ssl_cafile: Path | None = None
    ssl_certfile: Path | None = None
    ssl_keyfile: Path | None = None
    ssl_key_password: SecretStr | None = None
    ssl_key_password_file: Path | None = None
    ssl_check_hostname: bool = True

    @field_validator("sasl_password", "ssl_key_password", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """YAML reads a password of digits as a number."""
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.security_protocol.startswith("SASL"):
            if self.sasl_mechanism is None or self.sasl_user is None:
                raise ValueError(f"security_protocol {self.security_protocol} needs sasl_mechanism and sasl_user")
            if self.sasl_password is None and self.sasl_password_file is None:
                raise ValueError(
                    f"security_protocol {self.security_protocol} needs sasl_password_file, or sasl_password"
                )
        elif self.sasl_mechanism is not None:
            raise ValueError(f"sasl_mechanism is set, and security_protocol {self.security_protocol} has no login")
        for key in ("sasl_password", "ssl_key_password"):
            if getattr(self, key) is not None and getattr(self, f"{key}_file") is not None:
                raise ValueError(f"both {key} and {key}_file are set: keep one of them")
        if self.session_timeout_s >= self.max_poll_interval_s:
            raise ValueError("session_timeout_s must be below max_poll_interval_s")
        if self.request_timeout_s >= self.transaction_timeout_s:
            raise ValueError("request_timeout_s must be below transaction_timeout_s, or no request is tried twice")
        if not self.security_protocol.endswith("SSL") and (self.ssl_cafile or self.ssl_certfile or self.ssl_keyfile):
            raise ValueError(f"ssl_* is set, and with security_protocol {self.security_protocol} nothing is encrypted")
        if not self.security_protocol.startswith("SASL") and (
            self.sasl_user or self.sasl_password or self.sasl_password_file
        ):
            raise ValueError(f"sasl_* is set, and security_protocol {self.security_protocol} has no login")
        return self

    @property
    def transaction_limit_s(self) -> float:
        """How long a transaction may take: what is open for longer is aborted by the broker."""
        return self.transaction_timeout_s + self.request_timeout_s

    def read_sasl_password(self) -> str | None:
        """The password of `sasl_user`, if there is one.

        Raises:
            ConfigError: when its file cannot be read.
        """
        return _secret(self.sasl_password, self.sasl_password_file, "sasl_password_file")

    def read_ssl_key_password(self) -> str | None:
        """The password of `ssl_keyfile`, if there is one.

        Raises:
            ConfigError: when its file cannot be read.
        """
        return _secret(self.ssl_key_password, self.ssl_key_password_file, "ssl_key_password_file")


class AllSettings(Settings):
    """The library's settings and Kafka's."""

    kafka: KafkaSettings = KafkaSettings()


def load_all_settings(config: Path | None, flags: dict[str, Any]) -> AllSettings:
    """See `stream_curate.settings.load_settings`."""
    return load_settings_of(AllSettings, config, flags)


def _secret(value: SecretStr | None, path: Path | None, key: str) -> str | None:
    if value is not None:
        return value.get_secret_value()
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise ConfigError(f"the file {path} that kafka.{key} names cannot be read: {reason}") from None
