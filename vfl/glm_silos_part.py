"""A generalised linear model in a run whose parties are made of silos: encode, train, score, save."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from parties.errors import DataError, LocalProtocolError
from parties.leverage import LIMIT, WARN
from parties.link import Endpoint
from parties.policy import Verdict
from vfl import glm, glm_silos, scoring_silos
from vfl.exact import exact_matmul
from vfl.glm import ONES_BITS, Block, Fit
from vfl.glm_part import Columns, check_consent_to_terms
from vfl.optim import Vector
from vfl.prepare import exchange_shapes_as_party
from vfl.shard import save_shard
from vfl.siblings import Siblings
from vfl.silo_columns import encode_silo_columns, quantise_silo
from vfl.silo_sums import Placed
from vfl.terms import Integers, Terms
from vfl.trained import Aligned, Prepared, Progress, Trained

_FLAT = 1e-10  # eigenvalues of a Gram matrix below this share of the largest are rounding


@dataclass(frozen=True)
class _Silo:
    """What a silo trains with, and with whom."""

    placed: Placed = field(repr=False)
    siblings: Siblings = field(repr=False)
    columns: Columns = field(repr=False)


def prepare(endpoint: Endpoint, data: Aligned) -> Prepared:
    """Encode the silo's columns as all silos of its party do, agree on terms, and check what it consents to."""
    siblings, owned = siblings_and_places(data)
    ones = data.spec.role == "active" and data.job.training.fit_intercept
    columns, block, gram = encode(data, siblings, ones=ones)
    rows = data.told[0]
    placed = Placed(block, owned[: data.n_train], rows, gram)
    outputs = len(data.labels.classes) if data.labels is not None and data.job.model == "softmax" else 1
    terms = exchange_shapes_as_party(endpoint, data.job, data.spec, block.width, outputs, rows)
    check_consent_to_terms(terms, data.spec, data.guards, rows)
    return Prepared(
        terms=terms,
        features=len({columns.preprocessor.sources[j] for j in columns.kept}),
        warnings=columns.warnings,
        train=partial(_train, data, terms, _Silo(placed, siblings, columns)),
    )


def siblings_and_places(data: Aligned) -> tuple[Siblings, Integers]:
    """What every party of a federation with silos has."""
    if data.siblings is None or data.owned is None:
        raise LocalProtocolError("a party of a federation without silos was asked for its siblings")
    return data.siblings, data.owned


def encode(data: Aligned, siblings: Siblings, *, ones: bool) -> tuple[Columns, Block, Vector]:
    """The silo's columns, its block, and the Gram matrix X'X / n over all silos."""
    n, rows = data.n_train, data.told[0]
    encoded = encode_silo_columns(data.spec, data.table, data.rows, n, siblings)
    preprocessor, X = encoded.preprocessor, encoded.X
    quantised = quantise_silo(X, n, preprocessor.sources, siblings)
    integers, bits = quantised.integers, quantised.scale_bits
    if ones:
        column = np.full((len(integers), 1), 1 << ONES_BITS, dtype=np.int64)
        integers, bits = np.hstack([integers, column]), np.append(bits, ONES_BITS)
    summed = siblings.words("gram", exact_matmul(integers[:n].T, integers[:n]))
    gram = np.ldexp(summed.astype(np.float64), -(bits[:, None] + bits[None, :])) / rows
    kept = _without_leverage(data, X[:n], gram[: X.shape[1], : X.shape[1]], preprocessor.sources, rows, siblings)
    if data.spec.role == "passive" and not len(kept):
        raise DataError(
            f"party '{data.spec.holder}' has no usable feature column, expected at least one that is not constant over "
            f"the {rows} training rows"
        )
    used = np.append(kept, X.shape[1]) if ones else kept
    penalty = np.full(len(used), data.job.training.l2)
    penalty[len(kept) :] = 0.0
    block = Block(np.ascontiguousarray(integers[:, used]), bits[used], penalty, n)
    if block.width and int(np.abs(block.training).sum(axis=0).max(initial=0)) > glm.column_bound(rows):
        raise LocalProtocolError("a training column is not standardised: its absolute sum is over the agreed bound")
    warnings = (*encoded.warnings, *(f"{data.spec.name}: {line}" for line in quantised.warnings))
    columns = Columns(
        preprocessor,
        np.ascontiguousarray(X[:, kept]),
        np.ascontiguousarray(quantised.integers[:, kept]),
        quantised.scale_bits[kept],
        tuple(int(j) for j in kept),
        warnings,
    )
    return columns, block, gram[np.ix_(used, used)]


def _without_leverage(
    data: Aligned, X: Vector, gram: Vector, names: list[str], rows: int, siblings: Siblings
) -> Integers:
    """Columns left where no own row decides its fitted value; all silos leave out what one of them cannot show.

    As `parties.leverage`, with the hat matrix of all silos' rows, of which each knows its own rows' diagonal.
    """
    guards, kept = data.guards, np.arange(X.shape[1])
    highest = float(_row_leverage(X, gram, rows)[0].max(initial=0.0))
    if highest > WARN:
        because = f"has a row of leverage {highest:.2f}, expected at most {LIMIT if highest > LIMIT else WARN}; "
        because += "rare categories or outliers do that: merge or clip them"
        guards.heed(Verdict("leverage", data.spec.name, "drop" if highest > LIMIT else "warn", because))
    if not guards.enforce:
        return kept
    for turn in range(X.shape[1]):
        share, weight = _row_leverage(X[:, kept], gram[np.ix_(kept, kept)], rows)
        above = np.flatnonzero(share > LIMIT)
        marks = np.zeros(len(kept), dtype=np.int64)
        marks[np.abs(weight[above]).argmax(axis=1) if len(above) else []] = 1
        left_out = siblings.words(f"leverage|{turn}", marks) > 0
        if not left_out.any():
            break
        kept = kept[~left_out]
    return kept


def _row_leverage(X: Vector, gram: Vector, rows: int) -> tuple[Vector, Vector]:
    """Diagonal of the hat matrix of [1, X] at the own rows, and what each column adds to it."""
    if not X.size:
        return np.zeros(len(X)), np.zeros(X.shape)
    values, vectors = np.linalg.eigh(gram)
    good = values > _FLAT * values[-1]
    inverse = (vectors[:, good] / (rows * values[good])) @ vectors[:, good].T
    weight = X * (X @ inverse)
    return np.minimum(weight.sum(axis=1) + 1 / rows, 1.0), weight


def silo_target(data: Aligned, outputs: int, siblings: Siblings) -> glm.Target:
    """Labels and weights of the own training rows, scaled by all silos' rows: see `vfl.glm.make_target`."""
    from vfl.losses import FAMILIES  # scipy takes its time to import, and only these roles need it

    n, rows = data.n_train, data.told[0]
    y, weights = data.labels_to_fit[:n], data.weights
    if weights is not None:
        weights = weights[:n]
        (total,) = siblings.floats("weights", [math.fsum(weights.tolist())])
        if not total > 0:
            raise DataError("the sample weights of the training rows are all zero; expected a positive one")
        weights = weights * (rows / total)
    bits = 0
    if data.job.model == "linear":
        (total,) = siblings.floats("labels", [math.fsum(y.tolist())])
        (spread,) = siblings.floats("spread", [math.fsum(np.square(y - total / rows).tolist())])
        bits = round(math.log2(math.sqrt(spread / rows))) if spread > 0 else 0
        y = np.asarray(np.ldexp(y, -bits))
    if data.job.model == "poisson" and not any(siblings.floats("labels", [math.fsum(y.tolist())])):
        raise DataError(f"party {data.spec.holder}: all labels are 0; task count needs at least one positive count")
    return glm.Target(FAMILIES[data.job.model], y, weights, bits, outputs)


def _train(data: Aligned, terms: Terms, silo: _Silo, endpoint: Endpoint, progress: Progress) -> Trained:
    """Play this silo's part."""
    if data.labels is None:
        fit = glm_silos.passive(endpoint, terms, silo.placed, silo.siblings, data.guards)
    else:
        target = silo_target(data, terms.outputs, silo.siblings)
        if endpoint.name == terms.job.active:
            fit = glm_silos.active(endpoint, terms, silo.placed, target, silo.siblings, data.guards, progress)
        else:
            fit = glm_silos.labelled(endpoint, terms, silo.placed, target, silo.siblings, progress)
    classes = data.labels.classes if data.labels is not None else []
    return Trained(
        rounds=fit.rounds,
        converged=fit.converged,
        losses=fit.losses,
        warnings=fit.warnings,
        score=partial(_score, data, terms, silo, fit),
        alone=lambda: None,
        save=lambda folder: save_shard(Path(folder), terms, data.spec, silo.columns, fit, classes),
    )


def _score(data: Aligned, terms: Terms, silo: _Silo, fit: Fit, endpoint: Endpoint) -> Vector | None:
    """Joint predictions of the own test rows at a silo of the label holder."""
    _, owned = siblings_and_places(data)
    whole = data.whole
    if whole is None or not whole.test:
        return None
    places = owned[data.n_fit :] - (whole.train + whole.validation)
    if data.labels is None:
        scoring_silos.score_as_passive(
            endpoint, terms, silo.placed.block, fit, places, whole.test, data.guards, data.spec.policy
        )
        return None
    from vfl.losses import FAMILIES

    scores = scoring_silos.score_as_labelled(endpoint, terms, silo.placed.block, fit, places, whole.test)
    return FAMILIES[data.job.model].mean(scores if data.job.model == "softmax" else scores[:, 0])
