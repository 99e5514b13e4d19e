"""`vfl.estimating.survey` where parties are made of silos: all roles prepare as in the run, in this process's threads.

A silo's columns and labels are encoded with sums over all silos of its party, so that they play (`rehearsal`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from parties.link import COORDINATOR, Endpoint
from psi.plain import PlainRows, plain_alignment
from psi.verdict import Limit, too_few
from vfl import glm, glm_silos_part
from vfl.check import Own, check_id_columns
from vfl.check_silos import aligned_silo
from vfl.estimating.rehearsal import Rehearsed, rehearse
from vfl.estimating.survey import Survey, read_timed
from vfl.glm import Block, Target
from vfl.glm_exact import bound_bits_of
from vfl.glm_part import check_consent_to_terms
from vfl.job import Job, Scenario
from vfl.optim import Vector
from vfl.parts import Parts
from vfl.prepare import check_consent_to_rows, exchange_shapes_as_coordinator, exchange_shapes_as_party, split_rows
from vfl.siblings import Siblings
from vfl.silo_sums import Placed, first_weights, largest_bound, mean_loss
from vfl.terms import Terms
from vfl.trained import Aligned


@dataclass(frozen=True, slots=True)
class Labelled:
    """What a label silo begins with: ``bound_bits`` as all silos of its party agree."""

    target: Target
    weights: Vector = field(repr=False)
    bound_bits: int


@dataclass(frozen=True, slots=True)
class Ready:
    """A party or silo before its first round; ``labelled`` at those that have labels."""

    data: Aligned = field(repr=False)
    terms: Terms
    placed: Placed
    labelled: Labelled | None


@dataclass(frozen=True, slots=True)
class SiloSurvey:
    """A scenario, prepared in plain by all its silos.

    Attributes
    ----------
    survey : Survey
        Its ``blocks`` are those of whole parties, under the names of their first silos.
    ready : dict of party or silo to Ready
    """

    survey: Survey
    ready: dict[str, Ready] = field(repr=False)
    rehearsed: Rehearsed[Ready | None]

    @property
    def begins(self) -> dict[str, Labelled]:
        """What the label silos begin with; ``weights`` and ``bound_bits`` are the same at all."""
        return {name: one.labelled for name, one in self.ready.items() if one.labelled is not None}

    @property
    def target(self) -> Target:
        """Labels and weights of all silos' training rows, in the agreed order."""
        rows, targets = self.survey.terms.rows, {name: one.target for name, one in self.begins.items()}
        first = targets[self.survey.job.active]
        y = np.zeros((rows, *first.y.shape[1:]), dtype=first.y.dtype)
        weights = None if first.weights is None else np.ones(rows)
        for name, target in targets.items():
            places = self.ready[name].placed.places
            y[places] = target.y
            if weights is not None and target.weights is not None:
                weights[places] = target.weights
        return Target(first.family, y, weights, first.label_bits, first.outputs)


def survey_silos(scenario: Scenario) -> SiloSurvey:
    """Read, align in plain and prepare; nothing is trained.

    Raises
    ------
    VflError
        Whatever would refuse the run before its training.
    """
    import vfl.baselines  # noqa: F401 - here, so that no step below is timed with scikit-learn's import

    job = scenario.job
    owns = {spec.name: read_timed(job, spec) for spec in scenario.parties}
    check_id_columns(scenario.parties)
    found = plain_alignment({name: own.ids for name, own in owns.items()}, job.seed, job.alignment.duplicates)
    common = sum(len(found[name].rows) for name in job.labelled)
    if common < job.alignment.min_intersection:
        raise too_few(common, Limit(job.alignment.min_intersection, tell_small_count=True))
    parts = split_rows(job, common)
    plays: dict[str, Callable[[Endpoint], Ready | None]] = {COORDINATOR: partial(_coordinate, job=job, parts=parts)}
    plays |= {name: partial(_prepare, job=job, own=own, found=found[name], whole=parts) for name, own in owns.items()}
    rehearsed = rehearse(job, plays)
    ready = {name: one for name, one in rehearsed.results.items() if one is not None}
    for name, own in owns.items():
        own.seconds["preparing"] = rehearsed.seconds[name]
    surveyed = Survey(
        scenario=scenario,
        terms=ready[job.active].terms,
        parts=parts,
        owns=owns,
        data={name: one.data for name, one in ready.items()},
        blocks={silos[0]: _together([ready[name].placed for name in silos]) for silos in job.holders.values()},
        binned={},
    )
    return SiloSurvey(surveyed, ready, rehearsed)


def _coordinate(endpoint: Endpoint, *, job: Job, parts: Parts) -> None:
    exchange_shapes_as_coordinator(endpoint, job, parts.train, parts.validation)


def _prepare(endpoint: Endpoint, *, job: Job, own: Own, found: PlainRows, whole: Parts) -> Ready:
    """A party's or silo's part before the first round, as `vfl.session` and `vfl.glm_silos` play it."""
    parts = whole.of(found.owned)
    check_consent_to_rows(job, parts, own.spec, own.guards)
    data = aligned_silo(endpoint, job, own, found, whole)
    siblings, _ = glm_silos_part.siblings_and_places(data)
    ones = own.spec.role == "active" and job.training.fit_intercept
    _, block, gram = glm_silos_part.encode(data, siblings, ones=ones)
    placed = Placed(block, found.owned[: parts.train], whole.train, gram)
    outputs = len(data.classes) if data.classes and job.model == "softmax" else 1
    terms = exchange_shapes_as_party(endpoint, job, own.spec, block.width, outputs, whole.train)
    check_consent_to_terms(terms, own.spec, own.guards, whole.train)
    if data.labels is None:
        siblings.secret()
        return Ready(data, terms, placed, None)
    target = glm_silos_part.silo_target(data, terms.outputs, siblings)
    return Ready(data, terms, placed, _begin(target, terms, placed, siblings))


def _begin(target: Target, terms: Terms, placed: Placed, siblings: Siblings) -> Labelled:
    """Where the silos of the label holder begin, as all of them agree."""
    w = first_weights(placed, terms, target, siblings)
    z = glm.to_scores(glm.forward(placed.block, w))
    own_bits = bound_bits_of(target, float(np.abs(target.residual(z)).max())) if len(z) else None
    bits = largest_bound(siblings, own_bits)
    mean_loss(siblings, target, z, placed.rows, "start loss")
    return Labelled(target, w, bits)


def _together(silos: Sequence[Placed]) -> Block:
    """The training rows of all silos of a party as one block."""
    first = silos[0].block
    integers = np.sum([silo.spread(silo.block.training) for silo in silos], axis=0)
    return Block(integers, first.scale_bits, first.penalty, silos[0].rows)
