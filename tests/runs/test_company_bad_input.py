"""Identities, job and party files that cannot be used: exit code 2, one clear line, no secret in it, nothing left."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from parties.identity import make_identity, write_identity
from tests.runs.companies import Companies, files_in, make_boosted, make_companies, toml
from tests.runs.conftest import Command

Change = Callable[[Path], None]
CASES: dict[str, tuple[Change, tuple[str, ...]]] = {}
NAMES = ("bank", "card-network", "biller")
IDENTITIES = {name: make_identity(name) for name in ("coordinator", *NAMES)}
NOW = datetime.now(UTC)


def case(*told: str) -> Callable[[Change], Change]:
    """One way to spoil the bank's files, and words that the error must have."""

    def keep(change: Change) -> Change:
        CASES[change.__name__.strip("_").replace("_", " ")] = change, told
        return change

    return keep


def rewrite(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def replace_identity(folder: Path, name: str, **options: object) -> None:
    """Give somebody a new identity, in both of its files."""
    for suffix in ("key", "pub"):
        (folder / f"{name}.{suffix}").unlink()
    write_identity(make_identity(name, **options), folder)


# The party file


@case("bank.toml is empty")
def _empty(folder: Path) -> None:
    (folder / "bank.toml").write_text("\n")


@case("bank.toml, line 1", "malformed TOML")
def _malformed(folder: Path) -> None:
    (folder / "bank.toml").write_text("name = = 3\n")


@case("unknown key 'lable'", "did you mean 'label'")
def _unknown_key(folder: Path) -> None:
    rewrite(folder / "bank.toml", "label =", "lable =")


@case("malformed TOML", "Cannot overwrite a value")
def _key_given_twice(folder: Path) -> None:
    rewrite(folder / "bank.toml", "label =", "id = 'x'\nlabel =")


@case("role at the top of bank.toml", "the job file says who is active", "remove it")
def _role_in_a_party_file(folder: Path) -> None:
    rewrite(folder / "bank.toml", "label =", 'role = "active"\nlabel =')


@case("missing key 'identity' at the top of bank.toml")
def _no_identity(folder: Path) -> None:
    rewrite(folder / "bank.toml", 'identity = "bank.key"\n', "")


@case("missing key 'data' at the top of bank.toml")
def _no_data(folder: Path) -> None:
    rewrite(folder / "bank.toml", "data =", "drop = [] #")


@case("'telco'", "expected 'bank' or 'card-network' or 'biller'", "job.toml has no other party")
def _party_not_in_the_job(folder: Path) -> None:
    rewrite(folder / "bank.toml", 'name = "bank"', 'name = "telco"')


@case("label in passive party 'biller' of bank.toml")
def _name_of_another_party(folder: Path) -> None:
    rewrite(folder / "bank.toml", 'name = "bank"', 'name = "biller"')


@case("key_holder in [policy] of bank.toml", "'nobody'")
def _policy_of_nonsense(folder: Path) -> None:
    rewrite(folder / "bank.toml", "[policy]", '[policy]\nkey_holder = ["nobody"]')


@case("party at the top of bank.toml", "[policy]")
def _policy_as_in_a_scenario(folder: Path) -> None:
    rewrite(folder / "bank.toml", "[policy]", "[party.policy]")


# The private file


@case("bank.key", "no such file")
def _no_private_file(folder: Path) -> None:
    (folder / "bank.key").unlink()


@case("got mode 640", "chmod 600")
def _private_file_readable_by_others(folder: Path) -> None:
    (folder / "bank.key").chmod(0o640)


@case("got a public identity, expected the private file bank.key")
def _public_file_in_its_place(folder: Path) -> None:
    rewrite(folder / "bank.toml", '"bank.key"', '"bank.pub"')


@case("got the key of 'biller', expected that of 'bank'")
def _key_of_another_party(folder: Path) -> None:
    rewrite(folder / "bank.toml", '"bank.key"', '"biller.key"')


@case("got the key with fingerprint SHA256:", "expected SHA256:", "which job.toml pins for 'bank'")
def _key_that_the_job_does_not_pin(folder: Path) -> None:
    (folder / "bank.key").unlink()
    write_identity(make_identity("bank"), folder / "new")
    (folder / "new" / "bank.key").rename(folder / "bank.key")


@case("tls_key is not the key of its certificate")
def _key_file_put_together_from_two(folder: Path) -> None:
    mine, other = (IDENTITIES[name].tls_key.decode() for name in ("bank", "biller"))
    rewrite(folder / "bank.key", mine, other)


@case("malformed TOML")
def _key_file_cut_short(folder: Path) -> None:
    text = (folder / "bank.key").read_text()
    (folder / "bank.key").write_text(text[: len(text) // 2])


@case("more than 64 KiB")
def _csv_as_key(folder: Path) -> None:
    (folder / "bank.key").write_text("1,2,3\n" * 20_000)


# The job file


@case("job.toml' does not exist")
def _no_job(folder: Path) -> None:
    (folder / "job.toml").unlink()


@case("bank.toml, got a party file, expected a job file")
def _party_file_as_job(folder: Path) -> None:
    rewrite(folder / "bank.toml", '"job.toml"', '"bank.toml"')


@case("scenario.toml, got no table [coordinator]")
def _scenario_as_job(folder: Path) -> None:
    rewrite(folder / "bank.toml", '"job.toml"', '"scenario.toml"')


@case("address in [coordinator] of job.toml", "HOST:PORT")
def _address_without_a_port(folder: Path) -> None:
    rewrite(folder / "job.toml", ":7700", "")


@case("address in [coordinator] of job.toml", "got 'https://localhost:7700'")
def _address_as_a_link(folder: Path) -> None:
    rewrite(folder / "job.toml", "localhost:7700", "https://localhost:7700")


@case("missing key 'address' in [coordinator] of job.toml")
def _no_address(folder: Path) -> None:
    rewrite(folder / "job.toml", "address =", "#")


@case("unknown key 'heart_beat' in [network] of job.toml", "'heartbeat'")
def _unknown_key_of_the_network(folder: Path) -> None:
    rewrite(folder / "job.toml", "[network]", "[network]\nheart_beat = 3")


@case("notice in [network] of job.toml", "more than heartbeat")
def _notice_before_the_heartbeat(folder: Path) -> None:
    rewrite(folder / "job.toml", "[network]", "[network]\nheartbeat = 50")


@case("unknown key 'data' in [[party]] 'bank' of job.toml", "known: name, role, identity")
def _private_lines_in_the_job(folder: Path) -> None:
    rewrite(folder / "job.toml", 'identity = "bank.pub"', 'identity = "bank.pub"\ndata = "bank.csv"')


@case("'bank' twice", "unique")
def _party_twice(folder: Path) -> None:
    rewrite(folder / "job.toml", 'name = "biller"', 'name = "bank"')


@case("'coordinator'", "expected another one")
def _party_called_coordinator(folder: Path) -> None:
    rewrite(folder / "job.toml", 'name = "biller"', 'name = "coordinator"')


@case("got 2 active parties")
def _two_active_parties(folder: Path) -> None:
    rewrite(folder / "job.toml", '"passive"', '"active"')


@case("enforce in [privacy] of job.toml", "between companies guards refuse")
def _guards_that_only_warn(folder: Path) -> None:
    rewrite(folder / "job.toml", "[privacy]", "[privacy]\nenforce = false")


@case("protocol in [alignment] of job.toml, got 'kkrt' for 3 parties", "'mpsi' or 'ecdh'")
def _protocol_for_two(folder: Path) -> None:
    rewrite(folder / "job.toml", "[alignment]", '[alignment]\nprotocol = "kkrt"')


# What the job pins


@case("identity of 'biller'", "got a PRIVATE identity, expected biller.pub", "never leave")
def _private_file_pinned(folder: Path) -> None:
    rewrite(folder / "job.toml", '"biller.pub"', '"biller.key"')


@case("identity of 'biller'", "biller.pub", "no such file")
def _identity_missing(folder: Path) -> None:
    (folder / "biller.pub").unlink()


@case("got the identity of 'bank', expected that of 'biller'")
def _identity_of_another_party(folder: Path) -> None:
    rewrite(folder / "job.toml", '"biller.pub"', '"bank.pub"')


@case("identity of 'biller'", "altered or mixed up")
def _identity_altered(folder: Path) -> None:
    text = (folder / "biller.pub").read_text()
    line = next(line for line in text.splitlines() if line.startswith("sealing"))
    other = next(line for line in (folder / "bank.pub").read_text().splitlines() if line.startswith("sealing"))
    (folder / "biller.pub").write_text(text.replace(line, other))


@case("identity of 'biller'", "a certificate that expired on", "vfl keygen")
def _identity_expired(folder: Path) -> None:
    replace_identity(folder, "biller", start=NOW - timedelta(days=800))


@case("identity of 'coordinator'", "a certificate that is valid from", "check the clock")
def _identity_of_tomorrow(folder: Path) -> None:
    replace_identity(folder, "coordinator", start=NOW + timedelta(days=1))


@case("identity of 'bank'", "expired")
def _own_identity_expired(folder: Path) -> None:
    replace_identity(folder, "bank", days=1, start=NOW - timedelta(days=2))


# The data and the policy, as far as that goes alone


@case("bank data.csv", "no such file")
def _no_csv(folder: Path) -> None:
    (folder / "bank data.csv").unlink()


@case('label names the column "outcom"', '"outcome"')
def _no_label_column(folder: Path) -> None:
    rewrite(folder / "bank.toml", '"outcome"', '"outcom"')


@case("bank data.csv", "200 rows with an id", "at least alignment.min_intersection = 5000")
def _too_few_rows_whatever_the_others_bring(folder: Path) -> None:
    rewrite(folder / "job.toml", "[alignment]", "[alignment]\nmin_intersection = 5000")


@case("policy models: party 'bank' got model 'logistic', expected boosting")
def _model_that_the_policy_forbids(folder: Path) -> None:
    rewrite(folder / "bank.toml", "[policy]", '[policy]\nmodels = ["boosting"]')


@case("policy key_bits: party 'bank' got 512 bits, expected at least 2048")
def _keys_shorter_than_the_policy_allows(folder: Path) -> None:
    rewrite(folder / "bank.toml", "key_bits = 512", "")


@case("policy columns: party 'bank'", "'x1'")
def _columns_that_the_policy_does_not_list(folder: Path) -> None:
    rewrite(folder / "bank.toml", "[policy]", '[policy]\ncolumns = ["x0", "x2"]')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three companies whose files lie in one folder for the tests' sake."""
    folder = tmp_path / "companies"
    companies = make_companies(folder, classes=("zq-no", "zq-yes"), rows=200)
    companies.sections["privacy"]["small_data"] = True
    companies.write()
    write_company_files(companies)
    return folder


def write_company_files(companies: Companies) -> None:
    """Write job.toml, NAME.toml and everybody's identity beside the CSVs."""
    folder = companies.folder
    lines = [f"{key} = {toml(value)}" for key, value in companies.top.items()]
    lines += ["[coordinator]", 'address = "localhost:7700"', 'identity = "coordinator.pub"', "[network]"]
    for name, section in companies.sections.items():
        lines += [f"[{name}]", *(f"{key} = {toml(value)}" for key, value in section.items())]
    for name, party in companies.parties.items():
        lines += ["[[party]]", f'name = "{name}"', f"role = {toml(party['role'])}", f'identity = "{name}.pub"']
        own = [f"{key} = {toml(value)}" for key, value in party.items() if key != "role"]
        own += ["[policy]", "key_bits = 512", "small_data = true"]
        head = [f'name = "{name}"', 'job = "job.toml"', f'identity = "{name}.key"']
        (folder / f"{name}.toml").write_text("\n".join([*head, *own]) + "\n")
    (folder / "job.toml").write_text("\n".join(lines) + "\n")
    for identity in IDENTITIES.values():
        write_identity(identity, folder)


def secrets_in(folder: Path) -> set[str]:
    """Every line of a private file that is not in the public one beside it, and long cells of CSVs."""
    found: set[str] = set()
    for private in folder.glob("*.key"):
        public = folder / f"{private.stem}.pub"
        known = public.read_text() if public.exists() else ""
        lines = (line.split(" = ")[-1].strip('"') for line in private.read_text().splitlines())
        found |= {line for line in lines if len(line) > 20 and line not in known and "-----" not in line}
    for table in folder.glob("*.csv"):
        found |= {cell for line in table.read_text().splitlines() for cell in line.split(",") if cell[:3] == "zq-"}
        found |= {line.split(",")[0] for line in table.read_text().splitlines()[1:]}
    return found


@pytest.mark.parametrize("name", CASES)
def test_refused_in_one_line(vfl: Command, folder: Path, tmp_path: Path, name: str) -> None:
    secrets = secrets_in(folder)
    assert len(secrets) > 200
    change, told = CASES[name]
    change(folder)
    secrets |= secrets_in(folder)
    before = files_in(tmp_path)
    said = vfl("check", folder / "bank.toml")
    assert said.code == 2 and said.stdout == "", said.stdout
    assert said.stderr.count("\n") == 1 and all(words in said.error for words in told), said.error
    assert len(said.error) < 600
    assert not [secret for secret in secrets if secret in said.stderr]
    assert files_in(tmp_path) == before


@pytest.mark.parametrize("suffix", ["key", "pub", "csv"])
def test_files_that_are_neither_scenario_job_nor_party(vfl: Command, folder: Path, suffix: str) -> None:
    """A private file by mistake above all: none of it is shown."""
    file = folder / ("bank data.csv" if suffix == "csv" else f"bank.{suffix}")
    said = vfl("check", file)
    assert said.code == 2 and said.stdout == ""
    assert said.error and not [secret for secret in secrets_in(folder) if secret in said.stderr]


@pytest.mark.parametrize("name", NAMES)
def test_the_same_files_unspoilt(vfl: Command, folder: Path, tmp_path: Path, name: str) -> None:
    before = files_in(tmp_path)
    said = vfl("check", folder / f"{name}.toml")
    assert said.code == 0 and "ready to join" in said.stdout, said.stderr
    assert files_in(tmp_path) == before


def test_a_passive_party_refuses_small_data_before_anybody_talks(vfl: Command, folder: Path) -> None:
    rewrite(folder / "biller.toml", "small_data = true", "small_data = false")
    said = vfl("check", folder / "biller.toml")
    assert said.code == 2 and "small data: party 'biller'" in said.error
    assert vfl("check", folder / "bank.toml").code == 0  # whose labels are the others' matter


@pytest.mark.parametrize(("task", "name"), [("binary", "bank"), ("binary", "biller"), ("multiclass", "bank")])
def test_trees_between_companies(vfl: Command, tmp_path: Path, task: str, name: str) -> None:
    classes = ("zq-no", "zq-yes", "zq-perhaps")[: 2 + (task == "multiclass")]
    companies = make_boosted(tmp_path / "companies", task, classes=classes, rows=200)
    for party in companies.parties.values():
        del party["policy"]
    companies.write()
    write_company_files(companies)
    said = vfl("check", companies.folder / f"{name}.toml")
    assert said.code == 0 and "ready to join" in said.stdout, said.stderr
    rewrite(companies.folder / "job.toml", "[training]", "[training]\nmin_node_rows = 3")
    said = vfl("check", companies.folder / f"{name}.toml")
    if name == "bank":
        assert said.code == 0
    else:
        assert said.code == 2 and "min node rows: party 'biller'" in said.error
