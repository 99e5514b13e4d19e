"""Estimates of the alignment by any protocol, and of a one-sided training: bytes and counts are those of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.runs.companies import make_companies
from tests.vfl.test_estimate import SPEEDS, both
from vfl.estimating import alignment
from vfl.estimating import estimate as estimating

OPTIONS: dict[str, dict[str, Any]] = {
    "kkrt": {"protocol": "kkrt"},
    "server-aided": {"protocol": "server-aided"},
    "mpsi of two": {"protocol": "mpsi"},
    "mpsi of three": {"protocol": "mpsi", "passive": 2},
    "padded": {"protocol": "ecdh", "pad_to": 2_000},
    "one-sided": {"protocol": "kkrt", "one_sided": True},
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimating, "calibrate", lambda privacy: SPEEDS)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("lengths", [(1_024, 16_384), (600, 900)], ids=["whole", "extrapolated"])
def test_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], lengths: Any) -> None:
    monkeypatch.setattr(alignment, "_USUAL_LENGTHS", lengths)
    monkeypatch.setattr(alignment, "_LENGTHS", {})
    lines = dict(options)
    passive = lines.pop("passive", 1)
    companies = make_companies(tmp_path / "scenario", model="linear", rows=1_500, passive=passive, alignment=lines)
    ours, run, _ = both(companies, tmp_path / "out")
    assert run["alignment"]["protocol"] == options["protocol"]
    exact = lengths[1] > 1_500
    assert ours.alignment_bytes == pytest.approx(run["alignment"]["bytes"], rel=0.01 if exact else 0.05)


@pytest.mark.parametrize("model", ["logistic", "linear"])
def test_one_sided_training(tmp_path: Path, model: str) -> None:
    companies = make_companies(tmp_path / "scenario", model=model, rows=400, passive=1, alignment={"one_sided": True})
    ours, run, links = both(companies, tmp_path / "out")
    assert ours.rounds == run["training"]["rounds"]
    assert (ours.encryptions, ours.decryptions) == (run["crypto"]["encryptions"], run["crypto"]["decryptions"])
    assert (ours.training_bytes, ours.training_messages) == (run["training"]["bytes"], run["training"]["messages"])
    assert ours.bytes == pytest.approx(sum(carried for _, carried in links.values()), rel=0.01)
