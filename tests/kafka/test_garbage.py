"""Objects that refer to each other are freed by the clock."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from consumers.garbage import Garbage


class Client:
    """Refers to itself, as clients of Kafka do by way of their connections."""

    def __init__(self) -> None:
        self.connection = self


@pytest.fixture(autouse=True)
def _not_by_itself() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_what_is_left_behind_is_freed_when_the_interval_is_over() -> None:
    left = weakref.ref(Client())
    assert left() is not None
    assert Garbage(0.0).collect_if_due() > 0
    assert left() is None


def test_nothing_is_looked_for_before_that() -> None:
    left = weakref.ref(Client())
    assert Garbage(3_600.0).collect_if_due() == 0
    assert left() is not None
