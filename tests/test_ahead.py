"""Steps done ahead: the order stays, and nothing that came before a failure is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_curate.ahead import InTurn, read_ahead, run_ahead

WAIT_S = 30


@pytest.fixture(scope="module")
def threads() -> Iterator[Executor]:
    with ThreadPoolExecutor(3) as executor:
        yield executor


@given(st.lists(st.none() | st.integers()), st.integers(0, 5), st.booleans())
def test_the_results_come_in_the_order_of_the_items(items: list[int | None], n_ahead: int, has_threads: bool) -> None:
    with ThreadPoolExecutor(3) as threads:
        found = list(run_ahead(threads if has_threads else None, lambda item: item * 2, iter(items), n_ahead))
    assert found == [None if item is None else item * 2 for item in items]


def test_so_many_are_at_work_beyond_the_one_that_is_waited_for(threads: Executor) -> None:
    n_taken = 0

    def items() -> Iterator[int]:
        nonlocal n_taken
        while True:
            n_taken += 1
            yield n_taken

    results = run_ahead(threads, lambda item: item, items(), n_ahead=2)
    assert next(results) == 1
    assert n_taken == 3
    results.close()


def test_steps_are_done_side_by_side(threads: Executor) -> None:
    both = threading.Barrier(2)
    assert list(run_ahead(threads, lambda item: both.wait(WAIT_S) >= 0, iter([1, 2]), n_ahead=1)) == [True, True]


@pytest.mark.parametrize("error", [ValueError("cut short"), KeyboardInterrupt()])
def test_what_came_before_a_failure_of_the_items_is_given_first(threads: Executor, error: BaseException) -> None:
    def items() -> Iterator[int]:
        yield from (1, 2, 3)
        raise error

    results = run_ahead(threads, lambda item: item, items(), n_ahead=5)
    assert [next(results) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(type(error)):
        next(results)


def test_a_step_that_fails_does_so_in_its_place(threads: Executor) -> None:
    results = run_ahead(threads, lambda item: 6 // item, iter([1, 2, 0, 3]), n_ahead=3)
    assert [next(results), next(results)] == [6, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_whoever_stops_early_leaves_nothing_at_work(threads: Executor) -> None:
    may_end, n_ended = threading.Event(), []

    def step(item: int) -> int:
        if item > 1:
            may_end.wait(WAIT_S)
        n_ended.append(item)
        return item

    results = run_ahead(threads, step, iter([1, 2, 3]), n_ahead=2)
    assert next(results) == 1
    may_end.set()
    results.close()
    assert sorted(n_ended) == [1, 2, 3]


def test_reading_ahead_gives_the_same_items_and_then_the_failure(threads: Executor) -> None:
    def items() -> Iterator[int]:
        yield from (1, 2)
        raise ValueError("cut short")

    read = read_ahead(threads, items())
    assert [next(read), next(read)] == [1, 2]
    with pytest.raises(ValueError, match="cut short"):
        next(read)
    assert list(read_ahead(threads, iter([]))) == []
    assert list(read_ahead(threads, iter([None, 0]))) == [None, 0]


def test_the_next_item_is_made_while_one_is_used(threads: Executor) -> None:
    is_made = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        is_made.set()
        yield 2

    read = read_ahead(threads, items())
    assert next(read) == 1
    assert is_made.wait(WAIT_S)
    read.close()


# --- calls in turn


def test_calls_are_made_beside_others_in_their_order() -> None:
    made: list[int] = []
    threads: set[int] = set()

    def call(number: int) -> None:
        made.append(number)
        threads.add(threading.get_ident())

    with closing(InTurn("test")) as turn:
        for number in range(50):
            turn.call(call, number)
        turn.wait()
        assert made == list(range(50))
        turn.wait()
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_whoever_asks_for_too_many_calls_waits() -> None:
    asked: list[int] = []
    may_go, is_third_asked = threading.Event(), threading.Event()

    def ask(turn: InTurn) -> None:
        for number in range(4):
            turn.call(may_go.wait)
            asked.append(number)
            if number == 2:
                is_third_asked.set()

    with closing(InTurn("test", n_waiting=2)) as turn:
        asking = threading.Thread(target=ask, args=[turn])
        asking.start()
        assert is_third_asked.wait(WAIT_S)
        assert asked == [0, 1, 2]  # one is at work, two wait
        may_go.set()
        asking.join(WAIT_S)
        turn.wait()
    assert asked == [0, 1, 2, 3]


def test_what_a_call_raised_is_told_once() -> None:
    def fail() -> None:
        raise OSError("broken")

    with closing(InTurn("test")) as turn:
        turn.call(fail)
        with pytest.raises(OSError, match="broken"):
            turn.wait()
        turn.wait()
        for _ in range(2):
            turn.call(fail)
        with pytest.raises(OSError, match="broken"):
            turn.call(fail)
        with pytest.raises(OSError, match="broken"):
            turn.wait()
