"""Settings come from flags, the environment and files; what is wrong is named, and the seed is never shown."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_curate.counting import Counter
from stream_curate.errors import ConfigError
from stream_curate.final_rule import FinalDecisions
from stream_curate.settings import ENVIRONMENT_PREFIX, Settings, load_settings
from stream_curate.shipped import shipped_path

SECRET = "8675309867530986753098675309"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has set."""
    for name in list(os.environ):
        if name.upper().startswith(ENVIRONMENT_PREFIX):
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(config: Path | None, flags: dict[str, Any] | None = None) -> str:
    """The words in which these settings are refused."""
    with pytest.raises(ConfigError) as error:
        load_settings(config, flags or {})
    assert SECRET not in "".join(traceback.format_exception(error.value)), "the seed is a secret"
    return str(error.value)


# --- where a setting comes from


def test_a_flag_goes_before_the_environment_before_the_file_before_the_default(
    config: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config("threshold: 1\nbatch_size: 1\ndedup: none\n")
    monkeypatch.setenv("STREAM_CURATE_THRESHOLD", "2")
    monkeypatch.setenv("STREAM_CURATE_BATCH_SIZE", "2")

    settings = load_settings(path, {"threshold": 3, "batch_size": None})

    assert (settings.threshold, settings.batch_size, settings.dedup, settings.counter) == (3, 2, "none", "count-min")


def test_what_was_given_is_told_from_what_is_default(
    config: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what was given can contradict a table; a default that was written down was given."""
    path = config("threshold: 20000\nseed: null\nurl_column: null\n")
    monkeypatch.setenv("STREAM_CURATE_DEDUP", "exact")

    settings = load_settings(path, {"counter": "count-min", "matcher": None})

    given = {key for key in Settings.model_fields if settings.was_given(key)}
    assert given == {"threshold", "dedup", "counter"}


def test_a_nested_key_can_be_set_alone_from_anywhere(
    config: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = config("count_min: {num_hashes: 7, num_buckets: 77}\n")
    assert load_settings(path, {}).counter_with_sizes == Counter("count-min", 7, 77)

    monkeypatch.setenv("STREAM_CURATE_COUNT_MIN__NUM_BUCKETS", "256")
    assert load_settings(path, {}).counter_with_sizes == Counter("count-min", 7, 256)
    assert load_settings(None, {}).counter_with_sizes == Counter("count-min", 4, 256)
    assert load_settings(path, {"count_min": {"num_buckets": 512}}).counter_with_sizes == Counter("count-min", 7, 512)


def test_the_exact_counter_has_no_sizes(config: Callable[[str], Path]) -> None:
    settings = load_settings(config("counter: exact\ncount_min: {num_hashes: 7}\n"), {})

    assert settings.counter_with_sizes == Counter("exact")


@pytest.mark.parametrize(("value", "names"), [("a", ("a",)), ("a, b,c", ("a", "b", "c")), ('["a", "b"]', ("a", "b"))])
@pytest.mark.parametrize("key", ["columns", "keep_columns"])
def test_lists_of_names_can_be_written_with_commas_in_the_environment(
    key: str, value: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"STREAM_CURATE_{key.upper()}", value)

    assert getattr(load_settings(None, {}), key) == names


@pytest.mark.parametrize("key", ["columns", "keep_columns"])
def test_lists_of_names_in_flags_and_files(key: str, config: Callable[[str], Path]) -> None:
    assert getattr(load_settings(None, {key: "a,b"}), key) == ("a", "b")
    assert getattr(load_settings(config(f"{key}: [a, b]"), {}), key) == ("a", "b")
    assert getattr(load_settings(config(f"{key}: a,b"), {}), key) == ("a", "b")


def test_variables_with_the_prefix_that_are_no_settings_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes makes some for a service called stream-curate."""
    monkeypatch.setenv("STREAM_CURATE_SERVICE_HOST", "10.0.0.1")

    assert load_settings(None, {}).model_dump() == Settings.model_construct().model_dump()


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n"])
def test_an_empty_file_gives_the_defaults(text: str, config: Callable[[str], Path]) -> None:
    assert load_settings(config(text), {}).model_dump() == Settings().model_dump()


# --- final decisions


@pytest.mark.parametrize(
    "text", ["1600000000", "1.6e9", "1.6E+9", "1_600_000_000", " 1.6e9 ", "'1600000000.0'", "16e8", "1.6e+9"]
)
def test_a_pool_size_can_be_written_as_people_write_it(
    text: str, config: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_settings(config(f"pool_size: {text}"), {}).pool_size == 1_600_000_000
    assert load_settings(None, {"pool_size": text.strip("'")}).pool_size == 1_600_000_000
    monkeypatch.setenv("STREAM_CURATE_POOL_SIZE", text.strip("'"))
    assert load_settings(None, {}).pool_size == 1_600_000_000


def test_final_decisions_come_with_their_pool_and_exact_counts() -> None:
    settings = load_settings(None, {"decisions": "final", "pool_size": "1e3", "horizon": "known"})
    assert settings.final_decisions == FinalDecisions(1000, "known")
    assert settings.counter_with_sizes == Counter("exact")
    assert load_settings(None, {"decisions": "final", "counter": "count-min"}).counter_with_sizes.kind == "count-min"
    assert Settings().final_decisions is None


def test_a_pool_size_and_final_decisions_need_each_other() -> None:
    with pytest.raises(ConfigError, match=r"final decisions need pool_size \(--pool-size\)"):
        _ = load_settings(None, {"decisions": "final"}).final_decisions
    with pytest.raises(ConfigError, match="pool_size is 1,000, which means something to final decisions alone"):
        _ = load_settings(None, {"pool_size": 1000}).final_decisions


# --- the file that explains them all


def test_the_default_file_holds_exactly_every_setting_with_its_default() -> None:
    path = shipped_path("config/default.yaml")
    written = yaml.safe_load(path.read_text(encoding="utf-8"))

    assert set(written) == set(Settings.model_fields)
    assert set(written["count_min"]) == set(type(Settings().count_min).model_fields)
    assert load_settings(path, {}).model_dump() == Settings().model_dump()
    assert load_settings(path, {}).model_fields_set == set(Settings.model_fields)


def test_every_setting_is_explained() -> None:
    """A comment stands above each key of the default file (or above the group of keys that it is in)."""
    lines = shipped_path("config/default.yaml").read_text(encoding="utf-8").splitlines()
    for key in Settings.model_fields:
        (place,) = (i for i, line in enumerate(lines) if line.startswith(f"{key}:"))
        group = lines[:place]
        while group and group[-1] and not group[-1].startswith("#"):
            group.pop()
        explained = bool(group and group[-1].startswith("#")) or lines[place + 1].lstrip().startswith("#")
        assert explained, key


# --- what is refused


def test_an_unknown_key_is_named(config: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    words = refusal(config(f"treshold: 5\nsede: {SECRET}\ncount_min: {{buckets: 5}}\n"))

    assert "settings.yaml" in words
    for key in ("treshold", "sede", "count_min.buckets"):
        assert f"  {key}: there is no such setting" in words
    monkeypatch.setenv("STREAM_CURATE_COUNT_MIN__NOPE", "5")
    assert "  count_min.nope: there is no such setting" in refusal(None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("threshold: many", "  threshold: Input should be a valid integer"),
        ("threshold: 0", "  threshold: Input should be greater than or equal to 1 (given was 0)"),
        ("threshold: 1.5", "  threshold: Input should be a valid integer"),
        ("threshold: [5]", "  threshold: Input should be a valid integer (given was [5])"),
        ("batch_size: 0", "  batch_size: "),
        ("batch_size: 1048577", "  batch_size: "),
        ("checkpoint_interval_s: -1", "  checkpoint_interval_s: "),
        ("settle_growth: 1", "  settle_growth: Input should be greater than 1"),
        ("settle_growth: .nan", "  settle_growth: "),
        ("checkpoint_interval_s: .nan", "  checkpoint_interval_s: "),
        ("counter: guess", "  counter: Input should be 'count-min' or 'exact' (given was 'guess')"),
        ("dedup: yes", "  dedup: Input should be 'exact' or 'none' (given was True)"),
        ("matcher: regex", "  matcher: "),
        ("format: xml", "  format: "),
        ("on_bad_file: ignore", "  on_bad_file: "),
        ("count_min: 5", "  count_min: "),
        ("count_min: {num_hashes: 0}", "  count_min.num_hashes: "),
        ("count_min: {num_hashes: 128}", "  count_min.num_hashes: "),
        ("count_min: {num_buckets: 2}", "  count_min.num_buckets: "),
        ("keep_columns: 5", "  keep_columns: "),
        ("decisions: later", "  decisions: Input should be 'provisional' or 'final' (given was 'later')"),
        ("horizon: near", "  horizon: "),
        ("pool_size: 0", "  pool_size: Input should be greater than or equal to 1 (given was 0)"),
        ("pool_size: -1e3", "  pool_size: Input should be greater than or equal to 1"),
        ("pool_size: 9007199254740993", "  pool_size: "),
        ("pool_size: 1.5", "  pool_size: Value error, it must be a whole number of pairs"),
        ("pool_size: 1e-3", "  pool_size: Value error, it must be a whole number of pairs"),
        ("pool_size: 1e999999999", "  pool_size: Value error, it must be a number of pairs from 1 to 2^53"),
        ("pool_size: .inf", "  pool_size: Value error, it must be a number of pairs from 1 to 2^53"),
        ("pool_size: .nan", "  pool_size: Value error, it must be a number of pairs from 1 to 2^53"),
        ("pool_size: many", "  pool_size: Input should be a valid integer"),
        ("pool_size: ''", "  pool_size: "),
        ("pool_size: true", "  pool_size: Input should be a valid integer"),
        ("pool_size: [5]", "  pool_size: "),
        ("metadata: 5", "  metadata: "),
    ],
)
def test_a_value_of_another_type_or_out_of_range_is_named(text: str, words: str, config: Callable[[str], Path]) -> None:
    assert words in refusal(config(text))
    assert "\n  " in refusal(config(text))


@pytest.mark.parametrize(("name", "value"), [("COUNT_MIN", "big"), ("THRESHOLD", ""), ("COUNT_MIN__NUM_HASHES", "x")])
def test_a_wrong_value_in_the_environment_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"STREAM_CURATE_{name}", value)

    assert name.lower().replace("__", ".") in refusal(None)


def test_all_problems_are_told_at_once(config: Callable[[str], Path]) -> None:
    words = refusal(config("threshold: 0\nnope: 1\n"), {"dedup": "some"})

    assert sorted(line.split(":")[0] for line in words.splitlines()[1:]) == ["  dedup", "  nope", "  threshold"]


@pytest.mark.parametrize("text", ["- threshold\n", "threshold\n", "5\n"])
def test_a_file_without_keys_is_refused(text: str, config: Callable[[str], Path]) -> None:
    assert "holds no keys: it must be like config/default.yaml" in refusal(config(text))


@pytest.mark.parametrize("text", ["5: x\n", "true: x\n", "null: x\n", "1.5: x\n", "2020-01-01: x\n"])
def test_a_key_that_is_no_text_is_unknown_like_others(text: str, config: Callable[[str], Path]) -> None:
    assert "there is no such setting" in refusal(config(text))


@pytest.mark.parametrize("text", ["threshold: [", "a: b: c", "\tthreshold: 5", "threshold: 'x", "a: &x *y", "a\x00: 5"])
def test_what_is_no_yaml_is_refused_naming_the_file(text: str, config: Callable[[str], Path]) -> None:
    assert "settings.yaml is not YAML" in refusal(config(text))


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(b"metadata: caf\xe9.txt\n")

    assert "settings.yaml is not YAML" in refusal(path)


@pytest.mark.parametrize(
    "text",
    [
        "threshold: !!python/object/apply:os.system ['touch pwned']",
        "threshold: !!python/object:stream_curate.settings.Settings {}",
        "metadata: !!python/name:os.system",
        "!!python/object/apply:subprocess.check_output [['touch', 'pwned']]",
        "threshold: !include other.yaml",
    ],
)
def test_tags_that_would_run_code_are_refused(
    text: str, config: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    words = refusal(config(text))
    assert "is not YAML" in words
    assert "could not determine a constructor" in words
    assert not (tmp_path / "pwned").exists()


def test_a_settings_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "nothing.yaml cannot be read: No such file" in refusal(tmp_path / "nothing.yaml")
    assert "cannot be read: Is a directory" in refusal(tmp_path)


def test_control_characters_in_a_key_do_not_reach_the_terminal(config: Callable[[str], Path]) -> None:
    words = refusal(config('"a\\e[31m\\u202e": "\\e[31m"\nthreshold: "\\e[31m"\n'))

    assert all(line.isprintable() for line in words.splitlines())


# --- the seed


@pytest.mark.parametrize("text", ["7", "0x7", '"7"', '"0x7"', "' 7 '"])
def test_a_seed_is_a_number_or_text_in_the_file(text: str, config: Callable[[str], Path]) -> None:
    assert load_settings(config(f"seed: {text}\n"), {}).read_seed() == 7


def test_the_largest_seed_is_no_number_for_most_yaml_readers_but_is_read(config: Callable[[str], Path]) -> None:
    assert load_settings(config(f"seed: {2**128 - 1}\n"), {}).read_seed() == 2**128 - 1


def test_a_seed_from_everywhere(config: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed_file = tmp_path / "seed"
    seed_file.write_text("0x1F\n")
    assert load_settings(None, {}).read_seed() is None
    assert load_settings(None, {"seed_file": seed_file}).read_seed() == 31
    assert load_settings(config(f"seed_file: {seed_file}"), {}).read_seed() == 31
    monkeypatch.setenv("STREAM_CURATE_SEED", "8")
    assert load_settings(config("seed: 9"), {}).read_seed() == 8
    assert load_settings(config("seed: 9"), {"seed": "10"}).read_seed() == 10


def test_a_seed_and_a_seed_file_are_one_too_many(tmp_path: Path) -> None:
    settings = load_settings(None, {"seed": SECRET, "seed_file": tmp_path / "seed"})
    with pytest.raises(ConfigError, match="both seed and seed_file are set: keep one of them"):
        settings.read_seed()


def test_a_seed_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    def words(path: Path) -> str:
        with pytest.raises(ConfigError) as error:
            load_settings(None, {"seed_file": path}).read_seed()
        assert SECRET not in "".join(traceback.format_exception(error.value))
        return str(error.value)

    (tmp_path / "binary").write_bytes(b"\xff" + SECRET.encode())
    (tmp_path / "words").write_text(f"seed={SECRET}")
    (tmp_path / "empty").write_text("")
    assert "nothing cannot be read: No such file" in words(tmp_path / "nothing")
    assert "cannot be read: Is a directory" in words(tmp_path)
    assert "binary cannot be read: it is not plain text" in words(tmp_path / "binary")
    assert "the seed is not a number" in words(tmp_path / "words")
    assert "the seed is not a number" in words(tmp_path / "empty")


def test_the_seed_is_not_shown_in_any_form_of_the_settings() -> None:
    settings = load_settings(None, {"seed": SECRET})

    assert settings.read_seed() == int(SECRET)
    for shown in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json()):
        assert SECRET not in shown


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"seed: [{SECRET}]", id="a list"),
        pytest.param(f"seed: {{is: {SECRET}}}", id="a group"),
        pytest.param(f"seed: {SECRET}.5", id="a fraction"),
        pytest.param(f"seed: !!binary {SECRET}", id="bytes"),
        pytest.param(f"sed: {SECRET}", id="a key spelt wrongly"),
        pytest.param(f"seed: {SECRET}\nthreshold: 0", id="another setting wrong"),
        pytest.param(f"seed: {SECRET}: 5", id="no YAML: a colon"),
        pytest.param(f'seed: "{SECRET}', id="no YAML: a quote"),
        pytest.param(f"seed: {SECRET}\n\tthreshold: 5", id="no YAML: a tab"),
        pytest.param(f"seed: !secret {SECRET}", id="no YAML: a tag"),
    ],
)
def test_a_wrong_seed_or_a_wrong_file_does_not_show_the_seed(text: str, config: Callable[[str], Path]) -> None:
    """`refusal` looks for it, in the message and in the traceback."""
    assert "settings.yaml" in refusal(config(text))


@pytest.mark.parametrize("seed", [f"{SECRET}x", f"-{SECRET}", SECRET * 3, f"0x{SECRET}g"])
def test_a_seed_out_of_range_is_not_shown(seed: str) -> None:
    with pytest.raises(ConfigError, match="the seed is") as error:
        load_settings(None, {"seed": seed}).read_seed()
    assert SECRET not in "".join(traceback.format_exception(error.value))
