"""What others may learn of a party from an alignment, by its protocol: `vfl.consent`'s share of it.

>>> from vfl.job import Job, Member
>>> members = Member(name="bank", role="active"), Member(name="shop", role="passive")
>>> job = Job(name="demo", model="linear", task="regression", parties=members)
>>> protocols_of(job), protocols_of(job, Policy(alignment=("kkrt", "mpsi")))
(('ecdh', 'kkrt'), ('kkrt',))
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from parties.policy import Policy
from parties.wire import Active, DataParty, LabelSilo, Message, Passive
from psi import align, base_ot, ecdh, kkrt, mpsi, oprf, server_aided, silo_rows, silos, verdict
from psi.settings import Protocol, possible_protocols
from psi.silos import cast_of
from vfl.job import Job

AnyMessage = Message[Any, Any, Any]

_JUDGED = (
    silos.Wire.repeats,
    verdict.Wire.verdict,
    verdict.Wire.matches,
    verdict.Wire.members,
    silos.Wire.numbers,
)
_JOINED: Mapping[Protocol, tuple[type, ...]] = {
    "ecdh": (ecdh.Wire,),
    "kkrt": (base_ot.Wire, oprf.Wire, kkrt.Wire),
    "mpsi": (base_ot.Wire, oprf.Wire, mpsi.Wire),
    "server-aided": (server_aided.Wire,),
}

OPENED_BY: Mapping[AnyMessage, tuple[AnyMessage, ...]] = {
    align.Wire.terms: (align.Wire.plan,),
    ecdh.Wire.points: (ecdh.Wire.tags, *_JUDGED),
    kkrt.Wire.tags: _JUDGED,
    mpsi.Wire.table: (mpsi.Wire.tags, *_JUDGED, mpsi.Wire.common),
    mpsi.Wire.dealt: (mpsi.Wire.tags, *_JUDGED, mpsi.Wire.common),
    mpsi.Wire.tags: (*_JUDGED, mpsi.Wire.common),
    server_aided.Wire.tags: _JUDGED,
}
"""For what a party sends: the messages of others by which its receivers learn of it."""


def protocols_of(job: Job, policy: Policy | None = None) -> tuple[Protocol, ...]:
    """The protocols that a job's alignment may take, as far as a party's policy lists any of them."""
    possible = possible_protocols(job.alignment.protocol, len(job.parties), silos=job.has_silos)
    allowed = tuple(name for name in possible if policy is None or name in policy.alignment)
    return allowed or possible


def tables_of(protocol: Protocol) -> tuple[type, ...]:
    """Wire tables of an alignment in the order of a run; `unsaid` are those of silos where there are none."""
    return (align.Wire, *_JOINED[protocol], silos.Wire, verdict.Wire, silo_rows.Wire)


def protocol_of(job: Job) -> dict[AnyMessage, Protocol]:
    """For every message of the protocols that the job may take: which one it belongs to."""
    return {
        message: protocol
        for protocol in protocols_of(job)
        for table in _JOINED[protocol]
        for message in vars(table).values()
        if isinstance(message, Message)
    }


def unsaid(
    job: Job, role: type[DataParty], *, cardinality: bool = False, party: str | None = None
) -> tuple[AnyMessage, ...]:
    """What tells nobody else of a party of a role, by the job's lines or because only the number is asked for.

    ``party`` : by default the first one of the role.
    """
    return (*_unsaid_of_lists(job, role, cardinality=cardinality), *_unsaid_of_silos(job, role, party, cardinality))


def _unsaid_of_silos(job: Job, role: type[DataParty], party: str | None, cardinality: bool) -> tuple[AnyMessage, ...]:
    """Of the messages around silos: those that are not sent in this job, or not by this party."""
    told = (silos.Wire.repeats, silos.Wire.numbers, silo_rows.Wire.rows)
    cast = cast_of(roles_of(job))
    if not cast.silos:
        return told
    repeats, numbers, rows = told
    name = party or next(name for name, its in roles_of(job).items() if its is role)
    own = name in cast.silos and job.alignment.duplicates == "refuse"
    which = (numbers, rows) if cardinality else (() if name == cast.guide else (rows,))
    matches = () if cast.whole else (verdict.Wire.matches,)
    return (*(() if own else (repeats,)), *which, *matches)


def roles_of(job: Job) -> dict[str, type[DataParty]]:
    """Every party's role in a run, in job order."""
    return {
        party.name: Passive if party.role == "passive" else Active if party.name == job.active else LabelSilo
        for party in job.parties
    }


def _unsaid_of_lists(job: Job, role: type[DataParty], *, cardinality: bool) -> tuple[AnyMessage, ...]:
    """The same of the messages between lists."""
    which = (verdict.Wire.matches, verdict.Wire.members, mpsi.Wire.common)
    if not job.alignment.one_sided:
        return which if cardinality else (verdict.Wire.members,)
    heard_alone = (verdict.Wire.verdict,) if role is Active else ()  # the passive party hears no number
    return (*heard_alone, *(which if cardinality else (verdict.Wire.matches,)))
