"""What is said of a split neural network before anything starts: torch, policies, labels, columns; nothing is left."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from parties.identity import make_identity, write_identity
from tests.runs.companies import Companies, files_in, toml
from tests.runs.conftest import Command
from tests.splitnn.trials import make_split

MODES = ["source-layer", "split"]
IDENTITIES = {name: make_identity(name) for name in ("coordinator", "bank", "card-network", "biller")}


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where nobody installed it."""
    find: Callable[..., ModuleSpec | None] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))


def between(companies: Companies) -> Path:
    """The companies' scenario cut into a job file and party files, with identities; guards are enforced there."""
    companies.write()
    folder = companies.folder
    job = [f"{key} = {toml(value)}" for key, value in companies.top.items()]
    for section, lines in companies.sections.items():
        job += [f"[{section}]", *(f"{key} = {toml(value)}" for key, value in lines.items())]
    job += ["[coordinator]", 'address = "[::1]:7700"', 'identity = "coordinator.pub"']
    write_identity(IDENTITIES["coordinator"], folder)
    for name, party in companies.parties.items():
        write_identity(IDENTITIES[name], folder)
        job += ["[[party]]", f'name = "{name}"', f'role = "{party["role"]}"', f'identity = "{name}.pub"']
        own = {key: value for key, value in party.items() if key not in ("role", "policy")}
        own |= {"name": name, "job": "job.toml", "identity": f"{name}.key"}
        lines = [f"{key} = {toml(value)}" for key, value in own.items()] + ["[policy]"]
        lines += [f"{key} = {toml(value)}" for key, value in dict(party["policy"]).items()]
        (folder / f"{name}.toml").write_text("\n".join(lines))
    (folder / "job.toml").write_text("\n".join(job))
    return folder


def refused(vfl: Command, companies: Companies, tmp_path: Path, *words: str) -> None:
    """Both commands refuse the scenario with the same line, and leave nothing behind."""
    companies.write()
    before = files_in(tmp_path)
    for command in (("run", "--out", tmp_path / "out", "--in-process", "--json"), ("check",)):
        said = vfl(command[0], companies.folder, *command[1:])
        assert said.code == 2 and said.error.startswith("error: "), said
        assert [word for word in words if word not in said.error] == [], said.error
    assert files_in(tmp_path) == before


# torch


@pytest.mark.parametrize("mode", MODES)
def test_a_missing_torch_is_said_before_anything_else(
    vfl: Command, tmp_path: Path, without_torch: None, mode: str
) -> None:
    companies = make_split(tmp_path / "files", rows=130, training={"mode": mode})
    for name, table in companies.tables.items():  # whatever else is wrong
        companies.tables[name] = table.head(0)
    refused(vfl, companies, tmp_path, "party 'bank': model 'splitnn' needs torch", "pip install 'vfl[nn]'")


@pytest.mark.parametrize(("mode", "needing"), [("source-layer", ("bank",)), ("split", ("bank", "biller"))])
def test_between_companies_torch_is_asked_of_those_who_need_it(
    vfl: Command, tmp_path: Path, without_torch: None, mode: str, needing: tuple[str, ...]
) -> None:
    folder = between(make_split(tmp_path / "files", rows=130, training={"mode": mode}))
    for name in ("bank", "biller"):
        checked = vfl("check", folder / f"{name}.toml")
        if name not in needing:
            assert (checked.code, checked.stderr) == (0, "") and "ready to join" in checked.stdout
            continue
        joined = vfl("join", folder / f"{name}.toml", "--out", tmp_path / "out")
        for said in (checked, joined):
            assert said.code == 2 and said.stdout == "", said
            assert f"party '{name}': model 'splitnn' needs torch, which is not installed here" in said.error
    assert not (tmp_path / "out").exists()


def test_other_models_need_no_torch(vfl: Command, tmp_path: Path, without_torch: None) -> None:
    companies = make_split(tmp_path / "files", rows=130)
    companies.top["model"] = "logistic"
    companies.sections["training"] = {}
    companies.write()
    assert vfl("check", companies.folder).code == 0


# policies


@pytest.mark.parametrize("name", ["bank", "card-network", "biller"])
@pytest.mark.parametrize("strict", [True, False])
def test_mode_split_takes_the_consent_of_every_party_on_one_machine_too(
    vfl: Command, tmp_path: Path, name: str, strict: bool
) -> None:
    companies = make_split(tmp_path / "files", rows=130, training={"mode": "split"})
    companies.sections["privacy"] = companies.sections["privacy"] | {"enforce": strict}
    companies.parties[name]["policy"] = {"key_bits": 512}
    refused(vfl, companies, tmp_path, f"party '{name}'", "embedding_gradients = true in its policy ([party.policy]")


def test_mode_split_passes_where_all_consent_and_needs_no_key(vfl: Command, tmp_path: Path) -> None:
    companies = make_split(tmp_path / "files", rows=130, training={"mode": "split"})
    companies.parties["biller"]["policy"] |= {"key_bits": 4096, "key_holder": ["coordinator"]}  # there is no key
    companies.sections["privacy"] = companies.sections["privacy"] | {"enforce": True}
    companies.write()
    said = vfl("check", companies.folder)
    assert said.code == 0 and "ready to run" in said.stdout and "Paillier" not in said.stdout
    assert "guard" not in said.stdout


def test_mode_split_between_companies_is_checked_by_each_for_itself(vfl: Command, tmp_path: Path) -> None:
    companies = make_split(tmp_path / "files", rows=130, training={"mode": "split"})
    companies.parties["biller"]["policy"] = {}
    folder = between(companies)
    assert vfl("check", folder / "bank.toml").code == 0
    said = vfl("check", folder / "biller.toml")
    assert said.code == 2 and said.error.startswith("error: embedding gradients: party 'biller' would exchange")


def test_views_of_all_columns_are_refused_where_guards_are_enforced(vfl: Command, tmp_path: Path) -> None:
    companies = make_split(tmp_path / "files", rows=130, training={"units": 3, "epochs": 2})
    companies.write()
    said = vfl("check", companies.folder)
    words = "first-layer views: party 'bank' would open up to 6 views of 6 passive columns (2 epochs of 3 units)"
    assert said.code == 0
    assert f"between companies this would be refused because {words}" in said.stdout
    companies.sections["privacy"] = companies.sections["privacy"] | {"enforce": True}
    refused(vfl, companies, tmp_path, words, "lower training.units or training.epochs")
    companies.sections["training"]["units"] = 2
    companies.write()
    said = vfl("check", companies.folder)
    assert said.code == 0 and "4 views of 6 passive columns (2 epochs of 2 units), more than half" in said.stdout


def test_views_are_told_where_all_consent(vfl: Command, tmp_path: Path) -> None:
    companies = make_split(tmp_path / "files", rows=130, passive=1, consent={"partial_scores": True})
    companies.sections["privacy"] = companies.sections["privacy"] | {"enforce": True}
    companies.write()
    said = vfl("check", companies.folder)
    assert said.code == 0 and "6 views of 3 passive columns" in said.stdout and "refused" not in said.stdout


def test_the_only_passive_party_shows_its_outputs_by_consent_alone(vfl: Command, tmp_path: Path) -> None:
    companies = make_split(tmp_path / "files", rows=130, passive=1)
    companies.write()
    said = vfl("check", companies.folder)
    assert "this would be refused because single passive party: party 'card-network'" in said.stdout
    folder = between(companies)
    said = vfl("check", folder / "card-network.toml")
    assert said.code == 2 and "would learn its very first-layer outputs" in said.error


def test_small_data_and_label_rank_are_no_matter_of_networks(vfl: Command, tmp_path: Path) -> None:
    """Passive parties learn no gradient: 130 rows are as good as 13,000."""
    companies = make_split(tmp_path / "files", rows=130, training={"units": 1, "epochs": 1})
    companies.sections["privacy"] = companies.sections["privacy"] | {"enforce": True}
    companies.write()
    said = vfl("check", companies.folder)
    assert said.code == 0 and "guard" not in said.stdout
    folder = between(companies)
    assert vfl("check", folder / "biller.toml").code == 0


# data


@pytest.mark.parametrize("mode", MODES)
def test_check_counts_the_columns_that_the_network_takes(vfl: Command, tmp_path: Path, mode: str) -> None:
    companies = make_split(tmp_path / "files", rows=200, messy=True, training={"mode": mode})
    companies.write()
    said = vfl("check", companies.folder)
    assert said.code == 0, said
    (line,) = (line for line in said.stdout.splitlines() if "columns after encoding" in line)
    assert [int(cell) for cell in line.split("│")[2:5]] == [8, 8, 8]
    assert 'bank: column "always" is the same in all training rows: left out' in said.stdout


def test_labels_without_a_difference_are_refused(vfl: Command, tmp_path: Path) -> None:
    companies = make_split(tmp_path / "files", "count", rows=130)
    companies.tables["bank"]["outcome"] = "3"
    refused(vfl, companies, tmp_path, "party 'bank'", "all labels", "the same")


def test_a_party_without_a_usable_column_is_refused(vfl: Command, tmp_path: Path) -> None:
    companies = make_split(tmp_path / "files", rows=130, columns=1)
    companies.tables["biller"]["x0"] = "1.5"
    refused(vfl, companies, tmp_path, "party 'biller' has no usable feature column")


def test_a_passive_party_of_mode_source_layer_never_loads_torch() -> None:
    """All that joining, coordinating, checking and estimating import, and what a party's own process does."""
    modules = "vfl.check, vfl.company, vfl.company_file, vfl.consent, vfl.launch, vfl.network_consent, vfl.prediction"
    code = f"import sys, {modules}, vfl.role, vfl.session, vfl.splitnn_part; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
