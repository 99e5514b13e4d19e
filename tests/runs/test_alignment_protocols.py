"""Whole runs by every protocol of alignment: the same model, what the report says, and what a policy refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

import psi.settings
from parties.errors import PolicyError
from tests.runs.companies import make_companies
from vfl.job_file import load_scenario
from vfl.report.summary import RunReport
from vfl.run import run_scenario

AIDED = {"protocol": "server-aided"}
LISTED = {"key_bits": 512, "alignment": ["ecdh", "server-aided"]}


def run(folder: Path, alignment: dict[str, Any], passive: int = 2, policy: Any = None, *overrides: str) -> RunReport:
    """A short training in one process."""
    companies = make_companies(folder, rows=130, passive=passive, training={"max_iter": 2}, alignment=alignment)
    for party in companies.parties.values():
        party["policy"] = policy or {"key_bits": 512}
    scenario = load_scenario(companies.write(), overrides)
    return run_scenario(scenario, folder / "out", lambda event: None, baselines=False, in_process=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[int, RunReport]:
    """Runs by ecdh with one and with two passive parties."""
    folder = tmp_path_factory.mktemp("ecdh")
    return {passive: run(folder / str(passive), {"protocol": "ecdh"}, passive) for passive in (1, 2)}


@pytest.mark.parametrize(
    ("protocol", "passive"), [("kkrt", 1), ("mpsi", 1), ("mpsi", 2), ("server-aided", 1), ("server-aided", 2)]
)
def test_the_model_does_not_depend_on_the_protocol(
    plain: dict[int, RunReport], tmp_path: Path, protocol: str, passive: int
) -> None:
    other = run(tmp_path / "scenario", {"protocol": protocol}, passive)
    assert other.alignment.protocol == protocol
    assert other.alignment.intersection == plain[passive].alignment.intersection
    assert (other.training.loss, other.metrics) == (plain[passive].training.loss, plain[passive].metrics)
    ledger = [msgspec.json.decode(line) for line in (tmp_path / "scenario/out/ledger.jsonl").read_bytes().splitlines()]
    around = ("greeting", "prepare", "glm_exact", "glm_quadratic", "scoring")
    aligned = [entry["bytes"] for entry in ledger if entry["message"].split(".")[0] not in around]
    assert other.alignment.bytes == sum(aligned)


def test_on_one_machine_server_aided_is_warned_of(tmp_path: Path) -> None:
    warned = [line for line in run(tmp_path, AIDED).warnings if "policy alignment" in line]
    assert len(warned) == 3
    assert all("between companies this would be refused" in line and "'server-aided'" in line for line in warned)


def test_where_guards_are_enforced_every_party_must_list_it(tmp_path: Path) -> None:
    enforce = "privacy.enforce=true"
    strict = {"protocol": "server-aided", "min_intersection": 100}
    with pytest.raises(PolicyError, match=r"^policy alignment: party 'bank' got protocol 'server-aided'"):
        run(tmp_path / "refused", strict, 2, None, enforce)
    report = run(tmp_path / "listed", strict, 2, LISTED | {"small_data": True}, enforce, "privacy.small_data=true")
    assert report.alignment.protocol == "server-aided"
    assert not [line for line in report.warnings if "policy alignment" in line]


def test_what_auto_chose_for_long_lists_is_warned_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psi.settings, "KKRT_FROM", 100)
    report = run(tmp_path / "long", {"protocol": "auto"}, 1)
    assert report.alignment.protocol == "kkrt"
    (line,) = [line for line in report.warnings if "kkrt" in line]
    assert "the coordinator together with 'bank' could test any id" in line
    assert not [line for line in run(tmp_path / "named", {"protocol": "kkrt"}, 1).warnings if "kkrt" in line]
