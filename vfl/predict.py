"""Joint scores of new rows by a model that was trained before: compare whose model it is, align the ids, score.

    P --> A   model    which run its shard is of, sealed
    A --> P   same     whether all shards are of one run
    A --> C   outputs  scores per row
    ... alignment of the new ids (psi.align), with a least number of rows of its own ...
    ... vfl.scoring (linear models), vfl.boosting_scoring (trees), vfl.splitnn_scoring or vfl.split_learning; where
        parties are made of silos vfl.scoring_silos or vfl.boosting_silos_scoring ...

P is every other party, and every silo but the first one of the label holder, which is A. Each silo of the label holder
gets the scores of its own rows.

Leakage
-------
active : which of its new ids all parties have; what scoring tells it
passive : which of its new ids all parties have (not in a one-sided alignment); what scoring tells it
coordinator : scores per row; sizes of the alignment

Threat model
------------
All follow the protocol and are curious. Whose rows are scored is told to all parties: they hold the very ids, and
``min_prediction_rows`` of each policy keeps single people from being looked up. Every scoring is one more linear view
of the passive columns of those rows: a passive party counts the rows before it answers (``scored_rows``), on the
account of the ids that its shard was trained on, so that neither other ids nor a retrained model begins a new account.

>>> [name for name in vars(Wire) if not name.startswith("_")]
['model', 'same', 'outputs']
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from parties.errors import DataError, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint
from parties.policy import rows_to_predict
from parties.wire import Active, Control, Coordinator, DataParty, Message
from psi.align import Alignment, AlignmentSettings, align_coordinator, align_party
from psi.exchange import warnings_of
from vfl import (
    boosting_scoring,
    boosting_scoring_one_sided,
    boosting_silos_scoring,
    consent,
    scoring,
    scoring_one_sided,
    scoring_silos,
    split_learning,
    splitnn_scoring,
)
from vfl.boosting import ActiveFit
from vfl.boosting_part import objective_of
from vfl.events import Report
from vfl.glm import forward, to_scores
from vfl.job import Job
from vfl.kept_model import bottom_of, network_of
from vfl.network_columns import to_fixed
from vfl.new_rows import NewRows
from vfl.optim import Vector
from vfl.prepare import alignment_settings, is_told, listed_rows
from vfl.session import Clock
from vfl.siblings import siblings_of
from vfl.splitnn_shard import SplitShard
from vfl.terms import Integers, Terms
from vfl.tree_shard import TreeShard
from vfl.trees.bins import Codes
from vfl.trees.forest import LEAF, goes_left
from vfl.trees.rounds import Boosted

MAX_OUTPUTS = 1 << 20


class Wire:
    """Messages around the scoring of new rows."""

    model = Message(DataParty, Active, Control)
    same = Message(Active, DataParty, Control)
    outputs = Message(Active, Coordinator, Control)


@dataclass(frozen=True)
class Scored:
    """What a party has after the scoring.

    Parameters
    ----------
    rows : ndarray of shape (n,), int64
        Rows of its new data that were scored, ascending; none where it is not ``told``.
    predicted : ndarray of shape (n,) or (n, classes), float64, or None
        At a party with labels: P(positive), class probabilities, or the predicted number.
    sizes : dict of party name to int
        Distinct valid ids of its own, and the lengths of the others' lists, which may be padded.
    protocol : str
        Of the alignment.
    seconds : dict of "aligning", "scoring" to float
    told : bool
        Whether the party learns which of its rows were scored; not so the passive one of a one-sided alignment.
    intersection : int
        Rows that all parties have; as many as ``rows``, but for a silo, which has some of them.
    """

    rows: Integers = field(repr=False)
    predicted: Vector | None = field(repr=False)
    sizes: dict[str, int]
    protocol: str
    seconds: dict[str, float]
    warnings: tuple[str, ...]
    told: bool = True
    intersection: int = 0


def play_party(endpoint: Endpoint, new: NewRows, report: Report, *, workers: int = 1) -> Scored:
    """Play a party: the active one, or each silo of the label holder, gets the joint scores of its common rows.

    Raises
    ------
    DataError
        The parties' shards are of different runs, or too few ids are common.
    PolicyError
        The party's policy does not consent, and guards are enforced.
    """
    guards, policy, name = new.guards, new.spec.policy, new.spec.name
    job = new.model.kept.job
    if guards.enforce:
        guards.heed(rows_to_predict(policy, party=name, rows=job.alignment.min_prediction_rows))
    consent.check_scoring(job, new.spec, guards)
    endpoint.consent = consent.of(job, new.spec, guards)
    (_compare_as_active if name == job.active else _compare)(endpoint, new)
    clock = Clock(name, report)
    with clock.phase("aligning"):
        alignment = align_party(endpoint, new.valid, settings(job), workers=workers)
        told = is_told(job, new.spec)
        least = job.alignment.min_prediction_rows  # where guards are enforced the coordinator stops below it
        guards.heed(rows_to_predict(policy, party=name, rows=alignment.intersection if told else least))
    guards.budget.bind(new.model.kept.account)
    with clock.phase("scoring"):
        predicted = _score(endpoint, new, alignment)
    order = np.argsort(alignment.rows)
    return Scored(
        rows=alignment.rows[order] if told else alignment.rows[:0],
        predicted=None if predicted is None else predicted[order],
        sizes={**alignment.sizes, name: len(new.valid.ids)},
        protocol=alignment.protocol,
        seconds=clock.seconds,
        warnings=(*new.warnings, *guards.warnings, *warnings_of(job.alignment.protocol, alignment.sizes)),
        told=told,
        intersection=alignment.intersection if told else 0,
    )


def play_coordinator(endpoint: Endpoint, job: Job, report: Report) -> Scored:
    """Play the coordinator: join masked ids, add up masked scores."""
    outputs = endpoint.link(Coordinator, Active, job.active).recv(Wire.outputs).facts.get("outputs")
    if type(outputs) is not int or not 1 <= outputs <= MAX_OUTPUTS:
        raise RemoteProtocolError(f"{job.active} announced no sensible number of scores per row")
    clock = Clock(COORDINATOR, report)
    with clock.phase("aligning"):
        joined = align_coordinator(endpoint, settings(job))
    with clock.phase("scoring"):
        terms = Terms(job, "active", "", 0, outputs, {}, consent=False)  # who holds a key does not matter here
        _add_up(endpoint, terms, joined.intersection)
    return Scored(
        np.zeros(0, dtype=np.int64),
        None,
        joined.sizes,
        joined.protocol,
        clock.seconds,
        (),
        intersection=joined.intersection,
    )


def _add_up(endpoint: Endpoint, terms: Terms, rows: int) -> None:
    """The coordinator's part of scoring so many rows, where it has one."""
    job = terms.job
    if job.has_silos:
        score = boosting_silos_scoring if job.model == "boosting" else scoring_silos
        score.score_as_coordinator(endpoint, terms, rows)
    elif job.model == "splitnn":
        if job.splitnn.mode == "source-layer":
            splitnn_scoring.score_as_coordinator(endpoint, terms, rows)
    elif job.model != "boosting":
        (scoring_one_sided if job.alignment.one_sided else scoring).score_as_coordinator(endpoint, terms, rows)


def settings(job: Job) -> AlignmentSettings:
    """How new ids are aligned: as those of the training, with a least number of rows of its own."""
    enforce = job.privacy.enforce
    least = job.alignment.min_prediction_rows if enforce else 1
    return replace(alignment_settings(job), min_intersection=least)


def predict_alone(new: NewRows, rows: Integers) -> Vector:
    """Predictions of the active party for rows that the others lack, from its own part of the model.

    Linear models take the other parties' columns at their training means; trees go both ways at another party's split,
    weighted as the training rows went (by the sum of h); networks take the other parties' part of the first layer at
    its training mean.

    Parameters
    ----------
    rows : ndarray of shape (n,), int64
        Of its table.

    Returns
    -------
    ndarray of shape (n,) or (n, classes), float64
    """
    shard = new.model.shard
    if isinstance(shard, TreeShard):
        return _to_prediction(new, _expected_scores(shard, new.encoded[rows].astype(np.uint16)))
    if isinstance(shard, SplitShard):
        if shard.typical is None:
            raise TypeError("only the active party predicts")
        return _through_network(new, np.tile(shard.typical, (len(rows), 1)), rows)
    fit = new.weights
    fixed = forward(new.block, fit.weights, slice(0, None))[rows]
    return _to_prediction(new, np.ldexp(to_scores(fixed), fit.label_bits))


def _compare(endpoint: Endpoint, new: NewRows) -> None:
    lead = endpoint.link(DataParty, Active, new.model.kept.job.active)
    lead.send(Wire.model, Control({"run": new.model.kept.run}))
    differs = lead.recv(Wire.same).facts.get("differs")
    if differs is not None:
        if differs not in endpoint.roles:
            raise RemoteProtocolError(f"{lead.peer} sent no proper verdict on the parties' models")
        raise _other_run(str(differs), lead.peer)


def _compare_as_active(endpoint: Endpoint, new: NewRows) -> None:
    links = [endpoint.link(Active, DataParty, name) for name in endpoint.peers(DataParty)]
    told = {link.peer: link.recv(Wire.model).facts.get("run") for link in links}
    differing = [name for name, run in told.items() if run != new.model.kept.run]
    for link in links:
        link.send(Wire.same, Control({"differs": differing[0] if differing else None}))
    if differing:
        raise _other_run(differing[0], endpoint.name)
    coordinator = endpoint.link(Active, Coordinator, COORDINATOR)
    coordinator.send(Wire.outputs, Control({"outputs": new.model.kept.outputs}))


def _other_run(party: str, active: str) -> DataError:
    return DataError(
        f"party '{party}' has a shard of another run than the active party '{active}', expected the same run at all; "
        "name the folder of the same run everywhere"
    )


def _score(endpoint: Endpoint, new: NewRows, alignment: Alignment) -> Vector | None:
    """Joint predictions of the aligned rows, at the active party."""
    shard = new.model.shard
    if isinstance(shard, SplitShard):
        return _score_by_network(endpoint, new, shard, alignment.rows)
    if isinstance(shard, TreeShard):
        scores = _score_by_trees(endpoint, new, shard, alignment)
    else:
        scores = _score_linearly(endpoint, new, alignment)
    return None if scores is None else _to_prediction(new, scores)


def _score_by_trees(endpoint: Endpoint, new: NewRows, shard: TreeShard, alignment: Alignment) -> Vector | None:
    terms, guards, policy = new.model.kept.terms(), new.guards, new.spec.policy
    codes, features = np.asfortranarray(new.encoded[alignment.rows].astype(np.uint16)), shard.binning.features
    one_sided = terms.job.alignment.one_sided
    if terms.job.has_silos:
        held = boosting_silos_scoring.Held(features, codes, _places(alignment), alignment.intersection)
        return _score_by_trees_of_silos(endpoint, new, shard, held)
    if new.spec.role == "passive":
        answer = (boosting_scoring_one_sided if one_sided else boosting_scoring).score_as_passive
        answer(endpoint, terms, shard.splits, features, codes, guards, policy)
        return None
    fit = ActiveFit(Boosted(shard.start, shard.trees, (), (), 0), shard.splits, {})
    if alignment.places is None:
        return boosting_scoring.score_as_active(endpoint, terms, fit, features, codes)
    listed = listed_rows(terms.job, alignment.sizes)
    return boosting_scoring_one_sided.score_as_active(endpoint, terms, fit, features, codes, alignment.places, listed)


def _score_by_trees_of_silos(
    endpoint: Endpoint, new: NewRows, shard: TreeShard, held: boosting_silos_scoring.Held
) -> Vector | None:
    terms = new.model.kept.terms()
    if new.spec.role == "passive":
        boosting_silos_scoring.score_as_passive(endpoint, terms, shard.splits, held, new.guards, new.spec.policy)
        return None
    siblings = siblings_of(endpoint, "scoring")
    return boosting_silos_scoring.score_as_labelled(
        endpoint, terms, shard.trees, shard.splits, shard.start, held, siblings
    )


def _score_by_network(endpoint: Endpoint, new: NewRows, shard: SplitShard, rows: Integers) -> Vector | None:
    terms, guards, policy = new.model.kept.terms(), new.guards, new.spec.policy
    source_layer = terms.job.splitnn.mode == "source-layer"
    if new.spec.role == "active":
        if source_layer:
            first = splitnn_scoring.score_as_active(endpoint, terms, shard.shares, len(rows))
        else:
            first = split_learning.score_as_active(endpoint, terms, len(rows))
        return _through_network(new, first, rows)
    X = np.ascontiguousarray(new.encoded[rows], dtype=np.float64)
    if shard.share is not None:
        splitnn_scoring.score_as_passive(endpoint, terms, shard.share, to_fixed(X), guards, policy)
        return None
    split_learning.score_as_passive(endpoint, terms, bottom_of(new.model), X, guards, policy)
    return None


def _through_network(new: NewRows, first: Vector, rows: Integers) -> Vector:
    """The active party's predictions from what the others add to the first layer."""
    return network_of(new.model).predict(first, np.ascontiguousarray(new.encoded[rows], dtype=np.float64))


def _score_linearly(endpoint: Endpoint, new: NewRows, alignment: Alignment) -> Vector | None:
    terms, guards, policy = new.model.kept.terms(), new.guards, new.spec.policy
    whole, fit = new.block, new.weights
    integers = np.ascontiguousarray(whole.integers[alignment.rows])
    block = type(whole)(integers, whole.scale_bits, whole.penalty, rows=0)
    if terms.job.has_silos:
        places, common = _places(alignment), alignment.intersection
        if new.spec.role == "passive":
            scoring_silos.score_as_passive(endpoint, terms, block, fit, places, common, guards, policy)
            return None
        return scoring_silos.score_as_labelled(endpoint, terms, block, fit, places, common)
    if new.spec.role == "passive":
        answer = (scoring_one_sided if terms.job.alignment.one_sided else scoring).score_as_passive
        answer(endpoint, terms, block, fit, guards, policy)
        return None
    if alignment.places is None:
        return scoring.score_as_active(endpoint, terms, block, fit)
    listed = listed_rows(terms.job, alignment.sizes)
    return scoring_one_sided.score_as_active(endpoint, terms, block, fit, alignment.places, listed)


def _places(alignment: Alignment) -> Integers:
    """Where a party's rows stand among the common ones; of a party without silos all do."""
    return np.arange(alignment.intersection) if alignment.owned is None else alignment.owned


def _to_prediction(new: NewRows, scores: Vector) -> Vector:
    """Scores of shape (n, outputs) to what users read."""
    kept = new.model.kept
    if kept.job.model == "boosting":
        return objective_of(kept.job, kept.outputs).predict(scores)
    from vfl.losses import FAMILIES  # scipy takes its time to import, and only this role needs it

    return FAMILIES[kept.job.model].mean(scores if kept.job.model == "softmax" else scores[:, 0])


def _expected_scores(shard: TreeShard, codes: Codes) -> Vector:
    """Scores where other parties' splits send a row both ways, weighted by cover."""
    own = {(split.tree, split.node): split for split in shard.splits}
    everyone = np.arange(len(codes))
    scores = np.tile(shard.start, (len(codes), 1))
    for number, tree in enumerate(shard.trees):
        share = np.zeros((len(codes), len(tree.owner)))
        share[:, 0] = 1.0
        for node in np.flatnonzero(tree.owner != LEAF).tolist():  # a parent comes before its children
            left = int(tree.left[node])
            if tree.owner[node] == 0:
                to_left = goes_left(shard.binning.features, codes, own[number, node], everyone).astype(np.float64)
            else:
                cover = tree.cover[left : left + 2]
                to_left = np.full(len(codes), cover[0] / cover.sum() if cover.sum() > 0 else 0.5)
            share[:, left] = share[:, node] * to_left
            share[:, left + 1] = share[:, node] * (1 - to_left)
        leaves = tree.owner == LEAF
        added = share[:, leaves] @ tree.values[leaves]
        if tree.output < 0:
            scores += added
        else:
            scores[:, tree.output] += added[:, 0]
    return scores
