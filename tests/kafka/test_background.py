"""What is done meanwhile is done, and its error is told to who waits."""

from __future__ import annotations

import threading

import pytest

from consumers.background import Background


def test_it_works_meanwhile() -> None:
    may_end = threading.Event()
    done: list[str] = []

    def work() -> None:
        may_end.wait(10)
        done.append(threading.current_thread().name)

    background = Background(work, "worker of a test")
    assert not background.is_done
    may_end.set()
    background.finish()
    assert done == ["worker of a test"]
    assert background.is_done


def test_an_error_is_raised_where_it_is_waited_for() -> None:
    def fail() -> None:
        raise OSError("no")

    background = Background(fail, "worker of a test")
    for _ in range(2):
        with pytest.raises(OSError, match="no"):
            background.finish()
