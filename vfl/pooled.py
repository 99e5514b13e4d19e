"""The baselines that no federation can have: the same model on several parties' columns side by side.

Only where one machine has every CSV anyway. On all columns, to show what the federation gives away: nothing, up to
fixed point. On all but one passive party's, to show what that party adds: as the model on all columns equals the joint
one, this equals the joint model without that party.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from parties.data import PartyTable, read_party
from parties.policy import Guards
from psi.align import row_order
from psi.ids import PreparedIds
from vfl.boosting_part import make_limits, own_part
from vfl.boosting_part import plain_predictions as plain_trees
from vfl.events import Metrics
from vfl.glm_part import plain_predictions as plain_glm
from vfl.job import Scenario
from vfl.network_columns import encode_new
from vfl.optim import Vector
from vfl.plain_network import plain_predictions as plain_network
from vfl.pooled_silos import frame_of, gather_rows, in_evidence_order, labelled_data
from vfl.prepare import read_ids, split_rows
from vfl.report.evidence import ALONE, JOINT, OWN, POOLED, WITHOUT, Evidence, save_evidence
from vfl.report.summary import References
from vfl.session import aligned_labels
from vfl.shard import load_shard
from vfl.splitnn_shard import load_split_shard
from vfl.terms import Integers
from vfl.trained import Aligned
from vfl.tree_shard import load_tree_shard
from vfl.trees.bins import Codes, Feature
from vfl.trees.grow import Listed, PlainPart
from vfl.trees.shuffle import tie_key

Frames = Mapping[str, pd.DataFrame]
Predict = Callable[[Sequence[str]], Vector]


def refer(
    scenario: Scenario,
    folder: Path,
    evidence: Evidence,
    tables: Mapping[str, PartyTable] | None = None,
    modules: Mapping[str, object] | None = None,
    *,
    baselines: bool = True,
) -> References:
    """Judge the models on columns in one place, and add what they say to the run's ``evidence.npz``.

    They take exactly the columns that the joint run used, encoded as the parties' shards in ``folder`` say.

    Parameters
    ----------
    evidence : Evidence
        Of the joint model, and where one party has all labels, of the active party alone.
    modules : mapping of party name to torch.nn.Module, optional
        Model splitnn: the users' own networks, as they were before the training.
    baselines : bool
        False: the joint model alone, where it is the silos' parts that are put together.
    """
    from vfl.metrics import evaluate
    from vfl.report.statistics import bootstrap_intervals, compare

    job = scenario.job
    silos = len(job.labelled) > 1
    made = _made(scenario, folder, evidence, tables, modules or {}) if baselines else {}
    whole = replace(evidence, predicted=evidence.predicted | made)
    save_evidence(folder if silos else folder / job.active, whole)
    metrics = {name: evaluate(whole.task, whole.y, scores, whole.classes) for name, scores in whole.predicted.items()}
    parts = whole.of_silos()
    judged = [name for name in (whole.predicted if silos else made) if not name.startswith(WITHOUT)]
    return References(
        metrics={name: metrics[name] for name in (JOINT, ALONE, POOLED) if name in judged},
        confidence=bootstrap_intervals(whole, job.seed, judged),
        comparison=compare(whole, job.seed),
        without=_named(metrics, WITHOUT),
        alone=_named(metrics, OWN),
        judged=len(whole.y) if silos else None,
        by_silo={name: evaluate(one.task, one.y, one.predicted[JOINT], one.classes) for name, one in parts.items()},
    )


def _named(metrics: Mapping[str, Metrics], kind: str) -> dict[str, Metrics]:
    """Metrics of models whose names begin so, by the rest of their names."""
    return {name.removeprefix(kind): figures for name, figures in metrics.items() if name.startswith(kind)}


def _made(
    scenario: Scenario,
    folder: Path,
    evidence: Evidence,
    tables: Mapping[str, PartyTable] | None,
    modules: Mapping[str, object],
) -> dict[str, Vector]:
    """Predictions of the test rows by all models beside the joint one."""
    if scenario.job.horizontal:
        return _of_silos(scenario, folder, evidence, tables, modules)
    loaded = {spec.name: tables[spec.name] if tables else read_party(spec) for spec in scenario.parties}
    if scenario.job.has_silos:
        return _with_silos(scenario, folder, evidence, loaded)
    return _predictions(scenario, folder, evidence, loaded, modules)


def _predictions(
    scenario: Scenario,
    folder: Path,
    evidence: Evidence,
    loaded: Mapping[str, PartyTable],
    modules: Mapping[str, object],
) -> dict[str, Vector]:
    """Predictions of the test rows on all columns, and on all but each passive party's in turn."""
    job = scenario.job
    ids = {s.name: read_ids(job, s, loaded[s.name]) for s in scenario.parties}
    rows = plain_alignment(ids, job.seed)
    spec = next(spec for spec in scenario.parties if spec.role == "active")
    table, order = loaded[spec.name], rows[spec.name]
    parts = split_rows(job, len(order))
    labels = aligned_labels(job, spec, table, order, parts)
    data = Aligned(
        job, spec, table, order, labels, Guards(enforce=False, small_data=True), parts.train, parts.validation
    )
    frames = {name: table.features.iloc[rows[name]].reset_index(drop=True) for name, table in loaded.items()}
    if job.model == "boosting":
        whole = {name: loaded[name].features.iloc[ids[name].rows] for name in job.passive if job.alignment.one_sided}
        predict = _trees(folder, data, frames, whole)
    elif job.model == "splitnn":
        predict = _networks(folder, data, frames, modules)
    else:
        predict = _glm(folder, data, frames)
    known = evidence.predicted.get(ALONE)
    return _models(predict, job.active, job.passive, known)


def _with_silos(
    scenario: Scenario, folder: Path, evidence: Evidence, loaded: Mapping[str, PartyTable]
) -> dict[str, Vector]:
    """The same where parties are made of silos; also on the label holder's columns alone, over all its silos."""
    job = scenario.job
    ids = {s.name: read_ids(job, s, loaded[s.name]) for s in scenario.parties}
    gathered = gather_rows(job, ids, folder, loaded)
    data = labelled_data(scenario, gathered, loaded)
    ordered = in_evidence_order(job, gathered, data, evidence, folder)
    members = {silos[0]: frame_of(gathered.places[holder], loaded) for holder, silos in job.holders.items()}
    predict = _trees(folder, data, members, {}) if job.model == "boosting" else _glm(folder, data, members)
    holders = {silos[0]: holder for holder, silos in job.passive_holders.items()}
    known = evidence.predicted.get(ALONE)
    alone = {ALONE: ordered(predict([job.active])) if known is None else known}
    found = _models(lambda names: ordered(predict(names)), job.active, tuple(holders), alone[ALONE])
    named = {f"{WITHOUT}{first}": f"{WITHOUT}{holder}" for first, holder in holders.items()}
    return alone | {named.get(name, name): predicted for name, predicted in found.items()}


def _models(predict: Predict, active: str, passive: Sequence[str], alone: Vector | None) -> dict[str, Vector]:
    """The pooled model, and those without one passive party each; ``alone`` is known of the active party's columns."""
    predicted = {POOLED: predict([active, *passive])}
    for name in passive:
        others = [active, *(other for other in passive if other != name)]
        predicted[WITHOUT + name] = predict(others) if alone is None or len(others) > 1 else alone
    return predicted


def _of_silos(
    scenario: Scenario,
    folder: Path,
    evidence: Evidence,
    tables: Mapping[str, PartyTable] | None,
    modules: Mapping[str, object],
) -> dict[str, Vector]:
    """Where there is no passive party: one model on all silos' rows, and each silo's own; all on all test rows."""
    from vfl.horizontal_part import fit_alone, fit_pooled, gather

    job, classes = scenario.job, evidence.classes
    silos = gather(scenario, folder, tables)
    X = np.vstack([silos[name].X[silos[name].n_fit :] for name in evidence.silos])
    module = modules.get(job.active)
    predicted = {POOLED: fit_pooled(job, list(silos.values()), classes, module=module)(X)}
    alone = {name: fit_alone(job, rows, classes, module=module) for name, rows in silos.items()}
    return predicted | {f"{OWN}{name}": predict(X) for name, predict in alone.items()}


def _glm(folder: Path, data: Aligned, frames: Frames) -> Predict:
    """What fits a GLM on some parties' columns side by side."""
    encoded = {name: _encoded(folder / name, frame) for name, frame in frames.items()}
    return lambda names: plain_glm(data, np.hstack([encoded[name] for name in names]))


def _networks(folder: Path, data: Aligned, frames: Frames, modules: Mapping[str, object]) -> Predict:
    """What trains a network on some parties' columns, as the joint run does, in the clear."""
    outputs = len(data.classes) if data.job.task == "multiclass" else 1
    preprocessors = {name: load_split_shard(folder / name).preprocessor for name in frames}
    encoded = {name: encode_new(preprocessors[name], frame, new_data=False)[0] for name, frame in frames.items()}
    return lambda names: plain_network(data, {name: encoded[name] for name in names}, outputs, modules)


def _trees(folder: Path, data: Aligned, frames: Frames, whole: Frames) -> Predict:
    """What grows trees on some parties' columns side by side, as the joint run does, in the clear.

    ``whole`` has all rows of a party that is not told which of them take part.
    """
    job = data.job
    outputs = len(data.classes) if job.task == "multiclass" else 1
    columns = {name: _binned(folder / name, frame) for name, frame in frames.items()}
    codes_of = {name: _binned(folder / name, frame)[1] for name, frame in whole.items()}
    listed = {name: Listed(codes, tie_key(codes, job.seed)) for name, codes in codes_of.items()}

    def predict(names: Sequence[str]) -> Vector:
        parts: list[PlainPart] = []
        for name in [one for one in (job.active, *job.passive) if one in names]:
            features, codes = columns[name]
            first = sum(len(part.features) for part in parts)
            if name == job.active:
                parts.append(own_part(data.spec, features, codes))
            else:
                parts.append(PlainPart(features, codes, first, make_limits(job), listed=listed.get(name)))
        return plain_trees(data, parts, outputs)

    return predict


def plain_alignment(ids: dict[str, PreparedIds], seed: int) -> dict[str, Integers]:
    """CSV rows of the common ids per party, in the agreed order, without a protocol."""
    position = {name: dict(zip(prepared.ids, prepared.rows.tolist(), strict=True)) for name, prepared in ids.items()}
    common = sorted(set.intersection(*(set(rows) for rows in position.values())))
    order = row_order(common, seed)
    return {name: np.array([rows[common[i]] for i in order], dtype=np.int64) for name, rows in position.items()}


def _encoded(folder: Path, frame: pd.DataFrame) -> Vector:
    shard = load_shard(folder)
    X, _ = shard.preprocessor.transform(frame)
    return X[:, shard.kept]


def _binned(folder: Path, frame: pd.DataFrame) -> tuple[Sequence[Feature], Codes]:
    binning = load_tree_shard(folder).binning
    return binning.features, binning.transform(frame)[0]
