"""Job and party files: read into one typed object each, the lines that must agree, every bad line refused in one."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parties.errors import ConfigError, VflError
from parties.identity import Identity, make_identity, write_identity
from parties.spec import PartySpec
from vfl import company_file, tables
from vfl.company_file import Company, Network, kind_of, load_company, load_joining, parse_address
from vfl.job import Job, job_fields
from vfl.job_file import build_scenario
from vfl.reference import reference
from vfl.tables import parse

JOB = """\
name = "credit"
model = "logistic"
seed = 7

[training]
l2 = 0.01

[coordinator]
address = "coordinator.example:7700"
identity = "coordinator.pub"

[[party]]
name = "bank"
role = "active"
identity = "bank.pub"

[[party]]
name = "shop"
role = "passive"
identity = "keys/shop.pub"
"""
BANK = """\
name = "bank"
job = "job.toml"
identity = "private/bank.key"
data = "data/bank.csv"
id = "customer_id"
label = "default"
positive = 1

[policy]
min_intersection = 50
"""
SHOP = """\
name = "shop"
job = "../job.toml"
identity = "shop.key"
data = "shop.csv"
id = ["client", "branch"]
state = "kept"
"""
IDENTITIES = {name: make_identity(name) for name in ("coordinator", "bank", "shop")}


def keep(identity: Identity, private: Path, public: Path) -> None:
    """Write an identity with its two files in different folders."""
    key, pub = write_identity(identity, private)
    public.mkdir(exist_ok=True)
    pub.rename(public / pub.name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job.toml").write_text(JOB)
    (tmp_path / "bank.toml").write_text(BANK)
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "shop.toml").write_text(SHOP)
    keep(IDENTITIES["coordinator"], tmp_path / "private", tmp_path)
    keep(IDENTITIES["bank"], tmp_path / "private", tmp_path)
    write_identity(IDENTITIES["shop"], tmp_path / "keys")
    return tmp_path


def edit(file: Path, old: str, new: str) -> Path:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    return file


def refusal(path: Path) -> str:
    """What loading a job or a party file says, which must be one line."""
    with pytest.raises(ConfigError) as caught:
        load_company(path) if path.name == "job.toml" else load_joining(path)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 700
    return text


# Job files


def test_a_job_file(folder: Path) -> None:
    company = load_company(folder / "job.toml")
    assert (company.host, company.port, company.address) == ("coordinator.example", 7700, "coordinator.example:7700")
    assert company.file == folder / "job.toml"
    assert (company.job.active, company.job.passive) == ("bank", ("shop",))
    assert (company.job.seed, company.job.training.l2, company.job.task) == (7, 0.01, "binary")
    assert company.coordinator == IDENTITIES["coordinator"].public
    assert company.identities == {name: IDENTITIES[name].public for name in ("bank", "shop")}
    assert list(company.pinned) == ["coordinator", "bank", "shop"]
    assert company.network == Network(heartbeat=5, notice=30, reconnect_timeout=300)


def test_guards_are_enforced_whatever_the_file_says(folder: Path) -> None:
    assert load_company(folder / "job.toml").job.privacy.enforce
    edit(folder / "job.toml", "[coordinator]", "[privacy]\nenforce = true\n[coordinator]")
    assert load_company(folder / "job.toml").job.privacy.enforce
    edit(folder / "job.toml", "enforce = true", "enforce = false")
    assert "enforce in [privacy] of job.toml, got false, expected true" in refusal(folder / "job.toml")


def test_the_same_job_as_a_scenario_with_guards(folder: Path) -> None:
    """What trains is one job, so that `vfl run --strict` and companies train the same model."""
    document: dict[str, Any] = parse(JOB, "job.toml", "a job")
    del document["coordinator"]
    for party in document["party"]:
        party |= {"data": "x.csv", "id": "i"} | ({"label": "y"} if party["role"] == "active" else {})
        del party["identity"]
    scenario = build_scenario(document, folder, file="scenario.toml", strict=True)
    assert load_company(folder / "job.toml").job == scenario.job


def test_lines_name_everything_that_must_agree(folder: Path) -> None:
    company = load_company(folder / "job.toml")
    lines = company.lines
    assert {key: lines[key] for key in job_fields(company.job)} == job_fields(company.job)
    assert set(lines) - set(job_fields(company.job)) == {
        *("coordinator.identity", "identity.bank", "identity.shop"),
        *("network.heartbeat", "network.notice", "network.reconnect_timeout"),
    }
    assert lines["privacy.enforce"] == "true"
    assert lines["identity.bank"] == IDENTITIES["bank"].public.fingerprint
    assert lines["coordinator.identity"] == IDENTITIES["coordinator"].public.fingerprint
    assert (lines["network.heartbeat"], lines["network.notice"]) == ("5.0", "30.0")
    assert not [line for line in lines.values() if "7700" in line or ".pub" in line or str(folder) in line]


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("seed = 7", "seed = 8", {"seed"}),
        ("l2 = 0.01", "l2 = 0.02", {"training.l2"}),
        ("[training]", "[network]\nheartbeat = 4\n[training]", {"network.heartbeat"}),
        ("[training]", "[network]\nheartbeat = 5\n[training]", set()),
        ("coordinator.example:7700", "10.0.0.1:80", set()),
        ("[training]", "# a comment\n[training]", set()),
    ],
)
def test_two_copies_of_a_job_differ_where_they_are_changed(folder: Path, old: str, new: str, changed: set[str]) -> None:
    one = load_company(folder / "job.toml")
    other = load_company(edit(folder / "job.toml", old, new))
    assert {key for key in one.lines if one.lines[key] != other.lines[key]} == changed
    assert (one.fingerprint == other.fingerprint) is (not changed)
    assert one.fingerprint.startswith("SHA256:")


def test_an_identity_put_in_another_ones_place_shows_in_the_lines(folder: Path) -> None:
    before = load_company(folder / "job.toml").lines
    (folder / "keys" / "shop.key").unlink()
    (folder / "keys" / "shop.pub").unlink()
    write_identity(make_identity("shop"), folder / "keys")
    after = load_company(folder / "job.toml").lines
    assert {key for key in before if before[key] != after[key]} == {"identity.shop"}


@pytest.mark.parametrize(
    ("address", "parsed", "shown"),
    [
        ("localhost:1", ("localhost", 1), "localhost:1"),
        ("127.0.0.1:65535", ("127.0.0.1", 65535), "127.0.0.1:65535"),
        ("[::1]:7700", ("::1", 7700), "[::1]:7700"),
        ("a-b.c_d.example:0080", ("a-b.c_d.example", 80), "a-b.c_d.example:80"),
    ],
)
def test_addresses(folder: Path, address: str, parsed: tuple[str, int], shown: str) -> None:
    company = load_company(edit(folder / "job.toml", "coordinator.example:7700", address))
    assert (company.host, company.port) == parsed == parse_address(address, "x")
    assert company.address == shown


@pytest.mark.parametrize(
    "address",
    [
        *("localhost", "localhost:", ":7700", "localhost:0", "localhost:65536", "localhost:-1", "localhost:http"),
        *("https://localhost:7700", "a@b:7700", "local host:7700", "::1:7700", "[::1]", "[]:7700", "[localhost]:7700"),
        *(
            "a/b:7700",
            "bücher.example:7700",
            "a:٣",
            "x" * 254 + ":1",
            "a:" + "1" * 5000,
            "a\tb:1",
            "[::1:7700",
            "::1]:77",
        ),
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT such as coordinator.example:7700") as caught:
        parse_address(address, "address in [coordinator] of job.toml")
    text = str(caught.value)
    assert text.startswith("address in [coordinator] of job.toml, got ") and len(text) < 300 and "\n" not in text


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("[coordinator]", "[coordinatr]", ["got no table [coordinator], expected a job file"]),
        ('name = "credit"\n', "", ["missing key 'name' at the top of job.toml"]),
        ("seed = 7", "sead = 7", ["unknown key 'sead' at the top of job.toml", "did you mean 'seed'?"]),
        ("l2 =", "l3 =", ["unknown key 'l3' in [training] of job.toml", "'l2'"]),
        ("l2 =", "max_depth =", ["max_depth in [training]", "belongs to boosting"]),
        ('model = "logistic"', 'model = "splitnn"', ["l2 in [training] of job.toml", "'splitnn'"]),
        ('model = "logistic"', 'model = "splitnnn"', ["model at the top of job.toml", "did you mean 'splitnn'?"]),
        (
            "[training]",
            '[alignment]\nprotocol = "hashes"\n[training]',
            ["protocol in [alignment]", "'hashes'", "'ecdh'"],
        ),
        ('address = "coordinator.example:7700"\n', "", ["missing key 'address' in [coordinator]"]),
        ('identity = "coordinator.pub"\n', "", ["missing key 'identity' in [coordinator]"]),
        ("address =", "adress =", ["unknown key 'adress' in [coordinator]", "'address'"]),
        ("coordinator.example:7700", "coordinator.example", ["address in [coordinator] of job.toml", "HOST:PORT"]),
        ('"coordinator.example:7700"', "7700", ["address in [coordinator]", "got 7700", "text"]),
        ('identity = "bank.pub"\n', "", ["missing key 'identity' in [[party]] 'bank'"]),
        ('identity = "bank.pub"', 'identity = ""', ["identity in [[party]] 'bank'", "non-empty text"]),
        ('identity = "bank.pub"', 'identity = "no.pub"', ["identity of 'bank'", "no.pub", "no such file"]),
        ('identity = "bank.pub"', 'identity = "a\\u0000b"', ["identity of 'bank'", "not a path"]),
        ('identity = "bank.pub"', 'identity = "private/bank.key"', ["got a PRIVATE identity, expected bank.pub"]),
        (
            'identity = "bank.pub"',
            'identity = "keys/shop.pub"',
            ["got the identity of 'shop', expected that of 'bank'"],
        ),
        ('identity = "bank.pub"', 'identity = "bank.toml"', ["identity of 'bank'", "other lines"]),
        (
            'identity = "coordinator.pub"',
            'identity = "bank.pub"',
            ["got the identity of 'bank', expected that of 'coordinator'"],
        ),
        ('identity = "bank.pub"', 'identity = "bank.pub"\ndata = "x.csv"', ["unknown key 'data' in [[party]] 'bank'"]),
        ('name = "shop"', 'name = "bank"', ["'bank' twice", "unique"]),
        ('name = "shop"', 'name = "coordinator"', ["'coordinator'", "expected another one"]),
        ('name = "shop"', 'name = "../shop"', ["name in [[party]]", "matching"]),
        ('role = "passive"', 'role = "active"', ["2 active parties"]),
        ('role = "active"', 'role = "passive"', ["no active party"]),
        ('role = "active"\n', "", ["missing key 'role' in [[party]] 'bank'"]),
        ("[training]", "[network]\nheart = 3\n[training]", ["unknown key 'heart' in [network]", "'heartbeat'"]),
        ("[training]", "[network]\nheartbeat = 0\n[training]", ["heartbeat in [network]", "got 0", "at least 0.05"]),
        ("[training]", "[network]\nheartbeat = nan\n[training]", ["heartbeat in [network]", "got nan"]),
        ("[training]", "[network]\nheartbeat = 30\n[training]", ["notice in [network]", "got 30 s", "heartbeat, 30 s"]),
        (
            "[training]",
            "[network]\nnotice = 301\n[training]",
            ["reconnect_timeout in [network]", "at least notice, 301"],
        ),
        ("[training]", "[network]\nreconnect_timeout = 1e9\n[training]", ["reconnect_timeout", "at most 604800"]),
        ("[coordinator]", "[[coordinator]]", ["coordinator at the top", "got tables", "expected a table"]),
        ("seed = 7", "seed = 7\njob = 3", ["got a party file, expected a job file"]),
        ("seed = 7", "seed = ", ["job.toml, line 3", "malformed TOML"]),
    ],
)
def test_bad_lines_of_a_job(folder: Path, old: str, new: str, parts: list[str]) -> None:
    message = refusal(edit(folder / "job.toml", old, new))
    assert [part for part in parts if part not in message] == [], message


def test_heartbeat_notice_and_timeout_may_be_as_near_as_this(folder: Path) -> None:
    edit(
        folder / "job.toml",
        "[training]",
        "[network]\nheartbeat = 0.05\nnotice = 0.1\nreconnect_timeout = 0.1\n[training]",
    )
    assert load_company(folder / "job.toml").network == Network(heartbeat=0.05, notice=0.1, reconnect_timeout=0.1)


def test_files_that_are_not_there_or_empty(folder: Path) -> None:
    (folder / "job.toml").write_text(" \n")
    assert "job.toml is empty, expected at least name, model, [coordinator]" in refusal(folder / "job.toml")
    (folder / "job.toml").unlink()
    assert "job file" in refusal(folder / "job.toml") and "does not exist" in refusal(folder / "job.toml")
    assert "job.toml' does not exist" in refusal(folder / "bank.toml")
    (folder / "bank.toml").unlink()
    assert "party file" in refusal(folder / "bank.toml") and "does not exist" in refusal(folder / "bank.toml")


@pytest.mark.parametrize("part", ["signing", "sealing", "certificate"])
def test_a_key_that_two_names_have(folder: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """A party that passes off another's public key as its own, with a signature that fits."""
    honest = company_file.read_public

    def mixed(path: Path, name: str) -> Any:
        found = honest(path, name)
        return found if name != "shop" else replace(found, **{part: getattr(IDENTITIES["bank"].public, part)})

    monkeypatch.setattr(company_file, "read_public", mixed)
    message = refusal(folder / "job.toml")
    assert "got a key of 'bank' for 'shop' too, expected one identity per name" in message


def test_an_expired_identity(folder: Path) -> None:
    (folder / "keys" / "shop.pub").unlink()
    old = make_identity("shop", start=datetime.now(UTC) - timedelta(days=731))
    _, public = write_identity(old, folder / "old")
    public.rename(folder / "keys" / "shop.pub")
    assert "identity of 'shop'" in refusal(folder / "job.toml") and "expired on" in refusal(folder / "job.toml")


# Party files


def test_party_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    bank, shop = load_joining(Path("bank.toml")), load_joining(folder / "keys" / "shop.toml")
    assert bank.company == replace(shop.company, file=bank.company.file) == load_company(Path("job.toml"))
    assert type(bank.spec) is PartySpec
    assert (bank.spec.name, bank.spec.role, bank.spec.label, bank.spec.positive) == ("bank", "active", "default", 1)
    assert (shop.spec.name, shop.spec.role, shop.spec.id_columns) == ("shop", "passive", ("client", "branch"))
    assert bank.spec.policy.min_intersection == 50
    assert bank.spec.data == os.path.realpath(folder / "data" / "bank.csv")
    assert bank.identity.public == IDENTITIES["bank"].public
    assert (bank.state, shop.state) == (folder / ".vfl" / "bank", folder / "keys" / "kept")
    assert not bank.state.exists()


def test_what_is_shown_of_a_party_holds_no_key(folder: Path) -> None:
    shown = repr(load_joining(folder / "bank.toml"))
    assert "PRIVATE" not in shown and "BEGIN" not in shown


def test_every_key_of_a_party_in_a_scenario_but_its_role_stands_in_a_party_file(folder: Path) -> None:
    lines = 'drop = ["a"]\ncategorical = ["b"]\nmissing_values = ["?"]\nencoding = "latin-1"\nsample_weight = "w"\n'
    edit(folder / "bank.toml", "[policy]", f'{lines}unknown_category = "ignore"\n[policy]')
    spec = load_joining(folder / "bank.toml").spec
    assert (spec.drop, spec.categorical, spec.missing_values) == (("a",), ("b",), ("?",))
    assert (spec.encoding, spec.sample_weight, spec.unknown_category) == ("latin-1", "w", "ignore")


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ('name = "bank"', 'name = "telco"', ["name at the top of bank.toml", "'telco'", "expected 'bank' or 'shop'"]),
        ('name = "bank"', 'name = "shop"', ["label in passive party 'shop' of bank.toml"]),
        ('name = "bank"', 'name = "coordinator"', ["'coordinator'", "expected 'bank' or 'shop'"]),
        ('name = "bank"\n', "", ["missing key 'name' at the top of bank.toml"]),
        ('name = "bank"', 'name = "bank"\nrole = "active"', ["role at the top of bank.toml", "'active'", "remove it"]),
        ('name = "bank"', 'name = "bank"\nseed = 3', ["unknown key 'seed' at the top of bank.toml"]),
        ('name = "bank"', 'name = "bank"\nroel = "active"', ["unknown key 'roel'", "known: name, data, id"]),
        ('job = "job.toml"\n', "", ["missing key 'job' at the top of bank.toml"]),
        ('job = "job.toml"', 'job = "bank.toml"', ["bank.toml, got a party file, expected a job file"]),
        ('job = "job.toml"', 'job = "no.toml"', ["job file", "no.toml' does not exist"]),
        ('job = "job.toml"', 'job = "a\\u0000"', ["job file", "not a path"]),
        ('identity = "private/bank.key"\n', "", ["missing key 'identity'"]),
        ("private/bank.key", "bank.pub", ["got a public identity, expected the private file bank.key"]),
        ("private/bank.key", "private/no.key", ["private/no.key", "no such file"]),
        ("private/bank.key", "keys/shop.key", ["got the key of 'shop', expected that of 'bank'"]),
        ('data = "data/bank.csv"\n', "", ["missing key 'data'"]),
        ("data/bank.csv", "a\\u0000.csv", ["data in party 'bank' of bank.toml", "zero byte"]),
        ('id = "customer_id"\n', "", ["missing key 'id'"]),
        ('label = "default"\n', "", ["label missing in active party 'bank' of bank.toml"]),
        ("positive = 1", 'positive = 1\nencoding = "utf-9"', ["encoding in party 'bank' of bank.toml", "'utf-9'"]),
        ("positive = 1", 'positive = 1\nstate = ""', ["state at the top of bank.toml", "non-empty text"]),
        ("positive = 1", 'positive = 1\nstate = "a\\u0000"', ["state at the top of bank.toml", "zero byte"]),
        ("[policy]", "[party.policy]", ["party at the top of bank.toml", "in [policy]"]),
        ("[policy]", "[[party]]", ["party at the top of bank.toml", "got tables", "in [policy]"]),
        ("min_intersection", "min_intersect", ["unknown key 'min_intersect' in [policy] of bank.toml"]),
        ("positive = 1", "monotone_constraints = { age = 1 }", ["monotone_constraints of party 'bank'", "'boosting'"]),
        ("positive = 1", "positive = 1\nlabel = 3", ["bank.toml, line 8", "malformed TOML"]),
    ],
)
def test_bad_lines_of_a_party(folder: Path, old: str, new: str, parts: list[str]) -> None:
    message = refusal(edit(folder / "bank.toml", old, new))
    assert [part for part in parts if part not in message] == [], message


def test_a_key_that_the_job_does_not_pin(folder: Path) -> None:
    other = make_identity("bank")
    write_identity(other, folder / "new")
    message = refusal(edit(folder / "bank.toml", "private/bank.key", "new/bank.key"))
    assert f"got the key with fingerprint {other.public.fingerprint}" in message
    assert f"expected {IDENTITIES['bank'].public.fingerprint}, which job.toml pins for 'bank'" in message


def test_a_key_that_others_may_read(folder: Path) -> None:
    (folder / "private" / "bank.key").chmod(0o644)
    assert "got mode 644" in refusal(folder / "bank.toml")


def test_which_file_is_which() -> None:
    kinds = [kind_of(parse(text, "x", "y")) for text in (JOB, BANK, SHOP, 'name = "x"\nmodel = "linear"')]
    assert kinds == ["job", "party", "party", "scenario"]


def test_the_reference_lists_the_new_keys_and_repeats_none() -> None:
    _, job, party = reference().split("\n## Keys of a ")[0:3]
    for key in ("heartbeat", "notice", "reconnect_timeout", "address"):
        assert job.count(f"`{key}`") == 1
    assert "| network | `notice` | a number, at least 0.1, at most 3600 | `30.0` |" in job
    assert "`min_intersection`" not in job + party.split("## Not")[0] and "| top | `role`" not in party
    for key in ("job", "identity", "state"):
        assert f"| top | `{key}` |" in party


def test_jobs_survive_json(folder: Path) -> None:
    job = load_company(folder / "job.toml").job
    assert msgspec.json.decode(msgspec.json.encode(job), type=Job) == job


VALUES = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(["bank.pub", "..", "\0", "[::1]:7"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)
JOB_KEYS = ["name", "task", "coordinator", "network", "party", "x"]
PARTY_KEYS = ["name", "job", "identity", "data", "id", "label", "state", "policy", "role", "party"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(key=st.sampled_from(JOB_KEYS), value=VALUES)
def test_any_value_in_a_job_is_fine_or_refused_in_one_line(folder: Path, key: str, value: object) -> None:
    any_value(folder / "job.toml", JOB, key, value)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(key=st.sampled_from(PARTY_KEYS), value=VALUES)
def test_any_value_in_a_party_is_fine_or_refused_in_one_line(folder: Path, key: str, value: object) -> None:
    any_value(folder / "bank.toml", BANK, key, value)


def any_value(file: Path, text: str, key: str, value: object) -> None:
    """Load a file with one value replaced at its top, as if TOML could write every value."""
    changed, honest = parse(text, "x", "y") | {key: value}, tables.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "load", lambda path, *rest: changed if path == file else honest(path, *rest))
        try:
            found = load_company(file) if file.name == "job.toml" else load_joining(file).company
        except VflError as error:
            assert "\n" not in str(error) and len(str(error)) < 2000
        else:
            assert isinstance(found, Company)
