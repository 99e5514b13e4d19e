"""``vfl check`` where parties are made of silos: all silos prepare as in a run, in threads of this process.

Columns, categories and labels of silos are encoded with what all silos of their party add up, so that nothing short of
that preparation says what it comes to: every role plays it here over the local network, with the rows that plain sets
say are common. Nothing is trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from parties.columns import encode_labels
from parties.link import COORDINATOR, Endpoint
from parties.local import run_local
from parties.wire import Coordinator
from psi.ids import PreparedIds
from psi.plain import PlainRows, ids_by_holder, plain_alignment
from psi.precheck import LOST_ZEROS, IdCheck
from psi.remedies import ZEROS, remedies
from psi.silos import holders_of
from vfl import boosting_silos_part, glm_silos_part, horizontal_session
from vfl.alignment_consent import roles_of
from vfl.check import Check, Own, PartyCheck, check_id_columns, encode_alone, pairs_in_common, read_and_inspect
from vfl.job import Job, Scenario
from vfl.network_checks import check_torch
from vfl.parts import Parts
from vfl.prepare import check_consent_to_rows, exchange_shapes_as_coordinator, split_rows
from vfl.session import aligned_labels
from vfl.siblings import siblings_of
from vfl.trained import Aligned


@dataclass(frozen=True, slots=True)
class _Brought:
    """What a silo brings once all have prepared."""

    columns: int
    warnings: tuple[str, ...]


def check_silos(scenario: Scenario) -> Check:
    """Read every CSV as a run would, then align in plain and prepare; see `vfl.check.check_scenario`.

    Raises
    ------
    IdsRefused
        Blank or repeated ids.
    VflError
        Whatever would refuse the run before its training; too few common rows are left to `Check.refuse_too_few`.
    """
    check_torch(scenario.job, scenario.parties)
    return (_check_horizontal if scenario.job.horizontal else _check_hybrid)(scenario)


def ids_in_two_silos(ids: Mapping[str, PreparedIds]) -> dict[str, int]:
    """How many ids stand in the lists of two silos, of each party where there are some."""
    lists = {
        holder: Counter(key for name in silos for key in ids[name].ids) for holder, silos in holders_of(ids).items()
    }
    counts = {holder: sum(count > 1 for count in having.values()) for holder, having in lists.items()}
    return {holder: count for holder, count in counts.items() if count}


def _check_hybrid(scenario: Scenario) -> Check:
    """Silos beside passive parties: ids, then columns and labels of the common rows."""
    job = scenario.job
    looked_at = [read_and_inspect(job, spec) for spec in scenario.parties]
    owns = [own for own, _ in looked_at]
    check_id_columns(scenario.parties)
    ids = {own.spec.name: own.ids for own in owns}
    rows = plain_alignment(ids, job.seed, job.alignment.duplicates)
    common = len({place for name in job.labelled for place in rows[name].owned.tolist()})
    by_holder = ids_by_holder(ids)
    changes = remedies(by_holder)
    zeros_matter = any(ZEROS in remedy.change for remedy in changes)
    check = Check(job, (), common, tuple(map(str, changes)), _repetitions(job, ids))
    labels, brought = _labels(job, owns), dict[str, _Brought]()
    if check.enough:
        brought = _prepare(job, owns, rows, common)
        check = replace(check, warnings=(*check.warnings, *_guards_of(owns)))
    else:
        check = replace(check, hints=(*pairs_in_common(by_holder), *check.hints))
    seen = {own.spec.name: found if zeros_matter else found.without(LOST_ZEROS) for own, found in looked_at}
    parties = tuple(_party(job, own, seen[own.spec.name], brought.get(own.spec.name), labels) for own in owns)
    return replace(check, parties=parties)


def _repetitions(job: Job, ids: Mapping[str, PreparedIds]) -> tuple[str, ...]:
    """What becomes of ids that two silos of a party have, where they are not refused."""
    fate = "count for the silo that comes first" if job.alignment.duplicates == "first" else "are left out"
    return tuple(
        f"{count:,} ids of '{holder}' stand in the lists of two of its silos and {fate} "
        f"(alignment.duplicates = '{job.alignment.duplicates}')"
        for holder, count in ids_in_two_silos(ids).items()
    )


def _check_horizontal(scenario: Scenario) -> Check:
    """Silos of one holder alone: no ids, and every row counts."""
    job = scenario.job
    looked_at = [read_and_inspect(job, spec) for spec in scenario.parties]
    owns = [own for own, _ in looked_at]

    def play(endpoint: Endpoint, own: Own) -> _Brought:
        silo = horizontal_session.prepare(endpoint, job, own.spec, own.table, own.guards)
        return _Brought(silo.X.shape[1], silo.warnings)

    brought = _play(job, {own.spec.name: partial(play, own=own) for own in owns}, lambda _: _Brought(0, ()))
    labels = _labels(job, owns)
    parties = tuple(_party(job, own, seen, brought[own.spec.name], labels) for own, seen in looked_at)
    return Check(job, parties, sum(own.table.n_rows for own in owns), (), _guards_of(owns))


def _prepare(job: Job, owns: Sequence[Own], rows: Mapping[str, PlainRows], common: int) -> dict[str, _Brought]:
    """Every role's preparation of the common rows, as in a run: sums, widths, guards."""
    parts = split_rows(job, common)
    model = boosting_silos_part if job.model == "boosting" else glm_silos_part

    def play(endpoint: Endpoint, own: Own) -> _Brought:
        found = rows[own.spec.name]
        check_consent_to_rows(job, parts.of(found.owned), own.spec, own.guards)
        prepared = model.prepare(endpoint, aligned_silo(endpoint, job, own, found, parts))
        ones = own.spec.role == "active" and job.model != "boosting" and job.training.fit_intercept
        return _Brought(prepared.terms.columns[own.spec.name] - ones, prepared.warnings)

    def coordinate(endpoint: Endpoint) -> _Brought:
        exchange_shapes_as_coordinator(endpoint, job, parts.train, parts.validation)
        return _Brought(0, ())

    return _play(job, {own.spec.name: partial(play, own=own) for own in owns}, coordinate)


def aligned_silo(endpoint: Endpoint, job: Job, own: Own, found: PlainRows, whole: Parts) -> Aligned:
    """A silo's data as the run will have them."""
    siblings, parts = siblings_of(endpoint, "silos"), whole.of(found.owned)
    return Aligned(
        job=job,
        spec=own.spec,
        table=own.table,
        rows=found.rows,
        labels=aligned_labels(job, own.spec, own.table, found.rows, parts, siblings),
        guards=own.guards,
        n_train=parts.train,
        n_validation=parts.validation,
        owned=found.owned,
        whole=whole,
        siblings=siblings,
    )


def _play(
    job: Job, plays: Mapping[str, Callable[[Endpoint], _Brought]], coordinate: Callable[[Endpoint], _Brought]
) -> dict[str, _Brought]:
    """All roles side by side, over the local network."""
    roles = {**roles_of(job), COORDINATOR: Coordinator}
    return run_local({**plays, COORDINATOR: coordinate}, roles=roles)


def _guards_of(owns: Sequence[Own]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line for own in owns for line in own.guards.warnings))


def _labels(job: Job, owns: Sequence[Own]) -> dict[str, str]:
    """What each label silo has of its party's classes, in words; refuses labels that no silo's rows can make right."""
    held = {own.spec.name: _own_labels(own) for own in owns if own.table.labels is not None}
    if not held or job.task in ("regression", "count"):
        return {name: f"{len(set(labels))} values" for name, labels in held.items()}
    lead = owns[0].spec if not held else next(own.spec for own in owns if own.spec.name == job.active)
    every = [label for labels in held.values() for label in labels]
    classes = encode_labels(every, job.task, lead.positive_text, lead.holder).classes
    return {name: f"{len(set(labels))} of {len(classes)} classes" for name, labels in held.items()}


def _own_labels(own: Own) -> list[str]:
    """Labels of a silo's rows that may be used."""
    labels = own.table.labels or []
    return [labels[row].strip() for row in own.ids.rows]


def _party(job: Job, own: Own, seen: IdCheck, brought: _Brought | None, labels: Mapping[str, str]) -> PartyCheck:
    """Counts of what a silo brings; its columns after encoding are those of all silos of its party."""
    table, kinds = own.table, list(own.table.kinds.values())
    return PartyCheck(
        name=own.spec.name,
        role=own.spec.role,
        rows=table.n_rows,
        valid_ids=len(own.ids.ids),
        blank_ids=own.ids.missing,
        repeated_ids=own.ids.duplicates,
        numeric=kinds.count("numeric"),
        categorical=kinds.count("categorical"),
        encoded=encode_alone(job, table, own.ids.rows)[0] if brought is None else brought.columns,
        label=labels.get(own.spec.name, ""),
        ids=seen,
        warnings=(*table.warnings, *(() if brought is None else brought.warnings)),
    )
