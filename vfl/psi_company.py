"""One role of an alignment alone between companies: a party that joins, or the coordinator that listens.

It is a run like one that trains (`vfl.company`): it has a folder of its own, ends in it, and goes on in it when the
process is killed and the same command is given again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from parties.dial import PartyTransport
from parties.hub import HubTransport
from parties.identity import Identity
from parties.ledger import Entry
from parties.link import COORDINATOR
from vfl import psi_session
from vfl.company import preside, recorded, take_part
from vfl.company_file import Company, Joining
from vfl.play import Network, Part, play_role
from vfl.psi_report import PsiReport, PsiResult, Purpose, encode_psi, summarise_psi
from vfl.run_folder import RunFolder
from vfl.watch import Awaited, Watch


def join(
    joining: Joining, out: Path, watch: Watch, purpose: Purpose = "psi", *, resume: bool = False
) -> PsiReport | None:
    """Play a party to the end of the alignment.

    Parameters
    ----------
    out : Path
        Its folder; one that holds an unfinished alignment of the same job goes on with it.
    resume : bool
        Refuse to begin anew.

    Returns
    -------
    PsiReport or None
        None if the alignment had ended before.

    Raises
    ------
    VflError
        Whatever ended it; ``PeerLost`` leaves a folder to go on with.
    """
    company, spec = joining.company, joining.spec
    lines = lines_of(company, purpose)

    def play(folder: RunFolder, connect: Callable[[], PartyTransport]) -> PsiReport | None:
        part = Part(
            job=company.job,
            lines=lines,
            memory=folder,
            folder=out / spec.name,
            spec=spec,
            sealing=joining.identity.sealing,
            pinned={name: identity.sealing for name, identity in company.identities.items()},
        )
        return _play(part, folder, connect, watch, purpose)

    return take_part(joining, lines, out, watch, play, resume=resume)


def coordinate(
    company: Company,
    identity: Identity,
    address: tuple[str, int],
    out: Path,
    watch: Watch,
    purpose: Purpose = "psi",
    *,
    resume: bool = False,
) -> PsiReport | None:
    """Play the coordinator to the end of the alignment; ``address`` is where it listens. See `join`."""
    lines = lines_of(company, purpose)

    def play(folder: RunFolder, network: HubTransport) -> PsiReport | None:
        part = Part(job=company.job, lines=lines, memory=folder, folder=out)
        return _play(part, folder, lambda: network, watch, purpose)

    return preside(company, identity, address, lines, out, watch, play, resume=resume)


def lines_of(company: Company, purpose: Purpose) -> dict[str, str]:
    """What all must agree on: the job, the identities, and that this is no training."""
    return {**company.lines, "purpose": purpose}


def _play(
    part: Part, folder: RunFolder, connect: Callable[[], Network], watch: Watch, purpose: Purpose
) -> PsiReport | None:
    """Read a party's ids, meet the others, align, and write the report before the others hear that all is there."""
    reports: list[PsiReport] = []
    role = COORDINATOR if part.spec is None else part.spec.name

    def report_of(result: PsiResult, entries: list[Entry], seconds: float) -> bytes:
        named = msgspec.structs.replace(result, warnings=[*result.warnings, *folder.warnings])
        reports.append(summarise_psi(part.job, purpose, {role: named}, entries, seconds))
        return encode_psi(reports[-1])

    scratch = folder.hidden / "ids"
    with (
        psi_session.ready(part.job, part.spec, part.folder, scratch, watch, purpose) as act,
        recorded(folder.out, watch, report_of) as (ledger, save),
    ):
        play_role(connect(), ledger, part, act, lambda text: watch(Awaited(text)), save)
    return reports[-1] if reports else None
