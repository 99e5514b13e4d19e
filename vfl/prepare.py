"""From aligned rows to blocks and terms: split, encode, quantise, guard, and tell each other the widths.

    D --> C   shape    columns after encoding; of the active party also scores per row; consent to opened scores
    C --> D   shapes   everybody's
    D --> A   heard    SHA-256 of what it was told, sealed; every party also compares its own part
    A --> D   agreed   all were told the same

The last two are there because guards rest on these numbers: a party that was told too many columns of the others would
let too many scores out.

Leakage
-------
coordinator, every party : columns after encoding, scores per row, consent to opened scores (a one-hot encoded column
    counts once per category)

Everything else here is local: medians, means, deviations and categories are learnt from the party's own training
rows and stay with it.

What a party consents to is asked in three places: of the job alone before anything is sent (`check_consent_to_job`), of
the rows once they are known (`check_consent_to_rows`), and of the terms that all have agreed on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import msgspec
import numpy as np

from parties.data import PartyTable
from parties.errors import DataError, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint
from parties.policy import (
    Guards,
    KeyHolder,
    Verdict,
    column_use,
    effective_limits,
    embedding_exchange,
    gradient_sampling,
    label_privacy,
    objections,
    protocol_use,
    rows_to_score,
    single_first_layer,
    single_passive,
    tree_limits,
    two_silos,
)
from parties.spec import PartySpec
from parties.wire import Active, Control, Coordinator, DataParty, Message, Revealed
from psi.ids import IdRules, PreparedIds, prepare_ids
from psi.settings import AlignmentSettings
from vfl.aggregation import least_silos
from vfl.alignment_consent import protocols_of
from vfl.horizontal_consent import check_consent_to_updates
from vfl.job import COORDINATOR_MODELS, Job, KeyHolderSetting, choose_key_holder
from vfl.job_checks import check_key_holder
from vfl.parts import Parts as Parts
from vfl.terms import Terms

Facts = Mapping[str, bool | int | float | str | None]

MAX_COLUMNS = 1 << 20


class Wire:
    """Messages of the preparation."""

    shape = Message(
        DataParty,
        Coordinator,
        Revealed,
        discloses="columns after encoding, scores per row, consent to opened scores",
    )
    shapes = Message(
        Coordinator, DataParty, Revealed, discloses="columns after encoding, scores per row, consent to opened scores"
    )
    heard = Message(DataParty, Active, Control)
    agreed = Message(Active, DataParty, Control)


def id_rules(job: Job, spec: PartySpec) -> IdRules:
    """The job's id rules for a party with so many id columns."""
    alignment = job.alignment
    return IdRules(casefold=alignment.casefold, digits_only=alignment.digits_only, columns=len(spec.id_columns))


def read_ids(job: Job, spec: PartySpec, table: PartyTable) -> PreparedIds:
    """A party's valid ids under the job's rules; `psi.ids.prepare_ids` and `check_padding` say what is refused."""
    ids = prepare_ids(
        table.id_columns,
        id_rules(job, spec),
        party=spec.name,
        duplicates=job.alignment.duplicates,
        missing=job.alignment.missing,
    )
    check_padding(job, spec.name, len(ids.ids))
    return ids


def check_padding(job: Job, party: str, ids: int) -> None:
    """Refuse more valid ids than lists are padded to, before anybody hears of it.

    Raises
    ------
    DataError
    """
    most = job.alignment.pad_to
    if most is not None and ids > most:
        raise DataError(
            f"party '{party}': got {ids:,} valid ids, expected at most alignment.pad_to = {most:,}, the length to "
            "which every list is padded; agree on a larger one in the job, or bring fewer rows"
        )


def alignment_settings(job: Job) -> AlignmentSettings:
    """The job's lines on alignment as the alignment takes them."""
    lines = job.alignment
    return AlignmentSettings(
        seed=job.seed,
        protocol=lines.protocol,
        min_intersection=lines.min_intersection,
        tell_small_count=not job.privacy.enforce,
        pad_to=lines.pad_to,
        one_sided=lines.one_sided,
        bucket_ids=lines.bucket_ids,
        duplicates=lines.duplicates,
    )


def is_told(job: Job, spec: PartySpec) -> bool:
    """Whether a party learns which of its rows are common: the passive party of a one-sided alignment does not."""
    return spec.role == "active" or not job.alignment.one_sided


def whole_list(rows: int) -> Parts:
    """The parts of a party that is not told which of its rows are common: as far as it knows it trains on all."""
    return Parts(rows, 0, 0)


def listed_rows(job: Job, sizes: Mapping[str, int]) -> int:
    """Length of the passive party's list in a one-sided alignment, else 0; ``sizes`` are those of all lists."""
    return sizes[job.passive[0]] if job.alignment.one_sided else 0


def split_rows(job: Job, rows: int) -> Parts:
    """Cut the aligned rows: the last ones are held out, those before them are the validation part.

    Raises
    ------
    DataError
        If no training row is left, or no validation row where some are asked for.
    """
    test = _held_out(job.split.test_fraction, rows)
    validation = _held_out(job.split.validation_fraction, rows)
    if test + validation >= rows:
        raise DataError(
            f"{rows} aligned rows with split.test_fraction = {job.split.test_fraction} leave no training row; "
            "lower it or bring more rows"
        )
    if job.split.validation_fraction and not validation:
        raise DataError(
            f"{rows} aligned rows with split.validation_fraction = {job.split.validation_fraction} leave no "
            "validation row; raise it or bring more rows"
        )
    return Parts(rows - validation - test, validation, test)


def _held_out(fraction: float, rows: int) -> int:
    """How many rows a share of them is."""
    return int(np.floor(fraction * rows + 0.5))


def exchange_shapes_as_party(
    endpoint: Endpoint, job: Job, spec: PartySpec, columns: int, outputs: int, rows: int, validation: int = 0
) -> Terms:
    """Tell the others this party's width and hear theirs.

    Raises
    ------
    RemoteProtocolError
        The coordinator hands round other facts than it was told (this party's consent is among them), or not the same
        ones to all.
    """
    judge = endpoint.link(DataParty, Coordinator, COORDINATOR)
    own = {"columns": columns, "outputs": outputs, "consent": spec.policy.partial_scores}
    judge.send(Wire.shape, Revealed(dict(own), np.zeros(0)))
    facts = judge.recv(Wire.shapes).facts
    for key, value in own.items():
        told = facts.get(f"{spec.name} {key}")
        if type(told) is not type(value) or told != value:
            raise RemoteProtocolError(f"{judge.peer} hands round other {key} of '{spec.name}' than it was told")
    terms = agree_terms(job, facts, rows, validation)
    _agree_on_shapes(endpoint, facts)
    return terms


def _agree_on_shapes(endpoint: Endpoint, facts: Facts) -> None:
    """Every other party tells the active one what it heard, past the coordinator."""
    own = hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()
    if not issubclass(endpoint.roles[endpoint.name], Active):
        lead = endpoint.link(DataParty, Active, endpoint.peers(Active)[0])
        lead.send(Wire.heard, Control({"shapes": own}))
        same = lead.recv(Wire.agreed).facts.get("same")
    else:
        links = [endpoint.link(Active, DataParty, name) for name in endpoint.peers(DataParty)]
        heard = [link.recv(Wire.heard).facts.get("shapes") for link in links]
        same = all(text == own for text in heard)
        for link in links:
            link.send(Wire.agreed, Control({"same": same}))
    if same is not True:
        raise RemoteProtocolError(f"{COORDINATOR} told the parties different columns, or one of them says so")


def exchange_shapes_as_coordinator(endpoint: Endpoint, job: Job, rows: int, validation: int = 0) -> Terms:
    """Collect the parties' widths and hand them round."""
    links = [endpoint.link(Coordinator, DataParty, name) for name in endpoint.peers(DataParty)]
    facts = {f"{link.peer} {key}": value for link in links for key, value in link.recv(Wire.shape).facts.items()}
    terms = agree_terms(job, facts, rows, validation)
    for link in links:
        link.send(Wire.shapes, Revealed(facts, np.zeros(0)))
    return terms


def check_consent_to_job(job: Job, spec: PartySpec, guards: Guards, columns: Iterable[str] | None = None) -> None:
    """The party's policy against the job's own lines, before anything is sent.

    Parameters
    ----------
    columns : iterable of str, optional
        Feature columns of the party's table; without a table those that its file lists.
    """
    from vfl.consent import check_disclosures  # it reads the tables of all protocols, this file's too

    guards.heed(two_silos_of(job, spec))
    if job.horizontal:
        check_consent_to_updates(job, spec, guards, columns)
        return
    if job.in_the_clear:
        guards.heed(embedding_exchange(party=spec.name, consent=spec.policy.embedding_gradients))
    setting: KeyHolderSetting = "active" if job.has_silos else job.privacy.key_holder
    _heed_objections(job, spec, guards, spec.policy.key_holder[0] if setting == "auto" else setting)
    guards.heed(protocol_use(spec.policy, party=spec.name, protocols=protocols_of(job)))
    used = (spec.features or ()) if columns is None else columns
    guards.heed(column_use(spec.policy, party=spec.name, columns=used))
    (_check_consent_as_active if spec.role == "active" else _check_consent_as_passive)(job, spec, guards)
    check_disclosures(job, spec, guards)


def two_silos_of(job: Job, spec: PartySpec) -> Verdict | None:
    """Whether sums over the silos of a party may be over two, of which it is one."""
    silos = len(job.holders[spec.holder])
    least = min(silos, least_silos(job)) if job.horizontal else silos
    return two_silos(party=spec.name, holder=spec.holder, silos=least, consent=spec.policy.two_silos)


def _check_consent_as_active(job: Job, spec: PartySpec, guards: Guards) -> None:
    """Labels: randomised as the policy asks for, and not told by which rows are drawn."""
    guards.heed(label_privacy(spec.policy, party=spec.name, epsilon=job.privacy.label_dp_epsilon))
    if job.model == "boosting" and job.boosting.top_rate is not None and not job.alignment.one_sided:
        guards.heed(gradient_sampling(party=spec.name, consent=spec.policy.gradient_sampling))


def _check_consent_as_passive(job: Job, spec: PartySpec, guards: Guards) -> None:
    """Columns: the least rows that will be scored, limits of trees, scores that would be this party's alone."""
    if len(job.holders[spec.holder]) == 1:  # one of several silos may have few of the rows
        least = _held_out(job.split.test_fraction, job.alignment.min_intersection)
        guards.heed(rows_to_score(spec.policy, party=spec.name, rows=least))
    if job.model == "boosting":
        settings = job.boosting
        rows, gap = effective_limits(settings.min_node_rows, settings.min_bin_gap, enforce=True)
        for verdict in tree_limits(spec.policy, party=spec.name, min_node_rows=rows, min_bin_gap=gap):
            guards.heed(verdict)
        return
    consent, passive = spec.policy.partial_scores, len(job.passive_holders)
    if job.model == "splitnn":
        if job.encrypted:
            guards.heed(single_first_layer(party=spec.name, passive_parties=passive, consent=consent))
    elif job.privacy.key_holder == "active" or job.model not in COORDINATOR_MODELS or job.has_silos:
        guards.heed(single_passive(key_holder="active", party=spec.name, passive_parties=passive, consent=consent))


def check_consent_to_rows(job: Job, parts: Parts, spec: PartySpec, guards: Guards) -> None:
    """A passive party's policy against the rows that will be scored, once they are known and before training.

    Where it is not told which these are, it answers for all of its rows, and counts them all. ``parts`` are those of
    its own rows.
    """
    rows = parts.test if is_told(job, spec) else parts.train if job.split.test_fraction else 0
    if spec.role == "passive" and rows:
        guards.heed(rows_to_score(spec.policy, party=spec.name, rows=guards.budget.rows(rows)))


def check_key_holder_consent(terms: Terms, spec: PartySpec, guards: Guards) -> None:
    """The party's policy against who is to hold the key, and what is told then, once that is known."""
    from vfl.consent import check_disclosures  # as above

    if terms.job.encrypted and terms.key_holder not in spec.policy.key_holder:
        _heed_objections(terms.job, spec, guards, terms.key_holder)
    check_disclosures(terms.job, spec, guards, terms.key_holder)


def _heed_objections(job: Job, spec: PartySpec, guards: Guards, holder: KeyHolder) -> None:
    for verdict in objections(
        spec.policy,
        party=spec.name,
        model=job.model,
        key_bits=job.privacy.key_bits if job.encrypted else None,
        key_holder=holder if job.encrypted else None,
        min_intersection=job.alignment.min_intersection,
        max_rounds=job.max_rounds,
    ):
        guards.heed(verdict)


def agree_terms(job: Job, facts: Facts, rows: int, validation: int = 0) -> Terms:
    """What all roles know, from the collected shapes; every role computes the same."""
    columns: dict[str, int] = {}
    for party in job.parties:
        width = facts.get(f"{party.name} columns")
        if type(width) is not int or not (party.role == "active") <= width + 1 <= MAX_COLUMNS:
            raise RemoteProtocolError(f"{party.name} announced no sensible number of columns")
        columns[party.name] = width
    for holder, silos in job.holders.items():
        if len({columns[name] for name in silos}) > 1:
            raise RemoteProtocolError(f"the silos of {holder} announced different numbers of columns")
    outputs = facts.get(f"{job.active} outputs")
    if type(outputs) is not int or not 1 <= outputs <= MAX_COLUMNS:
        raise RemoteProtocolError(f"{job.active} announced no sensible number of scores per row")
    passive_columns = sum(columns[silos[0]] for silos in job.passive_holders.values())
    holder, reason = choose_key_holder(
        job.model,
        job.privacy.key_holder,
        passive_columns,
        len(job.passive_holders),
        outputs,
        job.max_rounds,
        encrypted=job.encrypted,
        silos=job.has_silos,
    )
    check_key_holder(job, holder, reason)
    consent = all(facts.get(f"{name} consent") is True for name in job.passive)
    return Terms(job, holder, reason, rows, outputs, columns, consent, validation)
