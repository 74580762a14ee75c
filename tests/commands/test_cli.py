"""The command line as a whole: help, version, exit codes, and that no error ends in a traceback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from command_line import Outcome, crawl, inspect_json, outcome_of, run, small_table, start, write_csv

from stream_curate import __version__, cli, errors, exit_codes

COMMANDS = {
    "curate": ["--out", "--metadata", "--threshold", "--seed", "--counter", "--dedup", "--on-bad-file", "--config"],
    "inspect": ["--what-if", "--json", "--seed-file"],
    "explain": ["--pair-id", "--url", "--text", "--json"],
    "verify": ["--seed", "--columns", "--json"],
    "export": ["--out", "--json"],
    "offline": ["--out", "--counter", "--columns", "--json"],
    "metadata": ["info", "check", "build"],
    "metadata info": ["--json"],
    "metadata check": ["--json"],
    "metadata build": ["--wordnet", "--out", "--words"],
}


def plain(outcome: Outcome) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", outcome.words)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_has_help_with_its_flags(command: str, flag: str) -> None:
    shown = plain(run(*command.split(), flag).ended(0))
    assert f"stream-curate {command}" in shown
    for word in COMMANDS[command]:
        assert word in shown


def test_help_of_all_lists_the_commands() -> None:
    shown = plain(run("--help").ended(0))
    for command in {command.split()[0] for command in COMMANDS}:
        assert command in shown


def test_every_command_and_flag_is_explained() -> None:
    app = typer.main.get_command(cli.make_app())
    for name, command in app.commands.items():  # type: ignore[attr-defined]
        assert command.get_short_help_str(limit=200), name
        for parameter in command.params:
            assert getattr(parameter, "help", None) or parameter.name == "help", f"{name} {parameter.name}"


def test_help_says_that_metadata_is_not_the_data() -> None:
    shown = plain(run("curate", "--help").ended(0))
    assert "The list of entries (concepts)" in shown
    assert "not your data" in shown


def test_version() -> None:
    assert run("--version").ended(0).out == f"stream-curate {__version__}\n"


def test_nothing_asked_shows_the_help() -> None:
    assert "Usage" in run().words


@pytest.mark.parametrize(
    "arguments",
    [
        ["curat"],
        ["curate"],
        ["curate", "in.csv"],
        ["curate", "--out", "t"],
        ["curate", "in.csv", "--out", "t", "--threshold", "0"],
        ["curate", "in.csv", "--out", "t", "--threshold", "many"],
        ["curate", "in.csv", "--out", "t", "--counter", "exakt"],
        ["curate", "in.csv", "--out", "t", "--dedup", "some"],
        ["curate", "in.csv", "--out", "t", "--batch-size", "0"],
        ["curate", "in.csv", "--out", "t", "--checkpoint-interval", "-1"],
        ["curate", "in.csv", "--out", "t", "--format", "xml"],
        ["curate", "in.csv", "--out", "t", "--on-bad-file", "ignore"],
        ["curate", "in.csv", "--out", "t", "--no-such-flag"],
        ["inspect"],
        ["inspect", "t", "u"],
        ["explain"],
        ["verify", "t"],
        ["export", "t"],
        ["offline", "in.csv"],
        ["metadata"],
        ["metadata", "build"],
    ],
    ids=" ".join,
)
def test_words_that_are_off_end_with_2(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(*arguments).ended(2)
    assert not list(tmp_path.iterdir())


def test_a_batch_size_that_is_too_large_is_a_usage_error_too(tmp_path: Path) -> None:
    source = write_csv(tmp_path / "in.csv", crawl(5))
    refused = run("curate", source, "--out", tmp_path / "t", "--batch-size", 2_000_000)
    assert refused.code in (exit_codes.USAGE, exit_codes.BAD_INPUT)
    assert "batch" in refused.words


ERRORS = [
    (errors.StreamCurateError, 1),
    (errors.UsageError, 2),
    (errors.ConfigError, 3),
    (errors.InputError, 3),
    (errors.OutputError, 7),
]


@pytest.mark.parametrize(("kind", "code"), ERRORS)
def test_an_error_ends_with_its_code_and_a_sentence(
    kind: type[errors.StreamCurateError], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise kind("what was wrong")

    def make_app() -> typer.Typer:
        app = typer.Typer(pretty_exceptions_enable=False)
        app.command("fail")(fail)
        return app

    monkeypatch.setattr(cli, "make_app", make_app)
    ended = run().ended(code)
    assert ended.err == "error: what was wrong\n"
    assert ended.out == ""


def test_the_codes_are_those_that_scripts_rely_on() -> None:
    known = {name: value for name, value in vars(exit_codes).items() if name.isupper()}
    assert known == {
        "DONE": 0,
        "BUG": 1,
        "USAGE": 2,
        "BAD_INPUT": 3,
        "FILE_SKIPPED": 4,
        "MISMATCH": 5,
        "KAFKA": 6,
        "OUTPUT": 7,
        "INTERRUPTED": 8,
    }


def test_a_program_error_is_one_line_and_with_verbose_it_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no user can act on must reach the developers; a traceback says nothing to anybody else."""

    def make_app() -> typer.Typer:
        raise ZeroDivisionError("by \x1b[31m zero")

    monkeypatch.setattr(cli, "make_app", make_app)
    ended = run().ended(exit_codes.BUG)
    assert "ZeroDivisionError" in ended.err
    assert "This is a bug in stream-curate" in ended.err
    assert len(ended.err.splitlines()) == 1
    assert ended.err.rstrip("\n").isprintable()
    for flag in ("-v", "--verbose"):
        with pytest.raises(ZeroDivisionError):
            run(flag)


def test_an_interrupt_where_nothing_has_to_be_saved_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def make_app() -> typer.Typer:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "make_app", make_app)
    assert run().ended(130).err == "interrupted\n"


def test_it_runs_as_a_module_and_as_a_script() -> None:
    script = Path(sys.executable).parent / "stream-curate"
    for command in ([sys.executable, "-m", "stream_curate"], [str(script)]):
        ended = subprocess.run([*command, "metadata", "--help"], capture_output=True, text=True, check=True)
        assert "metadata [OPTIONS] COMMAND" in re.sub(r"\x1b\[[0-9;]*m", "", ended.stdout)


def test_json_alone_is_on_standard_output(tmp_path: Path) -> None:
    """So that it can be piped on, whatever is logged meanwhile."""
    source = write_csv(tmp_path / "in.csv", crawl(20))
    outcome = outcome_of(start("--verbose", "curate", source, "--out", tmp_path / "t", "--json"))
    assert outcome.ended(0).json["n_read"] == 20
    assert "seed is the public default" in outcome.err


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["table", "json"])
def test_a_reader_that_has_gone_is_no_error_of_ours(tmp_path: Path, flags: list[str]) -> None:
    """As in `stream-curate inspect t --json | head -1`."""
    table, _ = small_table(tmp_path, 50)
    reading, writing = os.pipe()
    os.close(reading)
    try:
        process = start("inspect", table, *flags, stdout=writing)
    finally:
        os.close(writing)
    outcome = outcome_of(process)
    assert outcome.err == ""
    assert outcome.code in (0, 1)


def test_other_settings_in_the_environment_with_our_prefix_are_left_alone(tmp_path: Path) -> None:
    """Kubernetes sets some of its own for a service of our name."""
    environment = {"STREAM_CURATE_SERVICE_HOST": "10.0.0.1", "STREAM_CURATE_PORT": "tcp://10.0.0.1:80"}
    source = write_csv(tmp_path / "in.csv", crawl(5))
    run("curate", source, "--out", tmp_path / "t", environment=environment).ended(0)
    assert inspect_json(tmp_path / "t")["n_read"] == 5
