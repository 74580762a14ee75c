"""Every setting, typed, and where it comes from: flag, environment, file, the table itself, default."""

from __future__ import annotations

import json
import os
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from stream_curate.counting import Counter, CounterKind
from stream_curate.curator import MatcherName
from stream_curate.draws import parse_seed
from stream_curate.errors import ConfigError
from stream_curate.final_rule import MAX_POOL_SIZE, FinalDecisions, Horizon
from stream_curate.printable import printable
from stream_curate.rule import Decisions, Dedup

ENVIRONMENT_PREFIX = "STREAM_CURATE_"
FormatName = Literal["auto", "parquet", "tsv", "csv", "jsonl"]
OnBadFile = Literal["stop", "skip"]
MAX_OWN_THREADS = 8
_SECRET_WORDS = ("seed", "password")
_MAX_SHOWN_BYTES = 100


class CountMinSettings(BaseModel):
    """The size of the sketch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_hashes: int = Field(4, ge=1, le=127)
    num_buckets: int = Field(2**20, ge=3)


class Settings(BaseSettings):
    """What `config/default.yaml` explains, key by key.

    Environment variables that are not settings are left alone: Kubernetes makes some of its own with any prefix.
    """

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    metadata: Path | None = None
    threshold: int = Field(20_000, ge=1)
    seed: SecretStr | None = None
    seed_file: Path | None = None
    counter: CounterKind = "count-min"
    count_min: CountMinSettings = CountMinSettings()
    dedup: Dedup = "exact"
    decisions: Decisions = "provisional"
    pool_size: int | None = Field(None, ge=1, le=MAX_POOL_SIZE)
    horizon: Horizon = "endless"
    matcher: MatcherName = "trie"
    threads: int | None = Field(None, ge=1, le=64)
    batch_size: int = Field(65_536, ge=1, le=1_048_576)
    checkpoint_interval_s: float = Field(10.0, ge=0)
    settle_growth: float = Field(1.25, gt=1)
    first_settle_records: int = Field(100_000, ge=1)
    settle_share: float = Field(0.1, ge=0, le=1)
    keep_versions: bool = False
    format: FormatName = "auto"
    url_column: str | None = None
    text_column: str | None = None
    columns: Annotated[tuple[str, ...] | None, NoDecode] = None
    keep_columns: Annotated[tuple[str, ...], NoDecode] = ()
    on_bad_file: OnBadFile = "stop"

    @field_validator("seed", mode="before")
    @classmethod
    def _seed_as_text(cls, value: Any) -> Any:
        """YAML reads a seed as a number."""
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("pool_size", mode="before")
    @classmethod
    def _whole_number(cls, value: Any) -> Any:
        """Large ones are written as 1.6e9, which YAML reads as text."""
        if not isinstance(value, str | float | bool):
            return value
        text = str(value).strip()  # true is no number either
        try:
            number = Decimal(text)
        except InvalidOperation:
            return text
        # bounded, as 1e999999999 would become a number that fills the memory
        if not number.is_finite() or not -MAX_POOL_SIZE <= number <= MAX_POOL_SIZE:
            raise ValueError("it must be a number of pairs from 1 to 2^53")
        if number != number.to_integral_value():
            raise ValueError("it must be a whole number of pairs, such as 1600000000 or 1.6e9")
        return int(number)

    @field_validator("columns", "keep_columns", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        """Flags and the environment give names with commas between, or as a JSON list."""
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            return json.loads(value)
        return [name.strip() for name in value.split(",") if name.strip()]

    def was_given(self, key: str) -> bool:
        """Whether this key came from a flag, the environment or the file, and is not null there."""
        return key in self.model_fields_set and getattr(self, key) is not None

    @property
    def n_threads(self) -> int:
        """`threads`, or one for each core of this process, up to MAX_OWN_THREADS: more only wait for one."""
        return self.threads or min(len(os.sched_getaffinity(0)), MAX_OWN_THREADS)

    @property
    def counter_with_sizes(self) -> Counter:
        """The counter as the rule has it: exact where final decisions need it and no other was asked for."""
        if self.counter == "exact" or (self.decisions == "final" and not self.was_given("counter")):
            return Counter("exact")
        return Counter("count-min", self.count_min.num_hashes, self.count_min.num_buckets)

    def check_pool_size(self) -> None:
        """Raise ConfigError when a pool size is set, which provisional decisions have no use for."""
        if self.decisions == "provisional" and self.pool_size is not None:
            raise ConfigError(
                f"pool_size is {self.pool_size:,}, which means something to final decisions alone: set decisions "
                "to final (--decisions final) as well, or leave it out"
            )

    @property
    def final_decisions(self) -> FinalDecisions | None:
        """What `decisions: final` comes with; None for provisional ones.

        Raises:
            ConfigError: when the pool size is missing, or given without them.
        """
        self.check_pool_size()
        if self.decisions == "provisional":
            return None
        if self.pool_size is None:
            raise ConfigError(
                "final decisions need pool_size (--pool-size), the number of distinct pairs that the threshold belongs "
                "to: MetaCLIP took t = 20000 for 1.6e9"
            )
        return FinalDecisions(self.pool_size, self.horizon)

    def read_seed(self) -> int | None:
        """The seed that was given, or None.

        Raises:
            ConfigError: when it was given twice, is no seed, or its file cannot be read.
        """
        if self.seed is not None and self.seed_file is not None:
            raise ConfigError("both seed and seed_file are set: keep one of them")
        if self.seed is not None:
            return parse_seed(self.seed.get_secret_value())
        if self.seed_file is not None:
            try:
                return parse_seed(self.seed_file.read_text(encoding="ascii"))
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it is not plain text"
                raise ConfigError(f"the seed file {self.seed_file} cannot be read: {reason}") from None
        return None


AnySettings = TypeVar("AnySettings", bound=Settings)


def load_settings(config: Path | None, flags: dict[str, Any]) -> Settings:
    """The settings from flags (those that are None were not given), environment and file.

    Raises:
        ConfigError: naming each key that is unknown or holds a value it cannot have; never the value of a secret.
    """
    return load_settings_of(Settings, config, flags)


def load_settings_of(kind: type[AnySettings], config: Path | None, flags: dict[str, Any]) -> AnySettings:
    """`load_settings` for settings with more keys than the library's own."""
    from_file = _read_yaml(config) if config is not None else {}

    def sources(
        cls: type[BaseSettings],
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, InitSettingsSource(settings_cls, from_file)

    from_all = type(
        kind.__name__, (kind,), {"settings_customise_sources": classmethod(sources), "__module__": __name__}
    )
    where = f" (flags, environment or {config})" if config is not None else " (flags or environment)"
    try:
        return cast(AnySettings, from_all(**{key: value for key, value in flags.items() if value is not None}))
    except SettingsError as error:
        raise ConfigError(f"the settings{where} cannot be used: {error}") from None
    except ValidationError as error:
        problems = [_in_words(problem) for problem in error.errors()]
        raise ConfigError(f"the settings{where} cannot be used:\n" + "\n".join(problems)) from None


def _in_words(problem: Any) -> str:
    key = printable(".".join(str(part) for part in problem["loc"]))
    if problem["type"] == "extra_forbidden":
        return f"  {key}: there is no such setting; the files in config/ list them all"
    name = str(problem["loc"][-1]) if problem["loc"] else ""
    is_group = isinstance(problem["input"], dict) or problem["type"].startswith("model")  # which could hold a secret
    if is_group or any(word in name for word in _SECRET_WORDS):
        return f"  {key}: {problem['msg']}"
    return f"  {key}: {problem['msg']} (given was {printable(repr(problem['input']), _MAX_SHOWN_BYTES)})"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the settings file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"the settings file {path} is not YAML: it is not UTF-8") from None
    except yaml.YAMLError as error:
        # not the error's own words: they quote the line, in which the seed can stand
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        what = problem.partition("'")[0].removesuffix(", but found ").strip() if problem else "it cannot be parsed"
        raise ConfigError(f"the settings file {path} is not YAML{where}: {what}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"the settings file {path} holds no keys: it must be like config/default.yaml")
    for key in values:
        if not isinstance(key, str):
            raise ConfigError(f"the settings file {path}: {key}: there is no such setting")
    return values
