"""`vfl audit`: tables, messages, JSON; --verify on ledgers of every model, whole, cut and tampered with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from parties.ledger import Entry, read_ledger, write_ledger
from tests.runs.companies import Companies, make_boosted, make_companies
from tests.runs.conftest import Command

QUICK = ("--in-process", "--no-baselines")
ROLES = ("coordinator", "bank", "card-network")
MODELS: dict[str, Callable[[Path], Companies]] = {
    "exact": lambda folder: make_companies(folder, passive=1, rows=150, key_holder="active"),
    "quadratic": lambda folder: make_companies(folder, passive=1, rows=150, key_holder="coordinator"),
    "softmax": lambda folder: make_companies(folder, "softmax", passive=1, rows=150),
    "linear": lambda folder: make_companies(folder, "linear", passive=1, rows=150),
    "poisson": lambda folder: make_companies(folder, "poisson", passive=1, rows=150),
    "boosting": lambda folder: make_boosted(folder, passive=1, rows=150),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the key at the active party; nobody writes to it."""
    from vfl import cli

    folder = tmp_path_factory.mktemp("audited")
    assert (
        cli.execute(["run", str(MODELS["exact"](folder / "scenario").write()), "--out", str(folder / "out"), *QUICK])
        == 0
    )
    return folder / "out"


@pytest.fixture
def out(run: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(run, tmp_path / "out"))


def test_the_tables_say_how_everything_travelled(vfl: Command, run: Path) -> None:
    said = vfl("audit", run)
    assert said.code == 0 and said.stderr == ""
    for words in (
        *(f"What {name} learnt" for name in ROLES),
        "encrypted, key of bank",
        "masked tags",
        "plain, no data",
    ):
        assert words in said.stdout
    assert "encrypted (Paillier)" not in said.stdout
    lines = len(read_ledger(run / "ledger.jsonl"))
    assert f"{lines:,} messages" in said.stdout and "sealed end to end" in said.stdout


def test_a_narrow_terminal_cuts_nothing(vfl: Command, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = vfl("audit", run)
    assert "…" not in said.stdout
    heads = [line for line in said.stdout.splitlines() if line.split()[:1] in (["what"], ["message"])]
    assert len(heads) == 1 + len(ROLES) and all(line.split()[-1] == "bytes" and len(line) <= 80 for line in heads)


def test_every_role_knows_whose_key_it_was(vfl: Command, run: Path) -> None:
    """The coordinator is handed no public key; the report beside its folder says who has it."""
    for name in ROLES:
        said = vfl("audit", run / name)
        assert said.code == 0 and "encrypted, key of bank" in said.stdout


def test_messages_are_a_line_each(vfl: Command, run: Path) -> None:
    entries = read_ledger(run / "ledger.jsonl")
    said = vfl("audit", run, "--messages")
    lines = said.stdout.splitlines()
    assert said.code == 0 and len(lines) == len(entries)
    assert lines[0].split()[:5] == ["0.000", "s", "generation", "1", "bank"]
    for line, entry in zip(lines, entries, strict=True):
        assert f"{entry.sender} -> {entry.receiver} " in line and f" {entry.message} " in line
        assert f" {entry.values:,} values " in line and f" {entry.bytes:,} B " in line


def test_json_is_one_object(vfl: Command, run: Path) -> None:
    entries = read_ledger(run / "ledger.jsonl")
    said = json.loads(vfl("audit", run, "--json").stdout)
    assert set(said) == {"count", "bytes", "learnt", "sent"} and said["count"] == len(entries)
    for part, of in (("sent", entries), ("learnt", [entry for entry in entries if entry.discloses])):
        assert sum(line["count"] for line in said[part]) == len(of)
        assert sum(line["values"] for line in said[part]) == sum(entry.values for entry in of)
        assert sum(line["bytes"] for line in said[part]) == sum(entry.bytes for entry in of)
    assert {"what", "from", "to", "how", "count", "values", "bytes"} == set(said["learnt"][0])
    said = json.loads(vfl("audit", run, "--json", "--messages", "--verify").stdout)
    assert [line["content"] for line in said["messages"]] == [entry.content for entry in entries]
    assert said["verified"] == {
        "ledgers": 4,
        "lines": 3 * len(entries),
        "messages": len(entries),
        "cut": 0,
        "unseen": {},
    }


@pytest.mark.parametrize("model", MODELS)
def test_ledgers_of_every_model_agree(vfl: Command, tmp_path: Path, model: str) -> None:
    out = tmp_path / "out"
    assert vfl("run", MODELS[model](tmp_path / "scenario").write(), "--out", out, *QUICK).code == 0
    count = len(read_ledger(out / "ledger.jsonl"))
    said = vfl("audit", out, "--verify")
    assert (said.code, said.stderr) == (0, "")
    assert said.stdout == f"4 ledgers, {3 * count:,} lines: chains unbroken, all {count:,} messages agree\n"


def test_ledgers_of_processes_agree(vfl: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert vfl("run", MODELS["quadratic"](tmp_path / "scenario").write(), "--out", out, "--no-baselines").code == 0
    said = vfl("audit", out, "--verify", "--messages")
    assert said.code == 0 and "messages agree" in said.stdout.splitlines()[0]
    assert len(said.stdout.splitlines()) == 1 + len(read_ledger(out / "ledger.jsonl"))
    assert "key of coordinator" in said.stdout


def test_a_ledger_of_ones_own_is_compared_with_those_handed_over(vfl: Command, run: Path, tmp_path: Path) -> None:
    """Between companies each has only its own."""
    own = shutil.copytree(run / "bank", tmp_path / "bank")
    lines = len(read_ledger(own / "ledger.jsonl"))
    said = vfl("audit", own, "--verify")
    assert said.code == 0 and f"1 ledger, {lines} lines: chains unbroken, compared with nobody's" in said.stdout
    assert f"{lines} not compared, for the ledger of coordinator, card-network is not here (--against)" in said.stdout
    handed = shutil.copy(run / "card-network" / "ledger.jsonl", tmp_path / "theirs.jsonl")
    said = vfl("audit", own, "--verify", "--against", handed, "--against", run / "coordinator")
    assert said.code == 0 and said.stdout.startswith("3 ledgers, ") and "all " in said.stdout
    assert vfl("audit", own, "--verify", "--against", run).stdout == vfl("audit", run, "--verify").stdout.replace(
        "4 ledgers", "5 ledgers"
    ).replace(f"{3 * len(read_ledger(run / 'ledger.jsonl'))} lines", f"{_lines(run) + lines} lines")


def _lines(run: Path) -> int:
    return sum(len(read_ledger(file)) for file in (run / "ledger.jsonl", *run.glob("*/ledger.jsonl")))


def rewritten(path: Path, number: int, **fields: object) -> None:
    """Change one line, and write all digests of the chain anew, as the owner of a ledger can."""
    entries = read_ledger(path)
    entries[number] = msgspec.structs.replace(entries[number], **fields)
    write_ledger(path, entries)


def test_an_edit_is_named(vfl: Command, out: Path) -> None:
    path = out / "bank" / "ledger.jsonl"
    path.write_text(path.read_text().replace('"values":', '"values":1', 1))
    said = vfl("audit", out, "--verify")
    assert said.code == 2 and said.stdout == ""
    assert said.error.startswith(f"error: {path}, line 1: chain, got ")
    assert vfl("audit", out).code == 0  # it can still be looked at


def test_an_edit_with_a_chain_that_holds_is_named(vfl: Command, out: Path) -> None:
    own = out / "card-network" / "ledger.jsonl"
    entries = read_ledger(own)
    number = next(at for at, entry in enumerate(entries) if entry.discloses and entry.receiver == "card-network")
    rewritten(own, number, discloses="nothing at all")
    said = vfl("audit", out, "--verify")
    assert said.code == 2 and f"{own}, line {number + 1}: discloses of {entries[number].message} from" in said.error
    assert "got 'nothing at all', expected " in said.error


def test_a_top_ledger_that_differs_is_named(vfl: Command, out: Path) -> None:
    rewritten(out / "ledger.jsonl", 7, bytes=1)
    said = vfl("audit", out, "--verify")
    assert said.code == 2 and f"{out / 'ledger.jsonl'}, line 8: bytes of" in said.error


@pytest.mark.parametrize("name", ROLES)
def test_a_cut_end_is_named(vfl: Command, out: Path, name: str) -> None:
    path = out / name / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    said = vfl("audit", out, "--verify")
    assert said.code == 2 and "ledger.jsonl: got no " in said.error and str(path) in said.error


def test_a_missing_ledger_is_named(vfl: Command, out: Path) -> None:
    (out / "bank" / "ledger.jsonl").unlink()
    said = vfl("audit", out, "--verify")
    assert said.code == 2 and f"no ledger at {out / 'bank' / 'ledger.jsonl'}" in said.error


def test_a_ledger_of_another_run_is_named(vfl: Command, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert vfl("run", MODELS["exact"](tmp_path / "scenario").write(), "--out", other, *QUICK).code == 0
    said = vfl("audit", run / "bank", "--verify", "--against", other / "card-network")
    assert said.code == 2 and "content of " in said.error and "different runs" in said.error


def test_a_ledger_of_an_earlier_version(vfl: Command, tmp_path: Path) -> None:
    old = msgspec.to_builtins(Entry(1.0, "bank", "bank", "shop", "a.b", "Encrypted", 10, 2, 1, "sums"))
    for name in ("generation", "content", "chain"):
        del old[name]
    (tmp_path / "ledger.jsonl").write_bytes(msgspec.json.encode(old) + b"\n")
    said = vfl("audit", tmp_path)
    assert said.code == 0 and "encrypted (Paillier), sealed" in said.stdout
    said = vfl("audit", tmp_path, "--verify")
    assert said.code == 2 and "line 1: got no digests" in said.error


def test_wrong_options(vfl: Command, run: Path, tmp_path: Path) -> None:
    said = vfl("audit", run, "--against", run)
    assert said.code == 2 and "--against, got it without --verify" in said.error
    said = vfl("audit", run, "--verify", "--against", tmp_path)
    assert said.code == 2 and f"no ledger in {tmp_path}" in said.error
    said = vfl("audit", tmp_path / "nowhere", "--verify")
    assert said.code == 2 and "no ledger in" in said.error
