"""A worker ends with words before its memory does."""

from __future__ import annotations

from pathlib import Path

import pytest

from consumers import memory
from consumers.memory import MemoryFull, check_memory, memory_limit, memory_used
from stream_curate import exit_codes


def test_this_process_has_limits_and_uses_memory() -> None:
    limit, used = memory_limit(), memory_used()

    assert limit is not None
    assert used is not None
    assert 10_000_000 < used < limit
    check_memory(0, 0)


def test_when_it_is_nearly_full_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_used", lambda: 950_000_000)
    monkeypatch.setattr(memory, "memory_limit", lambda: 1_000_000_000)

    with pytest.raises(MemoryFull, match=r"0\.9 of 1\.0 GB .* 0\.7 GB of it by the hashes of 50,000,000 pairs.*more"):
        check_memory(700_000_000, 50_000_000)
    assert MemoryFull("").exit_code == exit_codes.BAD_INPUT


@pytest.mark.parametrize(("used", "limit"), [(None, 1_000), (1_000, None), (900, 1_000), (None, None)])
def test_what_is_not_known_or_not_full_is_no_error(
    used: int | None, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "memory_used", lambda: used)
    monkeypatch.setattr(memory, "memory_limit", lambda: limit)

    check_memory(0, 0)


def test_the_lower_of_the_limits_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths = [tmp_path / "memory.max", tmp_path / "limit_in_bytes"]
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", tuple(paths))
    of_machine = memory_limit()

    paths[0].write_text("max\n")  # no limit
    assert memory_limit() == of_machine
    paths[1].write_text("123456789\n")
    assert memory_limit() == 123_456_789
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    paths[1].unlink()
    assert memory_limit() is None
