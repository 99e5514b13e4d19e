"""Silos in job and party files: a name, a key and a file of their own, and what everybody must see alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from parties.errors import ConfigError
from parties.identity import make_identity, read_identity, write_identity
from vfl.company_file import load_company, load_joining

JOB = """\
name = "credit"
model = "logistic"

[coordinator]
address = "coordinator.example:7700"
identity = "coordinator.pub"

[[party]]
name = "bank"
role = "active"
identity = "bank.pub"

[[party]]
name = "hospitals"
role = "passive"

[[party.silo]]
name = "north"
identity = "hospitals.north.pub"

[[party.silo]]
name = "south"
identity = "keys/hospitals.south.pub"
"""
NORTH = """\
name = "hospitals.north"
job = "job.toml"
identity = "hospitals.north.key"
data = "north.csv"
id = "patient"

[policy]
two_silos = true
"""
NAMES = ("coordinator", "bank", "hospitals.north", "hospitals.south")
IDENTITIES = {name: make_identity(name) for name in NAMES}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "job.toml").write_text(JOB)
    (tmp_path / "north.toml").write_text(NORTH)
    for name in NAMES[:3]:
        write_identity(IDENTITIES[name], tmp_path)
    write_identity(IDENTITIES["hospitals.south"], tmp_path / "keys")
    return tmp_path


def edit(file: Path, old: str, new: str) -> Path:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    return file


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_company(path) if path.name == "job.toml" else load_joining(path)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 700
    return text


def test_every_silo_is_pinned_like_a_party(folder: Path) -> None:
    company = load_company(folder / "job.toml")
    assert [member.name for member in company.job.parties] == ["bank", "hospitals.north", "hospitals.south"]
    assert company.job.passive_holders == {"hospitals": ("hospitals.north", "hospitals.south")}
    assert company.identities == {name: IDENTITIES[name].public for name in NAMES[1:]}
    assert list(company.pinned) == list(NAMES)


def test_a_silo_joins_with_a_file_of_its_own(folder: Path) -> None:
    joining = load_joining(folder / "north.toml")
    assert (joining.spec.name, joining.spec.role, joining.spec.holder) == ("hospitals.north", "passive", "hospitals")
    assert joining.spec.policy.two_silos
    assert joining.state == folder / ".vfl" / "hospitals.north"
    assert joining.identity.public == IDENTITIES["hospitals.north"].public


def test_the_handshake_covers_silos_and_their_order(folder: Path) -> None:
    lines = load_company(folder / "job.toml").lines
    assert (lines["party.2"], lines["party.3"]) == ("hospitals.north passive", "hospitals.south passive")
    assert lines["identity.hospitals.south"] == IDENTITIES["hospitals.south"].public.fingerprint
    swapped = JOB.replace('"north"', '"x"').replace('"south"', '"north"').replace('"x"', '"south"')
    swapped = swapped.replace("hospitals.north.pub", "y").replace("keys/hospitals.south.pub", "hospitals.north.pub")
    (folder / "job.toml").write_text(swapped.replace('"y"', '"keys/hospitals.south.pub"'))
    others = load_company(folder / "job.toml").lines
    assert {key for key in lines if lines[key] != others[key]} == {"party.2", "party.3"}


def test_a_silo_elsewhere_is_another_job(folder: Path) -> None:
    before = load_company(folder / "job.toml").fingerprint
    renamed = make_identity("hospitals.east")
    write_identity(renamed, folder)
    edit(folder / "job.toml", 'name = "north"\nidentity = "hospitals.north.pub"', 'name = "east"\nidentity = "e.pub"')
    (folder / "hospitals.east.pub").rename(folder / "e.pub")
    assert load_company(folder / "job.toml").fingerprint != before


@pytest.mark.parametrize("name", ["hospitals.north", "a.b", "0.0", "x_1.y-2"])
def test_identities_of_silos_are_written_and_read(name: str, tmp_path: Path) -> None:
    identity = make_identity(name)
    key, public = write_identity(identity, tmp_path)
    assert (key.name, public.name) == (f"{name}.key", f"{name}.pub")
    assert read_identity(key).public == identity.public


@pytest.mark.parametrize("name", ["a.b.c", ".a", "a.", "A.b", "a..b", "../a", "a.b\n"])
def test_other_names_with_dots_are_no_silos(name: str) -> None:
    with pytest.raises(ConfigError):
        make_identity(name)


BAD = {
    "a dotted party": (
        'name = "bank"\nrole = "active"',
        'name = "bank.head"\nrole = "active"',
        ["name in [[party]] 'bank.head' of job.toml", "without a dot"],
    ),
    "the same silo twice": ('name = "south"', 'name = "north"', ["name of a silo", "'hospitals'", "'north' twice"]),
    "no identity": ('identity = "hospitals.north.pub"\n', "", ["missing key 'identity' in silo 'north' of party"]),
    "a scenario's line": (
        'identity = "hospitals.north.pub"',
        'identity = "hospitals.north.pub"\ndata = "n.csv"',
        ["unknown key 'data' in silo 'north' of party 'hospitals' of job.toml", "did you mean"],
    ),
    "an identity of the party": (
        'role = "passive"',
        'role = "passive"\nidentity = "bank.pub"',
        ["identity in [[party]] 'hospitals' of job.toml", "the identity of each silo", "remove the line"],
    ),
    "another's identity": (
        '"hospitals.north.pub"',
        '"bank.pub"',
        ["got the identity of 'bank', expected that of 'hospitals.north'"],
    ),
    "a role of its own": (
        'identity = "hospitals.north.pub"',
        'identity = "hospitals.north.pub"\nrole = "active"',
        ["unknown key 'role' in silo 'north'"],
    ),
    "kkrt": ("[coordinator]", '[alignment]\nprotocol = "kkrt"\n[coordinator]', ["got 'kkrt'", "'server-aided'"]),
    "the key at the coordinator": (
        "[coordinator]",
        '[privacy]\nkey_holder = "coordinator"\n[coordinator]',
        ["key_holder in [privacy] of job.toml", "with silos the active party holds the key"],
    ),
    "silos alone, of which there is one": (
        '[[party]]\nname = "bank"\nrole = "active"\nidentity = "bank.pub"\n',
        "",
        ["role in job.toml", "no active party"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_lines_of_a_job(case: str, folder: Path) -> None:
    old, new, words = BAD[case]
    message = refusal(edit(folder / "job.toml", old, new))
    assert [word for word in words if word not in message] == [], message


BAD_PARTY = {
    "the party's name": ('"hospitals.north"', '"hospitals"', ["name at the top of north.toml", "'hospitals.north' or"]),
    "another silo's key": (
        '"hospitals.north.key"',
        '"keys/hospitals.south.key"',
        ["got the key of 'hospitals.south', expected that of 'hospitals.north'"],
    ),
    "no id": ('id = "patient"\n', "", ["missing key 'id'", "'hospitals.north' of north.toml"]),
    "a weight": ("[policy]", "silo_weight = 2.0\n[policy]", ["(silo_weight) of party 'hospitals.north'", "'weighted'"]),
    "silos": ("[policy]", "[[silo]]\nname = 'x'\n[policy]", ["unknown key 'silo' at the top of north.toml"]),
}


@pytest.mark.parametrize("case", BAD_PARTY)
def test_bad_lines_of_a_silo(case: str, folder: Path) -> None:
    old, new, words = BAD_PARTY[case]
    message = refusal(edit(folder / "north.toml", old, new))
    assert [word for word in words if word not in message] == [], message


def test_silos_of_one_holder_may_be_all_there_is(folder: Path) -> None:
    alone = JOB.replace('[[party]]\nname = "bank"\nrole = "active"\nidentity = "bank.pub"\n', "")
    (folder / "job.toml").write_text(alone.replace('role = "passive"', 'role = "active"'))
    edit(folder / "north.toml", 'id = "patient"', 'label = "outcome"')
    joining = load_joining(folder / "north.toml")
    assert joining.company.job.horizontal
    assert (joining.spec.id, joining.spec.label) == (None, "outcome")
