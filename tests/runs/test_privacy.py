"""What a run lets out: every role reads its own files only, and nothing that is written names an id or a label."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
from pathlib import Path

import pytest

from parties.wire import Message
from tests.runs.companies import Companies, make_companies, run_vfl
from tests.runs.conftest import Command

PROTOCOLS = [
    importlib.import_module(name)
    for name in (
        "parties.greeting",
        "psi.align",
        "psi.ecdh",
        "psi.verdict",
        "vfl.prepare",
        "vfl.glm_exact",
        "vfl.glm_quadratic",
        "vfl.scoring",
    )
]
AUDIT = """
import os, sys
_log = os.open(os.path.join(os.environ["OPEN_LOG"], str(os.getpid())), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(_log, " ".join(sys.orig_argv[1:]).encode() + b"\\n")

def _note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        os.write(_log, os.path.realpath(os.fsencode(arguments[0])) + b"\\n")

sys.addaudithook(_note)
"""


def opened_by_role(log: Path) -> dict[str, set[str]]:
    """Every path that the process of a role opened."""
    opened = {}
    for file in log.iterdir():
        command, *paths = file.read_text().splitlines()
        if match := re.search(r"-m vfl\.role (\S+)$", command):
            opened[match[1]] = set(paths)
    return opened


@pytest.mark.slow
def test_every_role_opens_its_own_files_only(tmp_path: Path) -> None:
    """Python tells of every file that a process opens; numpy, pandas and scikit-learn open theirs that way as well."""
    hook, log, out = tmp_path / "hook", tmp_path / "log", tmp_path / "out"
    hook.mkdir()
    log.mkdir()
    (hook / "sitecustomize.py").write_text(AUDIT)
    companies = make_companies(tmp_path / "scenario", rows=300)
    env = {"PYTHONPATH": str(hook), "OPEN_LOG": str(log)}
    said = run_vfl("run", companies.write(), "--out", out, env=env)
    assert said.code == 0, said.stderr
    opened = opened_by_role(log)
    assert set(opened) == {"coordinator", *companies.parties}
    for name, paths in opened.items():
        data = {path for path in paths if Path(path).is_relative_to(companies.folder)}
        own = {str(companies.folder / str(companies.parties[name]["data"]))} if name != "coordinator" else set()
        assert data == own
        written = {Path(path).relative_to(out) for path in paths if Path(path).is_relative_to(out)}
        assert written and {path.parts[1] for path in written} == {name}
        elsewhere = {path for path in paths if path.startswith(str(tmp_path))} - data
        assert all(Path(path).is_relative_to(out) or Path(path).is_relative_to(hook) for path in elsewhere)


def wire_tables() -> dict[str, Message]:
    return {
        message.name: message
        for module in PROTOCOLS
        for message in vars(module.Wire).values()
        if isinstance(message, Message)
    }


def leakage(module: object) -> str:
    """The leakage section of a protocol's docstring, on one line."""
    text = " ".join(inspect.getdoc(module).split())
    assert "Leakage" in text
    return text.partition("Leakage")[2]


@pytest.fixture(params=["logistic active", "logistic coordinator", "softmax active", "linear coordinator"])
def finished(request: pytest.FixtureRequest, vfl: Command, tmp_path: Path) -> tuple[Companies, Path]:
    model, holder = request.param.split()
    classes = {"logistic": ("zq-no", "zq-yes"), "softmax": ("zq-low", "zq-mid", "zq-high")}.get(model)
    companies = make_companies(
        tmp_path / "scenario", model, rows=250, classes=classes, key_holder=holder, messy=True, weights=True
    )
    if holder == "coordinator":
        companies.sections["training"] = {"newton_steps": 1, "curvature": "row"}
    said = vfl("run", companies.write(), "--out", tmp_path / "out", "--in-process", "--set", "training.max_iter=4")
    assert said.code == 0, said.stderr
    assert not [cell for cell in companies.secrets() if cell in said.stdout]
    return companies, tmp_path / "out"


def test_the_ledger_holds_what_the_tables_allow_and_the_leakage_lists_say(finished: tuple[Companies, Path]) -> None:
    companies, out = finished
    tables, roles = wire_tables(), {"coordinator": "Coordinator"}
    roles |= {name: str(party["role"]).title() for name, party in companies.parties.items()}
    for line in (out / "ledger.jsonl").read_text().splitlines():
        entry = json.loads(line)
        message = tables[entry["message"]]
        assert (entry["kind"], entry["discloses"]) == (message.payload.__name__, message.discloses)
        for end, kind in ((entry["sender"], message.src), (entry["receiver"], message.dst)):
            assert kind.__name__ in (roles[end], "DataParty") and (
                kind.__name__ != "DataParty" or end in companies.parties
            )
    sections = " ".join(leakage(module) for module in PROTOCOLS if module.__name__ != "parties.greeting")
    report = json.loads((out / "report.json").read_text())
    assert report["disclosures"]
    for line in report["disclosures"]:
        for part in line["what"].split("; "):
            assert part in sections, part


def test_nothing_that_all_may_read_holds_an_id_or_a_value(finished: tuple[Companies, Path]) -> None:
    companies, out = finished
    secrets = companies.secrets()
    assert len(secrets) > 1000 and any(secret.startswith("zq-") for secret in secrets) or companies.model == "linear"
    shared = [out / "report.json", out / "ledger.jsonl", *out.glob("*/ledger.jsonl")]
    for file in shared:
        text = file.read_text()
        assert not [secret for secret in secrets if secret in text], file
    assert os.listdir(out / "coordinator") == ["ledger.jsonl"]
    for name in ("card-network", "biller"):
        labels = {cell for cell in companies.tables["bank"]["outcome"] if len(cell) > 5}
        theirs = "".join(path.read_text(errors="replace") for path in (out / name).iterdir())
        assert not [label for label in labels if label in theirs]
