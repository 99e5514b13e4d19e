"""The log of a role, and its metrics: what they say, and that nothing else gets in."""

from __future__ import annotations

import builtins
import json
import socket
import stat
import urllib.request
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from parties.errors import ConfigError, PeerLost, PolicyError
from parties.ledger import Entry
from tests.chaos.between_companies import free_port
from vfl.events import Event
from vfl.log import LEVELS, Log
from vfl.metrics_endpoint import Metrics, serving
from vfl.watch import Awaited, Began, Dialled, Kept, Network, Notice, Warned

SENT = Entry(1.0, "bank", "bank", "shop", "glm_exact.step", "Control", 200, 2, 1)
RECEIVED = Entry(1.0, "bank", "coordinator", "bank", "glm_exact.total", "Masked", 50, 1, 4, "the sum")
COURSE: tuple[Notice, ...] = (
    Event("bank", "starting"),
    Dialled("nobody listens"),
    Dialled("nobody listens"),
    Dialled(""),
    Began(1, -1),
    Event("bank", "training"),
    SENT,
    Awaited("glm_exact.total from coordinator"),
    Awaited(""),
    RECEIVED,
    Event("bank", "training", 1, float("nan")),
    Kept(1),
    Network("shop is reconnecting"),
    Network(""),
    Network("reconnecting to the coordinator, 30 s"),
    Network("reconnecting to the coordinator, 35 s"),
    Network("shop has come back; all go on from the last checkpoint"),
    Network("waiting for shop to join"),
    Began(2, 1),
    Warned("checkpoints cannot be written"),
)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def logged(folder: Path, level: str = "debug", error: BaseException | None = None, text: str = "") -> Any:
    log = Log(folder / "log.jsonl", "bank", "trial", level)
    for notice in COURSE:
        log(notice)
    log.end(error, text)
    return lines_of(folder / "log.jsonl")


def test_every_line_says_when_how_grave_who_and_what(tmp_path: Path) -> None:
    lines = logged(tmp_path)
    for line in lines:
        assert list(line)[:4] == ["time", "level", "role", "event"]
        assert datetime.fromisoformat(line["time"]).utcoffset() is not None and line["time"].endswith("Z")
        assert line["level"] in LEVELS and line["role"] == "bank"
    assert stat.S_IMODE((tmp_path / "log.jsonl").stat().st_mode) == 0o600
    assert [line["event"] for line in lines] == [
        "started",
        "phase begins",
        "not connected",
        "connected",
        "generation",
        "phase ends",
        "phase begins",
        "sent",
        "received",
        "round",
        "checkpoint",
        "peer lost",
        "network",
        "network",
        "peer back",
        "network",
        "generation",
        "warning",
        "phase ends",
        "ended",
    ]


def test_fields(tmp_path: Path) -> None:
    lines = {line["event"]: line for line in logged(tmp_path)}
    assert (lines["sent"]["peer"], lines["sent"]["bytes"], lines["sent"]["message"]) == ("shop", 100, "glm_exact.step")
    assert lines["received"]["waited"] >= 0
    assert lines["round"]["round"] == 1 and lines["round"]["loss"] is None
    assert lines["peer lost"]["peer"] == lines["peer back"]["peer"] == "shop"
    assert lines["generation"]["generation"] == 2 and lines["generation"]["after_round"] == 1


@pytest.mark.parametrize(("level", "least"), [("info", 1), ("warning", 2), ("error", 3)])
def test_levels(tmp_path: Path, level: str, least: int) -> None:
    lines = logged(tmp_path, level, PeerLost("shop is gone"))
    assert {line["level"] for line in lines} == set(LEVELS[least:])


@pytest.mark.parametrize(
    ("error", "event", "level"),
    [
        (PolicyError("policy models: no"), "refused", "error"),
        (PeerLost("shop is gone"), "failed", "error"),
        (KeyError("secret"), "failed", "error"),
        (KeyboardInterrupt(), "interrupted", "warning"),
    ],
)
def test_the_end(tmp_path: Path, error: BaseException, event: str, level: str) -> None:
    last = logged(tmp_path, error=error, text="at x.py:3")[-1]
    assert (last["event"], last["level"], last["error"]) == (event, level, type(error).__name__)
    assert "secret" not in json.dumps(last)


def test_a_run_has_one_log(tmp_path: Path) -> None:
    first = logged(tmp_path)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"time":"2026')  # the process died while it wrote
    assert len(logged(tmp_path)) == 2 * len(first)


def test_what_never_began_leaves_no_log(tmp_path: Path) -> None:
    Log(tmp_path / "log.jsonl", "bank", "trial").end(ConfigError("no"))
    assert not (tmp_path / "log.jsonl").exists()


def test_an_error_before_the_first_line_is_logged(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl", "bank", "trial", "error")
    log(Event("bank", "starting"))
    log.end(PeerLost("shop is gone"))
    log(Network("too late"))
    assert [line["event"] for line in lines_of(tmp_path / "log.jsonl")] == ["failed"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is simulated by /dev/full")
def test_a_full_disk_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    log = Log(tmp_path / "log.jsonl", "bank", "trial")
    for notice in COURSE:
        log(notice)
    log.end()


def test_a_folder_that_is_gone_does_not_end_the_run(tmp_path: Path) -> None:
    log = Log(tmp_path / "nowhere" / "log.jsonl", "bank", "trial")
    for notice in COURSE:
        log(notice)
    log.end()


def metrics_of(address: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:  # noqa: S310 - our own address
        text = answer.read().decode()
    pairs = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


def test_metrics_of_a_party() -> None:
    pytest.importorskip("prometheus_client")
    metrics, port = Metrics("bank", "trial", ["bank", "shop"]), free_port()
    with serving(metrics, "127.0.0.1", port):
        before = metrics_of(f"127.0.0.1:{port}")
        assert before['vfl_connected{peer="coordinator"}'] == 0 and before["vfl_generation"] == 0
        for notice in COURSE:
            metrics(notice)
        after = metrics_of(f"127.0.0.1:{port}")
    assert after['vfl_sent_bytes_total{peer="shop"}'] == 100
    assert after['vfl_received_messages_total{peer="coordinator"}'] == 1
    assert after['vfl_phase{phase="training"}'] == 1 and after['vfl_phase{phase="saving"}'] == 0
    assert (after["vfl_rounds"], after["vfl_generation"]) == (1, 2)
    assert after['vfl_connected{peer="coordinator"}'] == 1 and after["vfl_reconnecting"] == 0
    assert after["vfl_waiting_seconds_total"] >= before["vfl_waiting_seconds_total"]
    with pytest.raises(OSError, match="refused"):
        metrics_of(f"127.0.0.1:{port}")


def test_metrics_of_the_coordinator() -> None:
    pytest.importorskip("prometheus_client")
    metrics, port = Metrics("coordinator", "trial", ["bank", "shop"]), free_port()
    with serving(metrics, "127.0.0.1", port):
        for notice, bank, shop in (
            (Network("waiting for bank, shop to join"), 0, 0),
            (Network("waiting for shop to join"), 1, 0),
            (Began(1, -1), 1, 1),
            (Network("bank is reconnecting"), 0, 1),
            (Network(""), 1, 1),
        ):
            metrics(notice)
            found = metrics_of(f"127.0.0.1:{port}")
            assert (found['vfl_connected{peer="bank"}'], found['vfl_connected{peer="shop"}']) == (bank, shop), notice


def test_a_port_that_is_taken() -> None:
    pytest.importorskip("prometheus_client")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"--metrics, got 127\.0\.0\.1:{port}, where nobody can listen"):
            serving(Metrics("bank", "trial", []), "127.0.0.1", port).__enter__()


def test_without_prometheus_client(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = builtins.__import__

    def lacking(name: str, *rest: Any, **options: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return honest(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", lacking)
    with pytest.raises(ConfigError, match=r"pip install 'vfl\[metrics\]'"):
        serving(Metrics("bank", "trial", []), "127.0.0.1", 1).__enter__()
