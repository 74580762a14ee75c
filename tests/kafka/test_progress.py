"""What stands still is told in time, and what has a reason to wait is left in peace."""

from __future__ import annotations

from collections.abc import Mapping

from consumers.messages import position
from consumers.progress import Place, Progress

LIMIT_S = 10.0
PATIENCE_S = 100.0


class Watched:
    """A Progress whose time is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.progress = Progress(LIMIT_S, PATIENCE_S, lambda: self.now_s)

    def see(self, places: Mapping[int, Place], ends: Mapping[int, int] | None, after_s: float = 1.0) -> set[int]:
        """What is stalled when this is seen so much later."""
        self.now_s += after_s
        self.progress.see(places, ends)
        return self.stalled()

    def stalled(self) -> set[int]:
        return {partition for partition, each in self.progress.standings().items() if each.is_stalled}


def at(offset: int, row: int = 0) -> Place:
    return Place(position(offset) + row)


def restoring(n_steps: int) -> Place:
    return Place(is_ready=False, n_restored=n_steps)


def test_a_position_that_does_not_move_stalls_after_the_limit() -> None:
    watched = Watched()
    assert not watched.see({0: at(5), 1: at(7)}, {0: 5, 1: 9})
    assert not watched.see({0: at(5), 1: at(7)}, {0: 5, 1: 20}, LIMIT_S)
    assert watched.see({0: at(5), 1: at(7)}, {0: 5, 1: 20}) == {1}
    still = watched.progress.standings()[1]
    assert (still.offset, still.lag, still.still_s) == (7, 13, LIMIT_S + 1)
    assert not watched.see({0: at(5), 1: at(8)}, {0: 5, 1: 20})


def test_nothing_to_read_is_no_stall_and_the_time_begins_with_the_input() -> None:
    watched = Watched()
    for _ in range(50):
        assert not watched.see({0: at(5)}, {0: 5})
    assert not watched.see({0: at(5)}, {0: 6}, LIMIT_S)
    assert watched.see({0: at(5)}, {0: 6}) == {0}


def test_a_part_of_a_message_is_a_step_forward() -> None:
    watched = Watched()
    for row in range(20):
        assert not watched.see({0: at(5, row)}, {0: 6}, LIMIT_S - 1)
    assert watched.progress.standings()[0].lag == 1


def test_it_is_found_without_anybody_looking_again() -> None:
    """Whoever asks gets what is true now."""
    watched = Watched()
    watched.see({0: at(5)}, {0: 6})
    watched.now_s += LIMIT_S + 0.1
    assert watched.stalled() == {0}


def test_a_partition_that_is_restored_has_more_time_as_long_as_it_goes_on() -> None:
    watched = Watched()
    for n_steps in range(20):
        assert not watched.see({0: restoring(n_steps)}, {0: 100}, PATIENCE_S - 1)
    assert watched.progress.standings()[0].lag is None
    assert watched.see({0: restoring(19)}, {0: 100}, PATIENCE_S + 1) == {0}


def test_partitions_wait_for_their_turn_to_be_restored() -> None:
    watched = Watched()
    for n_steps in range(20):
        assert not watched.see({0: restoring(n_steps), 1: restoring(0)}, {}, PATIENCE_S - 1)


def test_becoming_ready_gives_the_limit_once_more() -> None:
    watched = Watched()
    watched.see({0: at(5)}, {0: 9})
    watched.see({0: restoring(1)}, {0: 9}, LIMIT_S)
    assert not watched.see({0: at(5)}, {0: 9}, LIMIT_S)
    assert not watched.see({0: at(5)}, {0: 9}, LIMIT_S)
    assert watched.see({0: at(5)}, {0: 9}) == {0}


def test_failing_and_being_restored_again_and_again_is_a_stall() -> None:
    watched = Watched()
    watched.see({0: restoring(3)}, {0: 9})
    for _ in range(11):
        watched.see({0: at(5)}, {0: 9}, 5.0)
        assert watched.progress.standings()[0].lag == 4
        watched.see({0: restoring(1)}, {0: 9}, 2.0)
        watched.see({0: restoring(3)}, {0: 9}, 2.0)
    assert not watched.stalled()
    assert watched.see({0: at(5)}, {0: 9}, 12.0) == {0}


def test_while_no_broker_answers_no_time_counts() -> None:
    watched = Watched()
    watched.see({0: at(5), 1: restoring(1)}, {0: 9, 1: 9})
    for _ in range(30):
        assert not watched.see({0: at(5), 1: restoring(1)}, None, LIMIT_S)
    assert watched.progress.standings()[0].lag == 4
    assert not watched.see({0: at(5), 1: restoring(1)}, {0: 9, 1: 9}, LIMIT_S)
    assert watched.see({0: at(5), 1: restoring(1)}, {0: 9, 1: 9}) == {0}


def test_an_end_that_is_not_known_is_no_stall() -> None:
    watched = Watched()
    for _ in range(5):
        assert not watched.see({0: at(5)}, {}, LIMIT_S)
    assert watched.progress.standings()[0].lag is None


def test_a_partition_that_went_is_forgotten() -> None:
    watched = Watched()
    watched.see({0: at(5), 1: at(5)}, {0: 9, 1: 9})
    assert watched.see({1: at(5)}, {1: 9}, LIMIT_S + 1) == {1}
    assert set(watched.progress.standings()) == {1}
    assert watched.see({0: at(5), 1: at(5)}, {0: 9, 1: 9}) == {1}
