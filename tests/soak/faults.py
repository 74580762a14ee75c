"""What is done to a curation during a soak, one thing after another, by chance and the same with the same seed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from kafka_curation import EXIT_AFTER_TERM_S
from kafka_fleet import Fleet
from kafka_proxy import KafkaProxy

from consumers.dev_broker import DevBroker

LONGEST_STOP_S = 10.0
LONGEST_OUTAGE_S = 3.0
BROKER_STARTS_S = 180.0
BEFORE_TERM_S = 60.0


class Faults:
    """Does one after the other.

    Args:
        fleet: with all its members.
        mortal: the workers that are killed and ended.
        broker: is stopped and killed, and started again.
        proxy: that all members go through.
        seed: of all chance.
    """

    def __init__(self, fleet: Fleet, mortal: list[str], broker: DevBroker, proxy: KafkaProxy, seed: int) -> None:
        self._fleet = fleet
        self._mortal = mortal
        self._broker = broker
        self._proxy = proxy
        self._chance = random.Random(seed)
        self._kinds = {
            "kill": self._kill,
            "restart": self._restart,
            "stop": self._stop,
            "disconnect": self._disconnect,
            "broker restart": self._restart_broker,
            "broker kill": self._kill_broker,
        }
        self._next_kinds = self._in_rounds()

    @property
    def n_kinds(self) -> int:
        """So many come in each round, one of each kind."""
        return len(self._kinds)

    def next(self) -> tuple[str, str]:
        """Do the next one, to its end; returns its kind, and what it was in words."""
        kind = next(self._next_kinds)
        return kind, self._kinds[kind]()

    def _in_rounds(self) -> Iterator[str]:
        """Each kind once, in an order of chance, again and again."""
        while True:
            yield from self._chance.sample(list(self._kinds), len(self._kinds))

    def _kill(self) -> str:
        name = self._chance.choice(self._mortal)
        step = self._fleet.kill(name)
        return f"SIGKILL to {name} at {step or 'its start'}"

    def _restart(self) -> str:
        name = self._chance.choice(self._mortal)
        # one that is only starting takes no signals yet, and this is not what is tried here
        self._fleet.wait_for(self._fleet.members[name].last_step, BEFORE_TERM_S, f"{name} to be at work")
        code = self._fleet.terminate(name, EXIT_AFTER_TERM_S)
        assert code == 0, f"{name} ended with {code} after SIGTERM"
        self._fleet.start_again(name)
        return f"SIGTERM to {name}, and started again"

    def _stop(self) -> str:
        name = self._chance.choice(list(self._fleet.members))
        seconds = self._chance.uniform(1.0, LONGEST_STOP_S)
        self._fleet.stop(name)
        time.sleep(seconds)
        self._fleet.go_on(name)
        return f"SIGSTOP to {name} for {seconds:.1f} s"

    def _disconnect(self) -> str:
        return f"{self._proxy.break_all()} connections broken off"

    def _restart_broker(self) -> str:
        self._broker.stop()
        return f"broker stopped, {self._outage()}"

    def _kill_broker(self) -> str:
        self._broker.kill()
        return f"broker killed, {self._outage()}"

    def _outage(self) -> str:
        seconds = self._chance.uniform(0.0, LONGEST_OUTAGE_S)
        time.sleep(seconds)
        self._broker.start(BROKER_STARTS_S)
        return f"started again after {seconds:.1f} s"
