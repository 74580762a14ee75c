"""Doing the steps of a stream in threads, ahead of where they are needed or behind, in the stream's own order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

_T = TypeVar("_T")
_R = TypeVar("_R")


def run_ahead(
    executor: Executor | None, step: Callable[[_T], _R], items: Iterator[_T | None], n_ahead: int
) -> Generator[_R | None]:
    """`step` of each item, in the order of the items.

    Args:
        executor: where the step is done; None does it right here.
        step: must not depend on what it did to other items.
        items: None among them says that nothing more comes at the moment: what came before is given at once, then None.
        n_ahead: how many items may be at work beyond the one that is waited for.

    Raises:
        BaseException: what `items` raises, behind all that came before it; what `step` raises, in its place.
    """
    if executor is None:
        for item in items:
            yield None if item is None else step(item)
        return
    at_work: deque[Future[_R]] = deque()
    try:
        while True:
            try:
                item = next(items)
            except StopIteration:
                break
            except BaseException:
                while at_work:
                    yield at_work.popleft().result()
                raise
            if item is not None:
                at_work.append(executor.submit(step, item))
            while len(at_work) > (0 if item is None else n_ahead):
                yield at_work.popleft().result()
            if item is None:
                yield None
        while at_work:
            yield at_work.popleft().result()
    finally:
        wait(at_work)


def read_ahead(executor: Executor, items: Iterator[_T]) -> Generator[_T]:
    """The same items; each next one is made in the executor while this one is used."""
    following = executor.submit(next, items, _END)
    try:
        while (item := following.result()) is not _END:
            following = executor.submit(next, items, _END)
            yield item  # type: ignore[misc]  # it is not _END
    finally:
        wait([following])


class InTurn:
    """Calls that one thread makes beside all others, in the order in which they were asked for.

    Args:
        name: of the thread.
        n_waiting: how many calls may wait for their turn.
    """

    def __init__(self, name: str, n_waiting: int = 1) -> None:
        self._pool = ThreadPoolExecutor(1, name)
        self._n_waiting = n_waiting
        self._under_way: deque[Future[None]] = deque()

    def call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Ask for `function(*arguments)`, as soon as there is room. Raises what an earlier call raised."""
        while len(self._under_way) > self._n_waiting:
            self._under_way.popleft().result()
        self._under_way.append(self._pool.submit(function, *arguments))

    def wait(self) -> None:
        """Until all calls are done. Raises what the first of them raised."""
        under_way, self._under_way = self._under_way, deque()
        wait(under_way)
        for future in under_way:
            future.result()

    def close(self) -> None:
        """Let go of the thread, once it is done."""
        self._pool.shutdown()


_END = object()
