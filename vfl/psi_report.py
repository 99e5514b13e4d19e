"""What an alignment alone came to: what each role knows of it, and ``report.json`` of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from parties.ledger import Entry
from parties.link import COORDINATOR
from vfl import __version__
from vfl.job import Job, Member
from vfl.report.summary import ALIGNMENT_PROTOCOLS, Disclosure, disclosures

ALIGNED = "aligned.csv"
Purpose = Literal["psi", "psi cardinality"]
"""As all roles must agree on it: the common rows, or only how many there are."""


class PsiResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a role knows at its end.

    ``sizes`` are the lengths of all lists, as all know them; the rest of the numbers are a party's own, 0 at the
    coordinator. ``intersection`` is None at the passive party of a one-sided alignment, which is told none. ``file``
    says whether it has written its aligned rows; ``own`` is how many these are, where they are told.
    """

    role: str
    sizes: dict[str, int]
    protocol: str
    intersection: int | None
    seconds: dict[str, float]
    warnings: list[str]
    csv_rows: int = 0
    ids: int = 0
    missing: int = 0
    duplicates: int = 0
    own: int | None = None
    file: bool = False


class PsiParty(msgspec.Struct, frozen=True):
    """A party: rows of its CSV, without an id, left out for an id that others of them have, common; null: not known.

    ``common`` counts the party's own rows: of a party without silos all common ones.
    """

    name: str
    role: str
    rows: int | None = None
    missing: int | None = None
    duplicates: int | None = None
    common: int | None = None


class PsiAlignment(msgspec.Struct, frozen=True):
    """The alignment; ``rows`` are distinct valid ids, or ``pad_to`` where whoever writes this is not to know.

    ``intersection`` is null where it was not told.
    """

    protocol: str
    rows: dict[str, int]
    intersection: int | None
    pad_to: int | None
    one_sided: bool
    seconds: float
    bytes: int


class PsiReport(msgspec.Struct, frozen=True):
    """report.json of an alignment alone; ``files`` are the aligned CSVs, relative to its directory."""

    name: str
    version: str
    seed: int
    purpose: Purpose
    parties: list[PsiParty]
    alignment: PsiAlignment
    files: dict[str, str]
    seconds: dict[str, float]
    disclosures: list[Disclosure]
    warnings: list[str]


def summarise_psi(
    job: Job, purpose: Purpose, results: Mapping[str, PsiResult], ledger: Sequence[Entry], total_seconds: float
) -> PsiReport:
    """Build the report of those whose results are known here: of all roles on one machine, else of one."""
    names = [COORDINATOR, *(party.name for party in job.parties)]
    lead = results.get(job.active) or next(iter(results.values()))
    aligning = max(result.seconds["aligning"] for result in results.values())
    warnings = (line for name in names if name in results for line in results[name].warnings)
    own = {name: result.ids for name, result in results.items()}
    return PsiReport(
        name=job.name,
        version=__version__,
        seed=job.seed,
        purpose=purpose,
        parties=[_party(member, job, results.get(member.name), lead) for member in job.parties],
        alignment=PsiAlignment(
            protocol=lead.protocol,
            rows={name: own.get(name, size) for name, size in lead.sizes.items()},
            intersection=lead.intersection,
            pad_to=job.alignment.pad_to,
            one_sided=job.alignment.one_sided,
            seconds=round(aligning, 3),
            bytes=sum(entry.bytes for entry in ledger if entry.message.partition(".")[0] in ALIGNMENT_PROTOCOLS),
        ),
        files={name: f"{name}/{ALIGNED}" for name in names if name in results and results[name].file},
        seconds={"total": round(total_seconds, 3), "alignment": round(aligning, 3)},
        disclosures=sorted(disclosures(ledger), key=lambda line: (names.index(line.to), names.index(line.source))),
        warnings=list(dict.fromkeys(warnings)),
    )


def encode_psi(report: PsiReport) -> bytes:
    """JSON text of a report."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def _party(member: Member, job: Job, result: PsiResult | None, lead: PsiResult) -> PsiParty:
    """A party as far as it is known here; common to all is what a party with one list has."""
    own = None if result is None else result.own
    common = lead.intersection if len(job.holders[member.holder]) == 1 else own
    if result is None:
        return PsiParty(member.name, member.role, common=common)
    return PsiParty(member.name, member.role, result.csv_rows, result.missing, result.duplicates, common)
