"""The two files of a job between companies: ``job.toml``, which all share, and each party's own, which stays with it.

A job file is a scenario without CSVs: in their place stand who coordinates, and the identity of everybody, pinned.
A party file is one party of a scenario, with its key, and its copy of the job. What all must agree on is
`Company.lines`; the handshake compares them, so that nobody trains with a changed job or an identity put in its place.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from parties.errors import ConfigError
from parties.greeting import job_digest
from parties.identity import Identity, PublicIdentity, fingerprint_text, read_identity, read_public
from parties.link import COORDINATOR
from parties.spec import PartyRole, PartySpec, SiloName
from vfl import tables
from vfl.job import AskedTask, Job, Lines, Member, job_fields
from vfl.job_file import check_party, imply_model, make_job, read_lines
from vfl.silo_tables import SiloForm, expand_silos
from vfl.tables import Source, Table, show

PublicPath = Annotated[
    str, Meta(min_length=1, description="Its .pub file, as 'vfl keygen' wrote it, relative to this file.")
]


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How patient the connections between companies are, in seconds."""

    heartbeat: Annotated[
        float, Meta(ge=0.05, le=60, description="Seconds between signs of life on a connection that is silent.")
    ] = 5.0
    notice: Annotated[
        float, Meta(ge=0.1, le=3600, description="Seconds of silence after which users see 'reconnecting'.")
    ] = 30.0
    reconnect_timeout: Annotated[
        float, Meta(ge=0.1, le=604_800, description="Seconds of silence after which the run ends, to be resumed.")
    ] = 300.0


class CoordinatorLines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the coordinator listens, and who it is."""

    address: Annotated[
        str,
        Meta(min_length=1, description="HOST:PORT that the parties dial; copies of a job may differ in it alone."),
    ]
    identity: PublicPath


class PinnedMember(Member, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What everybody knows of a party, with its identity."""

    identity: PublicPath


class PinnedSilo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One [[party.silo]] of a job file: the silo has a process, a key and a party file of its own."""

    name: SiloName
    identity: PublicPath


class JobFile(Lines, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job file line by line; ``vfl.job_file.read_lines`` reads it."""

    task: AskedTask = None
    coordinator: CoordinatorLines
    network: Network = Network()
    party: Annotated[tuple[PinnedMember, ...], Meta(description="One [[party]] each; exactly one is active.")] = ()


class PartyFile(PartySpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A party file line by line: what a scenario says of one party, its key and its job."""

    job: Annotated[str, Meta(min_length=1, description="The party's copy of the job file, relative to this file.")]
    identity: Annotated[
        str, Meta(min_length=1, description="The party's private .key file, relative to this file; mode 600.")
    ]
    state: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="Folder for what outlives runs, such as budgets; none: .vfl/NAME beside this file."),
    ] = None
    role: PartyRole = "passive"  # the job says it: see `load_joining`


@dataclass(frozen=True)
class Company:
    """A checked job between companies.

    Attributes
    ----------
    job : Job
        With guards enforced.
    file : Path
        The job file, absolute.
    host, port : str, int
        Where the parties reach the coordinator.
    coordinator : PublicIdentity
    identities : mapping of party name to PublicIdentity
        In the order of the file.
    network : Network
    """

    job: Job
    file: Path
    host: str
    port: int
    coordinator: PublicIdentity
    identities: Mapping[str, PublicIdentity]
    network: Network

    @property
    def address(self) -> str:
        """``HOST:PORT``, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def pinned(self) -> dict[str, PublicIdentity]:
        """Everybody's identity by name, the coordinator's first."""
        return {COORDINATOR: self.coordinator, **self.identities}

    @property
    def lines(self) -> dict[str, str]:
        """Everything that all must agree on, flat and as text; not the address, which a firewall may change."""
        return {
            **job_fields(self.job),
            "coordinator.identity": self.coordinator.fingerprint,
            **{f"identity.{name}": identity.fingerprint for name, identity in self.identities.items()},
            **{f"network.{key}": str(value) for key, value in msgspec.structs.asdict(self.network).items()},
        }

    @property
    def fingerprint(self) -> str:
        """One text for all `lines`: who sees the same has the same job and the same identities."""
        return fingerprint_text(job_digest(self.lines))


@dataclass(frozen=True)
class Joining:
    """What one party brings to a job between companies.

    Attributes
    ----------
    spec : PartySpec
        With the role that the job gives it, and an absolute data path.
    company : Company
    identity : Identity
        The private half of what the job pins.
    state : Path
        Folder for what outlives runs, absolute; it need not exist.
    """

    spec: PartySpec
    company: Company
    identity: Identity
    state: Path

    @property
    def budgets(self) -> Path:
        """The file of `parties.budget.Budget`."""
        return self.state / "budgets.json"


def kind_of(document: Mapping[str, object]) -> Literal["scenario", "job", "party"]:
    """Which file this is: a party file has a job, a job file a coordinator."""
    if "job" in document:
        return "party"
    return "job" if "coordinator" in document else "scenario"


def load_company(path: Path, *, alone: bool = False) -> Company:
    """Read and check a job file and the identities that it pins.

    Parameters
    ----------
    alone : bool
        It is for an alignment alone: no model is needed.

    Raises
    ------
    ConfigError
        One line: what, where, got, expected, what to do.
    """
    file = path.name
    document = tables.load(path, "job file", "name, model, [coordinator] and two [[party]] tables")
    if kind_of(document) != "job":
        other = "a party file" if kind_of(document) == "party" else "no table [coordinator]"
        raise ConfigError(f"{file}, got {other}, expected a job file, with [coordinator] and an identity per [[party]]")
    if alone:
        imply_model(document)
    document, _ = expand_silos(document, frozenset(), file, SiloForm(PinnedMember, PinnedSilo, "identity"))
    lines = read_lines(JobFile, document, file)
    _check_guards(document, file)
    _check_network(lines.network, file)
    members = [_member(party) for party in lines.party]
    job = make_job(lines, lines.task, members, file, enforce=True, alone=alone)
    if COORDINATOR in {party.name for party in lines.party}:
        raise ConfigError(f"name of a party in {file}, got 'coordinator', expected another one: the coordinator has it")
    host, port = parse_address(lines.coordinator.address, f"address in [coordinator] of {file}")
    folder = path.absolute().parent
    company = Company(
        job=job,
        file=path.absolute(),
        host=host,
        port=port,
        coordinator=read_public(folder / lines.coordinator.identity, COORDINATOR),
        identities={party.name: read_public(folder / party.identity, party.name) for party in lines.party},
        network=lines.network,
    )
    _check_unshared(company.pinned, file)
    return company


def load_joining(path: Path, *, alone: bool = False) -> Joining:
    """Read and check a party file, its key, and its copy of the job.

    Parameters
    ----------
    alone : bool
        They are for an alignment alone: neither a model nor a label is needed.

    Raises
    ------
    ConfigError
        One line: what, where, got, expected, what to do.
    """
    file = path.name
    document = tables.load(path, "party file", "name, job, identity, data and id")
    _refuse_job_lines(document, file)
    lines = tables.read(PartyFile, document, Source(file, document), elsewhere=("role",))
    folder = path.absolute().parent
    company = load_company(folder / lines.job, alone=alone)
    member = next((member for member in company.job.parties if member.name == lines.name), None)
    if member is None:
        expected = " or ".join(f"'{name}'" for name in company.identities)
        raise ConfigError(
            f"name at the top of {file}, got '{lines.name}', expected {expected}: {company.file.name} has no "
            "other party"
        )
    spec = _spec(lines, member.role)
    check_party(spec, company.job, file, labelled=not alone)
    if lines.state is not None and "\0" in lines.state:
        raise ConfigError(f"state at the top of {file}, got a path with a zero byte, expected the path of a folder")
    identity = read_identity(folder / lines.identity)
    _check_own(identity, company, lines, file)
    return Joining(
        spec=msgspec.structs.replace(spec, data=os.path.realpath(folder / spec.data)),
        company=company,
        identity=identity,
        state=folder / (lines.state or Path(".vfl") / lines.name),
    )


def parse_address(text: str, where: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``; an IPv6 address stands in brackets.

    Raises
    ------
    ConfigError
        It is no such text; ``where`` begins the error.

    Examples
    --------
    >>> parse_address("coordinator.example:7700", "--listen"), parse_address("[::1]:7700", "--listen")
    (('coordinator.example', 7700), ('::1', 7700))
    """
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    name = host[1:-1] if bracketed else host
    plain = name.isascii() and name.isprintable() and not set(name) & set(" /@[]?#%") and (":" in name) == bracketed
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    if not (name and plain and len(name) <= 253 and 1 <= number <= 65_535):
        raise ConfigError(
            f"{where}, got {show(text)}, expected HOST:PORT such as coordinator.example:7700, port 1 to 65535"
        )
    return name, number


def _member(party: PinnedMember) -> Member:
    return Member(name=party.name, role=party.role)


def _spec(lines: PartyFile, role: PartyRole) -> PartySpec:
    """Take a party file's lines that a scenario has too."""
    fields = {name: getattr(lines, name) for name in PartySpec.__struct_fields__}
    return PartySpec(**fields | {"role": role})


def _check_guards(document: Table, file: str) -> None:
    """Refuse a line that asks guards to warn only, for between companies they refuse whatever a job says."""
    privacy = document.get("privacy")
    if isinstance(privacy, dict) and privacy.get("enforce") is False:
        raise ConfigError(
            f"enforce in [privacy] of {file}, got false, expected true: between companies guards refuse, "
            "remove the line"
        )


def _check_network(network: Network, file: str) -> None:
    """Signs of life come more often than users are told of silence, and that before the run ends."""
    if network.heartbeat >= network.notice:
        raise ConfigError(
            f"notice in [network] of {file}, got {network.notice:g} s, expected more than heartbeat, "
            f"{network.heartbeat:g} s"
        )
    if network.notice > network.reconnect_timeout:
        raise ConfigError(
            f"reconnect_timeout in [network] of {file}, got {network.reconnect_timeout:g} s, expected at least "
            f"notice, {network.notice:g} s"
        )


def _check_unshared(pinned: Mapping[str, PublicIdentity], file: str) -> None:
    """No two names have a key or a certificate in common, or one could speak for the other."""
    owners: dict[bytes, str] = {}
    for name, identity in pinned.items():
        for part in (identity.signing, identity.sealing, identity.certificate_der):
            other = owners.setdefault(part, name)
            if other != name:
                raise ConfigError(
                    f"identity in {file}, got a key of '{other}' for '{name}' too, expected one identity per name; "
                    "ask both for their .pub files again"
                )


def _check_own(identity: Identity, company: Company, lines: PartyFile, file: str) -> None:
    """The party's private keys are those of the identity that the job pins for it."""
    name, job = lines.name, company.file.name
    if identity.name != name:
        raise ConfigError(f"identity at the top of {file}, got the key of '{identity.name}', expected that of '{name}'")
    own, pinned = identity.public.fingerprint, company.identities[name].fingerprint
    if own != pinned:
        raise ConfigError(
            f"identity at the top of {file}, got the key with fingerprint {own}, expected {pinned}, which {job} pins "
            f"for '{name}'; name the other .key file, or share the .pub file of this one with everybody"
        )


def _refuse_job_lines(document: Table, file: str) -> None:
    """Refuse with a hint what a party of a scenario has and a party file has not."""
    source = Source(file, document)
    if "role" in document:
        raise ConfigError(
            f"role {source.where(())}, got {show(document['role'])}, expected no such line: the job file says who is "
            "active, remove it"
        )
    if "party" in document:
        raise ConfigError(
            f"party {source.where(())}, got {show(document['party'])}, expected the keys of one party at the top and "
            "its policy in [policy]"
        )
