"""``vfl check`` of files without a model, which are enough for an alignment alone: ids, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from parties.data import read_party
from parties.errors import DataError
from parties.spec import PartySpec
from psi.ids import PreparedIds
from psi.plain import ids_by_holder, plain_alignment
from psi.precheck import LOST_ZEROS, IdCheck, inspect_ids
from psi.remedies import ZEROS, remedies
from psi.verdict import Limit, too_few
from vfl.check import IdsRefused, check_id_columns, pairs_in_common
from vfl.job import Job
from vfl.prepare import id_rules, read_ids


@dataclass(frozen=True)
class OwnIds:
    """A party's ids, and what shows when one looks at them."""

    name: str
    seen: IdCheck
    ids: PreparedIds = field(repr=False)


@dataclass(frozen=True)
class IdsCheck:
    """Ids of the parties whose CSVs are at hand.

    Parameters
    ----------
    common : int or None
        Ids that all parties have, with those of all their silos; None where one party's CSV alone is here.
    hints : tuple of str
        What would make more ids match.
    """

    job: Job
    parties: tuple[OwnIds, ...]
    common: int | None
    hints: tuple[str, ...]

    def refuse_too_few(self) -> None:
        """Raise ``DataError`` unless there are ``alignment.min_intersection`` common ids."""
        limit = Limit(self.job.alignment.min_intersection, tell_small_count=True)
        if self.common is not None and self.common < limit.min_intersection:
            raise too_few(self.common, limit)


def check_ids(job: Job, specs: Sequence[PartySpec]) -> IdsCheck:
    """Read ids and, where several parties' are at hand, compare them in plain.

    Raises
    ------
    IdsRefused, DataError, ConfigError
        Whatever would refuse the alignment; too few common ids are left to the caller.
    """
    parties = tuple(_read(job, spec) for spec in specs)
    check_id_columns(specs)
    if len(parties) == 1:
        return IdsCheck(job, parties, None, ())
    ids = {party.name: party.ids for party in parties}
    by_holder = ids_by_holder(ids)
    rows = plain_alignment(ids, job.seed, job.alignment.duplicates)
    common = sum(len(rows[name].rows) for name in next(iter(job.holders.values())))
    changes = remedies(by_holder)
    if not any(ZEROS in remedy.change for remedy in changes):
        parties = tuple(OwnIds(party.name, party.seen.without(LOST_ZEROS), party.ids) for party in parties)
    shared = pairs_in_common(by_holder) if common < job.alignment.min_intersection else []
    return IdsCheck(job, parties, common, (*shared, *map(str, changes)))


def _read(job: Job, spec: PartySpec) -> OwnIds:
    """One party's ids; no other column of its CSV is parsed."""
    bare = PartySpec(name=spec.name, role=spec.role, data=spec.data, id=spec.id, encoding=spec.encoding, features=())
    table = read_party(bare)
    seen = inspect_ids(table.id_columns, id_rules(job, bare), bare.id_columns)
    try:
        return OwnIds(spec.name, seen, read_ids(job, bare, table))
    except DataError as error:
        raise IdsRefused(str(error), spec.name, seen) from error
