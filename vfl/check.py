"""``vfl check``: everything that can be said about a scenario, or a party of a job, before anybody talks to anybody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from parties.budget import Left, left
from parties.columns import encode_labels
from parties.data import PartyTable, read_party
from parties.errors import ConfigError, DataError
from parties.policy import Guards, KeyHolder, label_rank, small_batch
from parties.spec import PartySpec
from psi.ids import IdRules, PreparedIds
from psi.precheck import LOST_ZEROS, IdCheck, inspect_ids
from psi.remedies import ZEROS, remedies, shared_by_pairs
from psi.verdict import Limit, too_few
from vfl.boosting_part import bin_columns, check_consent_to_trees, check_labels
from vfl.company_file import Joining
from vfl.glm_part import check_consent_to_terms, encode_columns, own_block
from vfl.job import COORDINATOR_MODELS, TASKS, Job, Scenario, choose_key_holder
from vfl.network_checks import check_torch
from vfl.network_columns import encode_for_network
from vfl.network_consent import check_consent_to_network
from vfl.pooled import plain_alignment
from vfl.prepare import (
    agree_terms,
    check_consent_to_job,
    check_key_holder_consent,
    id_rules,
    is_told,
    listed_rows,
    read_ids,
    split_rows,
    whole_list,
)
from vfl.preprocess import fit_preprocessor
from vfl.session import aligned_labels
from vfl.splitnn_part import check_labels as check_network_labels
from vfl.terms import Integers, Terms
from vfl.trained import Aligned
from vfl.trees.bins import fit_binning


@dataclass(frozen=True, slots=True)
class PartyCheck:
    """What one party would bring; counts and column names only."""

    name: str
    role: str
    rows: int
    valid_ids: int
    blank_ids: int
    repeated_ids: int
    numeric: int
    categorical: int
    encoded: int
    label: str
    ids: IdCheck
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """A checked scenario; ``warnings`` are those of the common rows.

    ``hints`` say what would make more ids match.
    """

    job: Job
    parties: tuple[PartyCheck, ...]
    common: int
    hints: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def found(self) -> str:
        """How many rows there are to train on and to test with, in words."""
        if self.job.horizontal:
            return f"{self.common:,} rows in {len(self.parties)} silos; nothing is aligned"
        return f"{self.common:,} common rows, alignment.min_intersection is {self.job.alignment.min_intersection:,}"

    @property
    def enough(self) -> bool:
        """Whether there are ``alignment.min_intersection`` common rows, where rows are aligned."""
        return self.job.horizontal or self.common >= self.job.alignment.min_intersection

    def refuse_too_few(self) -> None:
        """Raise ``DataError`` unless there are enough common rows."""
        if not self.enough:
            raise too_few(self.common, Limit(self.job.alignment.min_intersection, tell_small_count=True))


class IdsRefused(DataError):
    """A party's ids that a run would refuse too, with what shows when one looks at them."""

    def __init__(self, text: str, party: str, ids: IdCheck) -> None:
        super().__init__(text)
        self.party = party
        self.ids = ids


@dataclass(frozen=True, slots=True)
class Own:
    """What one party reads before it meets the others; ``seconds`` of CPU by what they went to, for estimates."""

    spec: PartySpec
    table: PartyTable = field(repr=False)
    ids: PreparedIds = field(repr=False)
    guards: Guards
    seconds: dict[str, float] = field(default_factory=dict)


def check_scenario(scenario: Scenario) -> Check:
    """Read every CSV as a run would, then align and prepare in plain; nothing is trained, no network is touched.

    Raises
    ------
    IdsRefused
        Blank or repeated ids.
    VflError
        Whatever would refuse the run before its training; too few common rows are left to `Check.refuse_too_few`.
    """
    job = scenario.job
    check_torch(job, scenario.parties)
    if job.has_silos:
        from vfl.check_silos import check_silos  # it reads this file

        return check_silos(scenario)
    looked_at = [read_and_inspect(job, spec) for spec in scenario.parties]
    owns = [own for own, _ in looked_at]
    check_id_columns(scenario.parties)
    ids = {own.spec.name: own.ids for own in owns}
    rows = plain_alignment(ids, job.seed)
    changes = remedies({name: prepared.ids for name, prepared in ids.items()})
    zeros_matter = any(ZEROS in remedy.change for remedy in changes)
    parties = tuple(_party(job, own, seen if zeros_matter else seen.without(LOST_ZEROS)) for own, seen in looked_at)
    check = Check(job, parties, len(rows[job.active]), tuple(map(str, changes)))
    if check.enough:
        return replace(check, warnings=_prepare(job, owns, rows))
    return replace(check, hints=(*pairs_in_common({name: own.ids for name, own in ids.items()}), *check.hints))


def pairs_in_common(ids: Mapping[str, list[bytes]]) -> list[str]:
    """Of three parties and more, which pair shares how many ids."""
    if len(ids) < 3:
        return []
    shared = shared_by_pairs(ids)
    return [f"{left} and {right} have {count:,} ids in common" for (left, right), count in shared.items()]


@dataclass(frozen=True, slots=True)
class JoiningCheck:
    """A checked party of a job between companies."""

    joining: Joining
    party: PartyCheck
    warnings: tuple[str, ...]
    budgets: tuple[Left, ...]


def check_joining(joining: Joining) -> JoiningCheck:
    """Read one party's CSV and hold the job against its policy, as far as that goes without the others.

    Raises
    ------
    IdsRefused
        Blank or repeated ids.
    VflError
        Whatever would refuse the run even if every row of the party were common to all.
    """
    job = joining.company.job
    check_torch(job, [joining.spec])
    own, ids = read_and_inspect(job, joining.spec)
    party = _party(job, own, ids)
    budgets = left(joining.budgets, joining.spec.policy.scored_rows)
    if len(job.holders[own.spec.holder]) > 1:  # what counts are sums over all of its silos
        return JoiningCheck(joining, party, tuple(own.guards.warnings), budgets)
    least = job.alignment.min_intersection
    if party.valid_ids < least:
        raise DataError(
            f"party '{party.name}', file {own.spec.data}: got {party.valid_ids} rows with an id, expected at least "
            f"alignment.min_intersection = {least}; bring more rows, or agree on a lower one in the job"
        )
    _check_alone(job, own, party)
    return JoiningCheck(joining, party, tuple(own.guards.warnings), budgets)


def _check_alone(job: Job, own: Own, party: PartyCheck) -> None:
    """The guards on terms that hold whatever the others bring; sizes as if all the party's rows were common."""
    spec, guards, rows = own.spec, own.guards, split_rows(job, party.valid_ids).train
    holder = _certain_holder(job)
    if holder is not None:
        columns, consent = {spec.name: party.encoded}, spec.policy.partial_scores
        terms = Terms(job=job, key_holder=holder, reason="", rows=rows, outputs=1, columns=columns, consent=consent)
        (check_consent_to_trees if job.model == "boosting" else check_key_holder_consent)(terms, spec, guards)
    if job.model in TASKS and spec.role == "passive":
        guards.heed(small_batch(guards, rows=rows, columns=party.encoded, party=spec.name))
        guards.heed(label_rank(columns=party.encoded, rows=rows, party=spec.name))


def _certain_holder(job: Job) -> KeyHolder | None:
    """Who holds the key, unless that depends on the columns of all."""
    setting = job.privacy.key_holder
    parties, silos = len(job.passive_holders), job.has_silos
    if setting == "auto" and job.model in COORDINATOR_MODELS and parties > 1 and not silos:
        return None
    holder, _ = choose_key_holder(
        job.model, setting, 0, parties, 1, job.max_rounds, encrypted=job.encrypted, silos=silos
    )
    return holder


def read_own(job: Job, spec: PartySpec) -> Own:
    """Read a party's CSV, and hold the job against its policy."""
    table, guards = read_table(job, spec)
    return Own(spec, table, read_ids(job, spec, table), guards)


def read_and_inspect(job: Job, spec: PartySpec) -> tuple[Own, IdCheck]:
    """`read_own`, with a look at the ids before they are judged."""
    table, guards = read_table(job, spec)
    if job.horizontal:  # nothing is aligned, and ids may be blank
        rows = np.arange(table.n_rows)
        return Own(spec, table, PreparedIds([], rows, table.n_rows, 0, 0, IdRules()), guards), IdCheck(0, {}, 0, 0)
    seen = inspect_ids(table.id_columns, id_rules(job, spec), spec.id_columns)
    try:
        return Own(spec, table, read_ids(job, spec, table), guards), seen
    except DataError as error:
        raise IdsRefused(str(error), spec.name, seen) from error


def read_table(job: Job, spec: PartySpec) -> tuple[PartyTable, Guards]:
    """A party's CSV and its guards, once its policy was asked of the job and of the columns."""
    guards = Guards(enforce=job.privacy.enforce, small_data=job.privacy.small_data and spec.policy.small_data)
    check_consent_to_job(job, spec, guards)
    table = read_party(spec)
    check_consent_to_job(job, spec, guards, map(str, table.features))
    return table, guards


def check_id_columns(specs: Sequence[PartySpec]) -> None:
    """Keys of so many columns at one party and so many at another never match."""
    expected = len(specs[0].id_columns)
    for spec in specs:
        if len(spec.id_columns) != expected:
            raise ConfigError(
                f"alignment: party '{spec.name}', id columns: got {len(spec.id_columns)}, expected {expected}; "
                "all parties need the same id rules and settings"
            )


def _party(job: Job, own: Own, seen: IdCheck) -> PartyCheck:
    """Count what a party brings, over all its rows with a valid id."""
    spec, table, ids = own.spec, own.table, own.ids
    label = ""
    if table.labels is not None:
        label = _label_text(job, spec, [table.labels[row] for row in ids.rows])
    encoded, warnings = encode_alone(job, table, ids.rows)
    return PartyCheck(
        name=spec.name,
        role=spec.role,
        rows=table.n_rows,
        valid_ids=len(ids.ids),
        blank_ids=ids.missing,
        repeated_ids=ids.duplicates,
        numeric=sum(kind == "numeric" for kind in table.kinds.values()),
        categorical=sum(kind == "categorical" for kind in table.kinds.values()),
        encoded=encoded,
        label=label,
        ids=seen,
        warnings=(*table.warnings, *warnings),
    )


def _label_text(job: Job, spec: PartySpec, labels: list[str]) -> str:
    """How many classes or values a label has; a silo need not have all that its party has."""
    if spec.holder != spec.name:
        return f"{len({label.strip() for label in labels})} values"
    encoded = encode_labels(labels, job.task, spec.positive_text, spec.name)
    return f"{len(encoded.classes)} classes" if encoded.classes else f"{len(np.unique(encoded.values))} values"


def encode_alone(job: Job, table: PartyTable, rows: Integers) -> tuple[int, tuple[str, ...]]:
    """How many columns a party or silo brings after encoding its own rows, and which are left out.

    Trees take columns as they are.
    """
    frame = table.features.iloc[rows].reset_index(drop=True)
    if job.model == "boosting":
        settings = job.boosting
        binning = fit_binning(
            frame, table.kinds, max_bin=settings.max_bin, max_cat_to_onehot=settings.max_cat_to_onehot
        )
        return len(binning.features), binning.warnings
    preprocessor = fit_preprocessor(frame, table.kinds, scale_categories=job.model != "splitnn")
    return len(preprocessor.names), preprocessor.warnings


def aligned(job: Job, own: Own, rows: Integers, listed: int) -> Aligned:
    """A party's data as the run will have them, from its common rows in their order.

    A party that is not told which these are has all of its rows, here in the order of its CSV.

    Parameters
    ----------
    listed : int
        As `vfl.prepare.listed_rows` has it.
    """
    parts = split_rows(job, len(rows))
    if not is_told(job, own.spec):
        rows, parts = own.ids.rows, whole_list(len(own.ids.rows))
    labels = aligned_labels(job, own.spec, own.table, rows, parts)
    return Aligned(job, own.spec, own.table, rows, labels, own.guards, parts.train, parts.validation, listed=listed)


def _prepare(job: Job, owns: list[Own], rows: Mapping[str, Integers]) -> tuple[str, ...]:
    """Split, encode and judge the common rows as the run will; returns the guards' warnings."""
    facts: dict[str, bool | int | float | str | None] = {}
    listed = listed_rows(job, {own.spec.name: len(own.ids.ids) for own in owns})
    data = {own.spec.name: aligned(job, own, rows[own.spec.name], listed) for own in owns}
    for own in owns:
        name, one = own.spec.name, data[own.spec.name]
        labels = one.labels
        several = labels is not None and job.task == "multiclass"
        outputs = len(labels.classes) if labels is not None and several else 1
        facts |= {f"{name} columns": _width(one), f"{name} outputs": outputs}
        facts[f"{name} consent"] = own.spec.policy.partial_scores
    terms = agree_terms(job, facts, *data[job.active].told)
    for own in owns:
        _check_terms(terms, own, data[own.spec.name].n_train)
    return tuple(dict.fromkeys(line for own in owns for line in own.guards.warnings))


def _width(data: Aligned) -> int:
    """Columns of a party as the model takes them; refuses labels that it cannot learn from."""
    job, spec, table, rows, n_train = data.job, data.spec, data.table, data.rows, data.n_train
    if job.model == "boosting":
        width, check = len(bin_columns(job, spec, table, rows, n_train).features), check_labels
    elif job.model == "splitnn":
        width, check = len(encode_for_network(spec, table, rows, n_train).preprocessor.names), check_network_labels
    else:
        return own_block(job, spec, encode_columns(spec, table, rows, n_train, data.guards), n_train).width
    if data.labels is not None:
        check(data)
    return width


def _check_terms(terms: Terms, own: Own, n_train: int) -> None:
    """What a party says to the agreed sizes."""
    if terms.job.model == "boosting":
        check_consent_to_trees(terms, own.spec, own.guards)
    elif terms.job.model == "splitnn":
        check_consent_to_network(terms, own.spec, own.guards)
    else:
        check_consent_to_terms(terms, own.spec, own.guards, n_train)
