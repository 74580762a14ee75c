"""Processes of one curation on Kafka: started, kept alive as Kubernetes would, killed, stopped, and looked at.

Each process is a *member* with a name, its own log (NAME.log) and its own list of reached steps (NAME.steps, see
`failpoints`). A member that ends is started again, after a while if it ends again and again; how it ended is kept.
Nothing of a fleet outlives it, nor the process of the test.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, Self

from kafka_topics import environment

from consumers.settings import KafkaSettings
from stream_curate.failpoints import LOG_VARIABLE, VARIABLE

TAIL_LINES = 25
_SUPERVISE_S = 0.02
_READ_BYTES = 65_536
_MAX_BACK_OFF_S = 2.0

# Exit codes with which a process of ours may end while brokers, disks and other processes die around it. Any other,
# above all that of a bug, is a failure.
EXPECTED_CODES = frozenset({0, 6, 7, 8})


@dataclass(frozen=True)
class Step:
    """One line of a list of steps."""

    time_s: float
    pid: int
    name: str


class StepLog:
    """Follows a list of steps that a process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.steps: list[Step] = []
        self._n_bytes = 0
        self._file: FileIO | None = None

    def read(self) -> list[Step]:
        """What has come since the last call; `steps` has all."""
        if self._file is None:
            if not self.path.exists():
                return []
            self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115 - a fast look, again and again
            weakref.finalize(self, self._file.close)
        data = b""
        while part := os.pread(self._file.fileno(), _READ_BYTES, self._n_bytes + len(data)):
            data += part
        if not data:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._n_bytes += len(whole)
        new = []
        for line in whole.decode().splitlines():
            time_s, pid, name = line.split(" ")
            new.append(Step(float(time_s), int(pid), name))
        self.steps += new
        return new

    def last(self, pid: int | None = None) -> Step | None:
        """The last step that was reached, by this process or by any."""
        self.read()
        return next((step for step in reversed(self.steps) if pid in (None, step.pid)), None)

    def mark(self) -> int:
        """How many steps there are so far."""
        self.read()
        return len(self.steps)

    def has(self, name: str, since: int = 0) -> bool:
        """Whether this step was reached after so many others."""
        self.read()
        return any(step.name == name for step in self.steps[since:])


@dataclass(frozen=True)
class Exit:
    """How a process of a member ended; `was_wanted` if the test made it end."""

    name: str
    pid: int
    code: int
    at_s: float
    was_wanted: bool
    words: str


@dataclass
class Member:
    """One name in a fleet, and the process that has it now."""

    name: str
    command: list[str]
    environment: dict[str, str]
    log: Path
    steps: StepLog
    restarts: bool = True
    failpoints: deque[str] = field(default_factory=deque)
    failpoint: str = ""
    process: subprocess.Popen[bytes] | None = None
    exits: list[Exit] = field(default_factory=list)
    n_starts: int = 0
    started_s: float = 0.0
    is_ending: bool = False
    n_failed_in_a_row: int = 0
    not_before_s: float = 0.0
    log_began: int = 0

    @property
    def pid(self) -> int:
        """Of the process that runs now, 0 if none does."""
        return self.process.pid if self.process is not None else 0

    def last_step(self) -> str:
        """The step that the process of now reached last, "" before the first."""
        step = self.steps.last(self.pid) if self.pid else None
        return step.name if step is not None else ""

    def last_steps(self, n: int) -> list[str]:
        """The steps that the process of now reached last, at most so many, the last one at the end."""
        self.steps.read()
        return [step.name for step in self.steps.steps if step.pid == self.pid][-n:]

    def is_stopped(self) -> bool:
        """Whether its process stands still after a SIGSTOP."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] == "T"

    def tail(self) -> str:
        """The end of what it has written."""
        with suppress(FileNotFoundError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])
        return ""


class Fleet:
    """The processes of one curation. Use it in a `with`; an error that leaves it carries the ends of all logs.

    Args:
        folder: for logs and lists of steps, and caches.
        settings: of Kafka.
        rule: the other settings, as the environment has them without the prefix: METADATA, THRESHOLD, SEED, ...
    """

    def __init__(self, folder: Path, settings: KafkaSettings, rule: Mapping[str, object]) -> None:
        self.folder = folder
        self.settings = settings
        self.members: dict[str, Member] = {}
        folder.mkdir(parents=True, exist_ok=True)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("STREAM_CURATE_")}
        of_rule = {f"STREAM_CURATE_{key}": str(value) for key, value in rule.items()}
        self._environment = clean | of_rule | dict(environment(settings)) | {"PYTHONFAULTHANDLER": "1"}
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, daemon=True, name="fleet")
        self._supervisor.start()
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.close()
        if error is not None:
            error.add_note(self.report())

    def close(self) -> None:
        """Kill all that is left, and forget nothing of what they wrote."""
        self._closing.set()
        if self._supervisor is not threading.current_thread():
            self._supervisor.join(10)
        with self._lock:
            for member in self.members.values():
                if member.process is not None:
                    _kill_group(member.process)
                    member.process.wait()
                    member.process = None
        atexit.unregister(self.close)

    # --- members

    def worker(self, name: str, *arguments: object, failpoints: Iterable[str] = (), **changes: Any) -> Member:
        """Start a worker; `changes` are further settings, as the environment has them without the prefix."""
        return self.start(name, "worker", *arguments, failpoints=failpoints, **changes)

    def settler(
        self, name: str, out: Path, *arguments: object, failpoints: Iterable[str] = (), **changes: Any
    ) -> Member:
        """Start a settler."""
        return self.start(name, "settler", "--out", out, *arguments, failpoints=failpoints, **changes)

    def start(
        self, name: str, *arguments: object, failpoints: Iterable[str] = (), restarts: bool = True, **changes: Any
    ) -> Member:
        """Start `stream-curate ARGUMENTS` as a member.

        Each of its processes takes the next failpoint, until none is left. With `--until end` it is not started again
        once it has ended with 0.
        """
        command = [sys.executable, "-m", "stream_curate", *map(str, arguments)]
        if setpriv := shutil.which("setpriv"):  # so that it ends even if this process is killed
            command = [setpriv, "--pdeathsig", "KILL", *command]
        steps = StepLog(self.folder / f"{name}.steps")
        variables = {f"STREAM_CURATE_{key}": str(value) for key, value in changes.items()}
        member = Member(
            name,
            command,
            self._environment | variables | {LOG_VARIABLE: str(steps.path)},
            self.folder / f"{name}.log",
            steps,
            restarts=restarts,
            failpoints=deque(failpoints),
        )
        with self._lock:
            assert name not in self.members or self.members[name].process is None, f"{name} runs already"
            if name in self.members:
                member.exits = self.members[name].exits
            self.members[name] = member
        # the system ends a process when the thread that started it ends, so the supervisor is the one who starts all
        self.wait_for(lambda: member.n_starts, 30, f"{name} to start", check=False)
        return member

    # --- signals

    def kill(self, name: str) -> str:
        """SIGKILL; returns the last step that it had reached. It is started again at once."""
        with self._lock:
            member = self.members[name]
            assert member.process is not None, f"{name} does not run"
            pid = member.pid
            member.is_ending = True
            os.kill(pid, signal.SIGKILL)
            member.process.wait()
            step = member.steps.last(pid)
            return step.name if step is not None else ""

    def stop(self, name: str) -> None:
        """SIGSTOP."""
        os.kill(self.members[name].pid, signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        """SIGCONT."""
        os.kill(self.members[name].pid, signal.SIGCONT)

    def terminate(self, name: str, timeout_s: float = 5.0, *, by: signal.Signals = signal.SIGTERM) -> int:
        """SIGTERM, and no new start; returns the exit code.

        Raises:
            AssertionError: when it takes longer.
        """
        with self._lock:
            member = self.members[name]
            member.restarts = False
            member.is_ending = True
            if member.process is not None:
                member.process.send_signal(by)
        self.wait_for(lambda: member.process is None, timeout_s, f"{name} to end after {by.name}", check=False)
        return member.exits[-1].code

    def start_again(self, name: str) -> None:
        """A member that `terminate` has ended."""
        with self._lock:
            member = self.members[name]
            n_starts = member.n_starts
            member.restarts, member.not_before_s = True, 0.0
        self.wait_for(lambda: member.n_starts > n_starts, 30, f"{name} to start", check=False)

    # --- waiting

    def wait_for(
        self, condition: Callable[[], Any], timeout_s: float, what: str, *, every_s: float = 0.02, check: bool = True
    ) -> Any:
        """Wait until `condition` gives something true, and return that.

        Raises:
            AssertionError: after `timeout_s`, or (with `check`) when a member ended in a way that none should.
        """
        end_s = time.monotonic() + timeout_s
        while not (found := condition()):
            if check:
                self.check()
            assert time.monotonic() < end_s, f"waited {timeout_s} s in vain for {what}"
            time.sleep(every_s)
        return found

    def wait_for_exit(self, *names: str, timeout_s: float) -> None:
        """Wait until these members, started with `--until end` or the like, have ended with 0."""

        def is_done(name: str) -> bool:
            member = self.members[name]
            return member.process is None and not member.restarts and member.exits[-1].code == 0

        self.wait_for(lambda: all(map(is_done, names)), timeout_s, f"{', '.join(names)} to end with 0")

    def exits(self) -> list[Exit]:
        """All that ended, in their order."""
        return sorted((each for member in self.members.values() for each in member.exits), key=lambda each: each.at_s)

    def check(self) -> None:
        """Raise AssertionError when a member ended by a bug, a wrong setting, or a signal that is not from here."""
        for each in self.exits():
            is_fine = each.code in EXPECTED_CODES or (each.was_wanted and each.code < 0)
            is_fine = is_fine and "Traceback" not in each.words
            assert is_fine, f"{each.name} ended with {each.code}:\n{each.words}"

    def report(self) -> str:
        """How members ended, and the ends of their logs."""
        lines = [f"the fleet in {self.folder}"]
        lines += [f"  {each.name} ended with {each.code}: {_last_line(each.words)}" for each in self.exits()[-20:]]
        for member in self.members.values():
            steps = " ".join(step.name for step in member.steps.steps[-6:])
            lines += [f"--- {member.name}: last steps: {steps}", member.tail()]
        return "\n".join(lines)

    # --- the supervisor

    def _supervise(self) -> None:
        while not self._closing.wait(_SUPERVISE_S):
            with self._lock:
                for member in self.members.values():
                    self._look_after(member)

    def _look_after(self, member: Member) -> None:
        now_s = time.monotonic()
        if member.process is not None:
            code = member.process.poll()
            if code is None:
                return
            self._take_note(member, code, now_s)
        if member.restarts and now_s >= member.not_before_s:
            self._launch(member)

    def _take_note(self, member: Member, code: int, now_s: float) -> None:
        words = ""
        with suppress(OSError), open(member.log, "rb") as log:
            log.seek(member.log_began)
            words = log.read().decode(errors="replace")[-4_000:]
        is_own = member.is_ending or (bool(member.failpoint) and code == -signal.SIGKILL)
        member.exits.append(Exit(member.name, member.pid, code, now_s, is_own, words))
        member.process = None
        if is_own or now_s - member.started_s > 10:
            member.n_failed_in_a_row = 0
        else:
            member.n_failed_in_a_row += 1
        wait_s = 0.1 * 2**member.n_failed_in_a_row if member.n_failed_in_a_row else 0.0
        member.not_before_s = now_s + min(wait_s, _MAX_BACK_OFF_S)
        if code == 0 and "end" in member.command:
            member.restarts = False

    def _launch(self, member: Member) -> None:
        variables = dict(member.environment)
        member.failpoint = member.failpoints.popleft() if member.failpoints else ""
        if member.failpoint:
            variables[VARIABLE] = member.failpoint
        with open(member.log, "ab") as log:
            member.log_began = log.tell()
            member.process = subprocess.Popen(
                member.command,
                env=variables,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        member.is_ending = False
        member.started_s = time.monotonic()
        member.n_starts += 1


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Also what a process may have started itself; each is the head of a group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _last_line(words: str) -> str:
    return (words.strip().splitlines() or [""])[-1][:300]
