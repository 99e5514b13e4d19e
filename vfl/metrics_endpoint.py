"""What a role does as metrics for Prometheus, on an HTTP port that is off unless the user asks for it.

    vfl_info{job, role, version}                    1
    vfl_phase{phase}                                1 for the present phase, else 0
    vfl_rounds, vfl_generation                      rounds of the training that are done; generation of the run
    vfl_connected{peer}                             1 or 0: the coordinator has each party's, a party the coordinator's
    vfl_reconnecting                                1 while somebody's connection is broken for long enough to be shown
    vfl_sent_bytes_total{peer}, vfl_sent_messages_total{peer}, vfl_received_...
    vfl_waiting_seconds_total, vfl_computing_seconds_total

Bytes and messages are this role's own: what the coordinator relays unread is not among its own. Sizes, timing and
names of parties and phases are all that is told; there is no password and no encryption on this port, so that the
address should be one that only the monitoring can reach.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from parties.errors import ConfigError
from parties.ledger import Entry
from parties.link import COORDINATOR
from vfl import __version__
from vfl.events import PHASES
from vfl.watch import JOINING, RECONNECTING, Began, Dialled, Moment, Network, Notice

if TYPE_CHECKING:  # an extra, which need not be installed
    from prometheus_client.core import Metric

Rows = tuple[str, str, tuple[str, ...], dict[tuple[str, ...], float]]
"""Name, words, names of labels, and a value per labels."""


class Metrics:
    """Counts what a role tells, a `vfl.watch.Watch`; and a collector of prometheus-client.

    Parameters
    ----------
    role, job : str
        Name of the role, and of the job.
    parties : sequence of str
        Everyone in the job but the coordinator.
    """

    def __init__(self, role: str, job: str, parties: Sequence[str]) -> None:
        self._labels = {"role": role, "job": job, "version": __version__}
        self._role = role
        self._moment = Moment()
        self._order = threading.Lock()
        self._counts: dict[str, Counter[str]] = {
            name: Counter() for name in ("sent_bytes", "sent_messages", "received_bytes", "received_messages")
        }
        self._connected = dict.fromkeys(parties if role == COORDINATOR else (COORDINATOR,), False)
        self._reconnecting = False

    def __call__(self, notice: Notice) -> None:
        """Count one notice."""
        self._moment(notice)
        with self._order:
            match notice:
                case Entry():
                    self._count(notice)
                case Network(text):
                    self._network(text)
                case Dialled(trouble):
                    self._connected[COORDINATOR] = not trouble
                case Began():
                    self._connected = dict.fromkeys(self._connected, True)

    def _count(self, entry: Entry) -> None:
        way, peer = ("sent", entry.receiver) if entry.sender == self._role else ("received", entry.sender)
        self._counts[f"{way}_messages"][peer] += 1
        self._counts[f"{way}_bytes"][peer] += entry.bytes // max(entry.hops, 1)

    def _network(self, text: str) -> None:
        """Keep who has a connection: the coordinator tells of parties, a party of the coordinator."""
        away = RECONNECTING.match(text)
        joining = JOINING.match(text)
        self._reconnecting = "reconnecting" in text
        missing = {away[1]} if away else set(joining[1].split(", ")) if joining else set()
        if self._role == COORDINATOR:
            self._connected = {name: name not in missing for name in self._connected}
        elif text.startswith("reconnecting"):
            self._connected[COORDINATOR] = False

    def collect(self) -> Iterable[Metric]:
        """Everything as it stands, for prometheus-client."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for name, words, label, values in self._gauges():
            gauge = GaugeMetricFamily(f"vfl_{name}", words, labels=label)
            for key, value in values.items():
                gauge.add_metric(key, value)
            yield gauge
        for name, words, label, values in self._counters():
            counter = CounterMetricFamily(f"vfl_{name}", words, labels=label)
            for key, value in values.items():
                counter.add_metric(key, value)
            yield counter

    def _gauges(self) -> list[Rows]:
        moment = self._moment
        with self._order:
            connected = _by_peer(self._connected)
            reconnecting = float(self._reconnecting)
        return [
            ("info", "This process.", tuple(self._labels), {tuple(self._labels.values()): 1.0}),
            (
                "phase",
                "1 for the present phase.",
                ("phase",),
                {(name,): float(name == moment.phase) for name in PHASES},
            ),
            ("rounds", "Rounds of the training that are done.", (), {(): float(moment.round)}),
            ("generation", "Generation of the run; one more after every crash.", (), {(): float(moment.generation)}),
            ("connected", "Whether there is a connection, as far as this role was told.", ("peer",), connected),
            ("reconnecting", "Whether a broken connection has lasted.", (), {(): reconnecting}),
        ]

    def _counters(self) -> list[Rows]:
        waiting, computing = self._moment.seconds()
        with self._order:
            counts: list[Rows] = [
                (name, f"This role's own {name.replace('_', ' ')}.", ("peer",), _by_peer(found))
                for name, found in self._counts.items()
            ]
        return [
            *counts,
            ("waiting_seconds", "Seconds spent waiting for others.", (), {(): waiting}),
            ("computing_seconds", "Seconds spent on anything else.", (), {(): computing}),
        ]


def _by_peer(found: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    return {(peer,): float(value) for peer, value in found.items()}


@contextmanager
def serving(metrics: Metrics, host: str, port: int) -> Iterator[None]:
    """Serve the metrics over HTTP within the context.

    Raises
    ------
    ConfigError
        prometheus-client is not installed, or nobody can listen there.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise ConfigError(
            "--metrics needs prometheus-client, got no such package, expected it installed; run "
            "pip install 'vfl[metrics]', or leave --metrics out"
        ) from None
    registry = CollectorRegistry()
    registry.register(metrics)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise ConfigError(
            f"--metrics, got {host}:{port}, where nobody can listen ({error.strerror}); choose a free port and an "
            "address of this machine"
        ) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
