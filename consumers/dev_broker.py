"""A real Kafka broker for development and tests, from its Maven jars: no container, nothing to install but Java.

    python -m consumers.dev_broker start      # what `make kafka` does
    python -m consumers.dev_broker stop

It works in a checkout only, and is no way to run Kafka in production: one broker, one copy of everything. The jars are
those of deploy/kafka/pom.xml, fetched once. A broker's folder holds its settings, its data and its log (broker.log);
started again on the same folder it has the same port and the same data.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from stream_curate import exit_codes
from stream_curate.errors import StreamCurateError

REPOSITORY = Path(__file__).resolve().parent.parent
OUT = REPOSITORY / "out" / "kafka"
USUAL_PORT = 9092
HEAP_MIB = 512

_POM = REPOSITORY / "deploy" / "kafka" / "pom.xml"
_LOG_SETTINGS = REPOSITORY / "deploy" / "kafka" / "log4j2.properties"
_STARTED = b"Kafka Server started"
_POLL_S = 0.05
_TAIL_BYTES = 3_000

# Short times, so that tests see a dead broker, member or transaction soon; one broker, so one copy.
_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listeners=PLAIN://127.0.0.1:{port},{more_listeners}CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAIN://127.0.0.1:{port}{more_advertised}
listener.security.protocol.map=PLAIN:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAIN
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""


class DevBrokerError(StreamCurateError):
    """The broker cannot be started; the message ends with what it logged last."""

    exit_code = exit_codes.KAFKA


class DevBroker:
    """One broker with a folder of its own.

    Args:
        folder: where its settings, data and log are.
        port: where it listens, on 127.0.0.1. None: where it did before, or any free port.
        proxy_port: the port of a proxy that clients of a second listener are sent to; the proxy passes everything on to
            `behind_proxy`. Only for a new folder.

    Attributes:
        port: where it listens.
        bootstrap: the same as `host:port`.
        behind_proxy: the port of the second listener, None if there is none.
    """

    def __init__(self, folder: Path, *, port: int | None = None, proxy_port: int | None = None) -> None:
        self.folder = folder.resolve()
        self._properties = self.folder / "server.properties"
        self._pid_file = self.folder / "pid"
        self.log_file = self.folder / "broker.log"
        self._process: subprocess.Popen[bytes] | None = None
        if self._properties.exists() and (port is None or f":{port}," in self._properties.read_text()):
            found = dict(re.findall(r"(PLAIN|PROXIED)://127\.0\.0\.1:(\d+),", self._properties.read_text()))
            self.port = int(found["PLAIN"])
            self.behind_proxy = int(found["PROXIED"]) if "PROXIED" in found else None
        else:
            self.port = port if port is not None else free_port()
            self.behind_proxy = free_port() if proxy_port is not None else None
            self._write_properties(proxy_port)

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, timeout_s: float = 60) -> None:
        """Start it, unless it runs, and wait until it takes requests.

        Raises:
            DevBrokerError: when it ends instead, or the time is over.
        """
        if self.is_running():
            return
        classpath = f"{fetch_jars()}/*"
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(classpath)
        command = [
            "java",
            f"-Xms{HEAP_MIB // 2}m",
            f"-Xmx{HEAP_MIB}m",
            "-XX:+UseG1GC",
            f"-Dlog4j2.configurationFile={_LOG_SETTINGS}",
            "-cp",
            classpath,
            "kafka.Kafka",
            str(self._properties),
        ]
        logged = self.log_file.stat().st_size if self.log_file.exists() else 0
        with open(self.log_file, "ab") as log:
            # a session of its own, so that Ctrl-C in the terminal does not end it
            self._process = subprocess.Popen(  # noqa: S603 - our own words
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._pid_file.write_text(str(self._process.pid))
        end_s = time.monotonic() + timeout_s
        while not (_STARTED in self._logged_from(logged) and _answers(self.port)):
            if self._process.poll() is not None:
                self._pid_file.unlink()
                raise DevBrokerError(f"the broker ended at once:\n{self._tail()}")
            if time.monotonic() > end_s:
                self.kill()
                raise DevBrokerError(f"the broker did not start within {timeout_s} s:\n{self._tail()}")
            time.sleep(_POLL_S)

    def stop(self, timeout_s: float = 30) -> None:
        """End it in order, or by force when the time is over."""
        self._end(signal.SIGTERM, timeout_s)

    def kill(self) -> None:
        """End it at once, as a crash does."""
        self._end(signal.SIGKILL, 10)

    def restart(self) -> None:
        """Stop it in order and start it on the same port and data."""
        self.stop()
        self.start()

    def is_running(self) -> bool:
        """Whether its process is there, started by whomever."""
        return self._pid() is not None

    def remove(self) -> None:
        """End it and delete its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _pid(self) -> int | None:
        if self._process is not None:
            return self._process.pid if self._process.poll() is None else None
        try:
            pid = int(self._pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        # the number may be another process's by now
        command = ["ps", "-ww", "-o", "args=", "-p", str(pid)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
        return pid if str(self._properties) in found.stdout else None

    def _end(self, number: signal.Signals, timeout_s: float) -> None:
        pid = self._pid()
        if pid is not None:
            os.kill(pid, number)
            end_s = time.monotonic() + timeout_s
            while self._pid() is not None:
                if time.monotonic() > end_s:
                    os.kill(pid, signal.SIGKILL)
                    end_s += timeout_s
                time.sleep(_POLL_S)
        self._process = None
        self._pid_file.unlink(missing_ok=True)

    def _write_properties(self, proxy_port: int | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        proxied = self.behind_proxy is not None
        self._properties.write_text(
            _PROPERTIES.format(
                port=self.port,
                controller=free_port(),
                data=self.folder / "data",
                more_listeners=f"PROXIED://127.0.0.1:{self.behind_proxy}," if proxied else "",
                more_advertised=f",PROXIED://127.0.0.1:{proxy_port}" if proxied else "",
            )
        )

    def _format(self, classpath: str) -> None:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = ["java", "-cp", classpath, "kafka.tools.StorageTool", "format"]
        _run([*tool, f"--cluster-id={cluster_id}", "--config", str(self._properties)])

    def _logged_from(self, place: int) -> bytes:
        with open(self.log_file, "rb") as log:
            log.seek(place)
            return log.read()

    def _tail(self) -> str:
        return self._logged_from(max(0, self.log_file.stat().st_size - _TAIL_BYTES)).decode("utf-8", "replace")


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetch_jars() -> Path:
    """The folder with the jars of deploy/kafka/pom.xml, filled by Maven when it is not there yet.

    Raises:
        DevBrokerError: when Java or Maven is missing or fails.
    """
    folder = OUT / f"jars-{hashlib.sha256(_POM.read_bytes()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    OUT.mkdir(parents=True, exist_ok=True)
    fetched = Path(tempfile.mkdtemp(prefix="jars-", dir=OUT))
    try:
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={fetched}"]
        _run(["mvn", "--batch-mode", "--quiet", "-f", str(_POM), *goal])
        if not folder.is_dir():  # another process may have been faster
            fetched.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    return folder


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    except FileNotFoundError:
        raise DevBrokerError(
            f"{command[0]} is needed for the development broker and is not installed (Debian: openjdk-17-jre, maven)"
        ) from None
    if done.returncode:
        raise DevBrokerError(f"{command[0]} failed:\n{(done.stdout + done.stderr)[-_TAIL_BYTES:]}")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> None:
    """Start or stop the broker of a folder from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m consumers.dev_broker", description="A Kafka broker for development"
    )
    parser.add_argument("action", choices=["start", "stop", "kill"])
    parser.add_argument(
        "--folder", type=Path, default=OUT / "dev", help="settings, data and log (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, help=f"default: where it was before, {USUAL_PORT}, or a free one")
    given = parser.parse_args()
    port = given.port
    is_new = not (given.folder / "server.properties").exists()
    if port is None and is_new and given.action == "start" and not _answers(USUAL_PORT):
        port = USUAL_PORT
    if given.action != "start" and is_new:
        return
    broker = DevBroker(given.folder, port=port)
    if given.action != "start":
        broker.stop() if given.action == "stop" else broker.kill()
        return
    broker.start()
    (given.folder / "bootstrap").write_text(broker.bootstrap + "\n")
    print(f"Kafka runs at {broker.bootstrap}; its log is {broker.log_file}")
    if broker.port != USUAL_PORT:
        print(f"export STREAM_CURATE_KAFKA__BOOTSTRAP_SERVERS={broker.bootstrap}")


if __name__ == "__main__":
    try:
        main()
    except DevBrokerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
