"""What a party consents to: its policy, line by line, and what compares a job with it.

Like the guards in `parties.guards`, which judge what no line of a policy speaks of, these functions return a `Verdict`,
or None where the party consents.

>>> print(common_rows(Policy(), party="shop", min_intersection=50))
policy min_intersection: party 'shop' got alignment.min_intersection 50, expected at least 100, change the job, or \
min_intersection in the party's policy

References
----------
Least rows of nodes and between candidate splits: sums of gradients over sets of rows that differ in few rows differ by
those rows' gradients, which single them out at a passive party.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from parties.guards import (
    SCORE_BITS,
    Guards,
    KeyHolder,
    Level,
    Verdict,
    embedding_exchange,
    first_layer_views,
    gradient_sampling,
    label_rank,
    least_rows,
    score_budget,
    scores_are_rounded,
    single_first_layer,
    single_passive,
    small_batch,
    two_silos,
)

__all__ = [
    "MIN_BIN_GAP",
    "MIN_NODE_ROWS",
    "SCORE_BITS",
    "AlignmentProtocol",
    "Guards",
    "KeyHolder",
    "Level",
    "Model",
    "Policy",
    "Verdict",
    "column_use",
    "common_rows",
    "disclosure",
    "effective_limits",
    "embedding_exchange",
    "first_layer_views",
    "gradient_sampling",
    "label_privacy",
    "label_rank",
    "least_rows",
    "objections",
    "protocol_use",
    "rounding",
    "rows_to_predict",
    "rows_to_score",
    "score_budget",
    "scores_are_rounded",
    "single_first_layer",
    "single_passive",
    "small_batch",
    "spend_rows",
    "tree_limits",
    "two_silos",
    "update_privacy",
]

Model = Literal["logistic", "softmax", "linear", "poisson", "boosting", "splitnn"]
AlignmentProtocol = Literal["ecdh", "kkrt", "mpsi", "server-aided"]

MIN_NODE_ROWS, MIN_BIN_GAP = 200, 10


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a party consents to; the defaults consent to what costs a party the least."""

    models: Annotated[
        tuple[Model, ...], Meta(min_length=1, description="Models that the party lets its columns train.")
    ] = ("logistic", "softmax", "linear", "poisson", "boosting", "splitnn")
    key_bits: Annotated[int, Meta(ge=512, le=4096, description="Smallest Paillier key accepted, bits.")] = 2048
    key_holder: Annotated[tuple[KeyHolder, ...], Meta(min_length=1, description="Who may hold the private key.")] = (
        "active",
        "coordinator",
    )
    min_intersection: Annotated[
        int, Meta(ge=1, description="Smallest alignment.min_intersection of a job accepted, rows.")
    ] = 100
    alignment: Annotated[
        tuple[AlignmentProtocol, ...],
        Meta(
            min_length=1,
            description="Protocols of alignment that the party takes part in. 'server-aided' must be listed: with it "
            "the coordinator and any one other party together can test ids against the party's list.",
        ),
    ] = ("ecdh", "kkrt", "mpsi")
    max_rounds: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Largest training.max_iter, n_estimators or epochs of a job accepted, rounds; none: no limit."
        ),
    ] = None
    partial_scores: Annotated[
        bool,
        Meta(
            description="A passive party lets the active party learn its scores, of splitnn its first-layer outputs "
            "(alone, or past the budget)."
        ),
    ] = False
    embedding_gradients: Annotated[
        bool,
        Meta(
            description="Splitnn in mode split: the party takes part in the exchange of every row's outputs and "
            "gradients in the clear, by which a passive party shows its rows and the active party its labels; asked "
            "of every party, on one machine too."
        ),
    ] = False
    small_data: Annotated[
        bool, Meta(description="Batches below max(16 columns, 512) rows are accepted where the job asks for it.")
    ] = False
    min_node_rows: Annotated[
        int, Meta(ge=0, description="Boosting: smallest training.min_node_rows accepted by this passive party.")
    ] = MIN_NODE_ROWS
    min_bin_gap: Annotated[
        int, Meta(ge=0, description="Boosting: smallest training.min_bin_gap accepted by this passive party.")
    ] = MIN_BIN_GAP
    gradient_sampling: Annotated[
        bool,
        Meta(
            description="Boosting with GOSS: the active party lets the passive parties learn which rows have large "
            "gradients."
        ),
    ] = False
    feature_importance: Annotated[
        bool,
        Meta(
            description="Boosting: the party lets the others see how much each of its columns matters, by number and "
            "without name; false: only their total."
        ),
    ] = True
    columns: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...] | None,
        Meta(
            description="Own feature columns that joint models may use; a job that would use another one is refused; "
            "none: all that the party's file leaves in use."
        ),
    ] = None
    disclosures: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(
            description="Messages by which others may learn something from this party, by name or pattern, such as "
            '`["align.*", "ecdh.*", "verdict.*", "prepare.*", "glm_quadratic.*", "scoring.total"]`; `vfl audit` lists '
            "the names."
        ),
    ] = ("*",)
    label_dp_epsilon: Annotated[
        Annotated[float, Meta(ge=1e-6, le=50)] | None,
        Meta(
            description="Active party: largest privacy.label_dp_epsilon of a job accepted; a job that does not "
            "randomise the labels is refused; none: labels need not be randomised."
        ),
    ] = None
    two_silos: Annotated[
        bool,
        Meta(
            description="Silo: sums over two silos, one of them this one, are accepted; each can work out the other's "
            "part."
        ),
    ] = False
    max_dp_epsilon: Annotated[
        Annotated[float, Meta(ge=0.01, le=1000)] | None,
        Meta(
            description="Silo without a passive party: largest epsilon of the noise on gradients (privacy.dp) "
            "accepted; a job without such noise is refused; none: no noise is needed."
        ),
    ] = None
    scored_rows: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(
            description="Passive party: most rows that may be scored jointly, over all runs on one alignment; the "
            "test rows of trainings count, and predictions with the models trained on it; none: no limit."
        ),
    ] = None
    score_bits: Annotated[
        Annotated[int, Meta(ge=0, le=32)] | None,
        Meta(
            description="Passive party of a linear model, or of splitnn in mode split: fraction bits left of its "
            "scores (outputs) where rows are scored jointly, test rows too; none: all."
        ),
    ] = None
    min_prediction_rows: Annotated[
        int,
        Meta(ge=1, description="Smallest alignment.min_prediction_rows of a job accepted for predictions, rows."),
    ] = 100
    unmatched_rows: Annotated[
        Literal["list", "score"],
        Meta(
            description="Active party, predictions: rows whose id another party lacks are listed in a file of their "
            "own, or scored on its own columns alone, which is no message and tells nobody anything."
        ),
    ] = "list"


def objections(
    policy: Policy,
    *,
    party: str,
    model: Model,
    key_bits: int | None,
    key_holder: KeyHolder | None,
    min_intersection: int | None,
    max_rounds: int,
) -> tuple[Verdict, ...]:
    """Everything in a job that a party's policy does not consent to; empty: it consents.

    Parameters
    ----------
    policy : Policy
        The party's own.
    party : str
        Its name.
    model, min_intersection : Model, int (rows)
        As the job has them; None: nothing is aligned.
    key_bits : int or None, bits
        Length of the run's key; None: it needs no key.
    key_holder : KeyHolder or None
        Who holds it, never "auto".
    max_rounds : int
        The most rounds that the job can take.
    """
    found = []
    if model not in policy.models:
        found.append(_refuse("models", party, f"model '{model}'", " or ".join(policy.models)))
    if key_bits is not None and key_bits < policy.key_bits:
        found.append(_refuse("key_bits", party, f"{key_bits} bits", f"at least {policy.key_bits}"))
    if key_holder is not None and key_holder not in policy.key_holder:
        found.append(_refuse("key_holder", party, f"key holder '{key_holder}'", " or ".join(policy.key_holder)))
    few = None if min_intersection is None else common_rows(policy, party=party, min_intersection=min_intersection)
    if few is not None:
        found.append(few)
    if policy.max_rounds is not None and max_rounds > policy.max_rounds:
        found.append(_refuse("max_rounds", party, f"up to {max_rounds} rounds", f"at most {policy.max_rounds}"))
    return tuple(found)


def _refuse(key: str, party: str, got: object, expected: object) -> Verdict:
    """A job asks for what a line of the party's policy does not consent to."""
    way_out = f"change the job, or {key} in the party's policy"
    return Verdict(f"policy {key}", party, "refuse", f"got {got}, expected {expected}, {way_out}")


def common_rows(policy: Policy, *, party: str, min_intersection: int) -> Verdict | None:
    """Refuse a job in which fewer common rows are told than the party's policy asks for."""
    if min_intersection >= policy.min_intersection:
        return None
    least = f"at least {policy.min_intersection}"
    return _refuse("min_intersection", party, f"alignment.min_intersection {min_intersection}", least)


def protocol_use(policy: Policy, *, party: str, protocols: Sequence[AlignmentProtocol]) -> Verdict | None:
    """Refuse an alignment of which no protocol that it may take is listed in the party's policy.

    >>> print(protocol_use(Policy(), party="shop", protocols=["server-aided"]))
    policy alignment: party 'shop' got protocol 'server-aided', expected ecdh or kkrt or mpsi, change the job, or \
alignment in the party's policy
    """
    if any(protocol in policy.alignment for protocol in protocols):
        return None
    got = " or ".join(f"'{protocol}'" for protocol in protocols)
    return _refuse("alignment", party, f"protocol {got}", " or ".join(policy.alignment))


def column_use(policy: Policy, *, party: str, columns: Iterable[str]) -> Verdict | None:
    """Refuse feature columns in use that the party's policy does not list.

    >>> print(column_use(Policy(columns=("visits",)), party="shop", columns=["visits", "income"]))
    policy columns: party 'shop' got column 'income' in use, expected one of 'visits', list it in drop in the party's \
file, or in columns in its policy
    """
    if policy.columns is None:
        return None
    allowed = {unicodedata.normalize("NFC", name) for name in policy.columns}
    beyond = [name for name in columns if unicodedata.normalize("NFC", name) not in allowed]
    if not beyond:
        return None
    more = f" and {len(beyond) - 1} more" if beyond[1:] else ""
    listed = "one of " + ", ".join(f"'{name}'" for name in policy.columns) if policy.columns else "none"
    way_out = "list it in drop in the party's file, or in columns in its policy"
    return Verdict(
        "policy columns", party, "refuse", f"got column '{beyond[0]}'{more} in use, expected {listed}, {way_out}"
    )


def disclosure(policy: Policy, *, party: str, message: str, discloses: str, to: str) -> Verdict | None:
    """Refuse a message by which others would learn what no pattern of the party's policy lets out.

    Parameters
    ----------
    message : str
        Its name, such as "ecdh.tags".
    discloses : str
        What is learnt from it, in words.
    to : str
        By whom.

    Examples
    --------
    >>> what = {"message": "ecdh.tags", "discloses": "how many ids are common", "to": "the coordinator"}
    >>> disclosure(Policy(), party="shop", **what) is disclosure(Policy(disclosures=("ecdh.*",)), party="shop", **what)
    True
    >>> print(disclosure(Policy(disclosures=("align.*",)), party="shop", **what).guard)
    policy disclosures (ecdh.tags)
    """
    if any(fnmatchcase(message, pattern) for pattern in policy.disclosures):
        return None
    listed = ", ".join(f"'{pattern}'" for pattern in policy.disclosures) or "no message"
    because = (
        f"got '{message}', by which {to} would learn {discloses}, expected {listed}; change the job, or disclosures in "
        "the party's policy"
    )
    return Verdict(f"policy disclosures ({message})", party, "refuse", because)


def label_privacy(policy: Policy, *, party: str, epsilon: float | None) -> Verdict | None:
    """Refuse labels that are randomised less than the active party's policy asks for, or not at all."""
    most = policy.label_dp_epsilon
    if most is None or (epsilon is not None and epsilon <= most):
        return None
    got = "labels that are not randomised" if epsilon is None else f"privacy.label_dp_epsilon {epsilon:g}"
    return _refuse("label_dp_epsilon", party, got, f"at most {most:g}")


def update_privacy(policy: Policy, *, party: str, epsilon: float | None) -> Verdict | None:
    """Refuse silos' updates with less noise than a silo's policy asks for, or with none.

    ``epsilon`` is that of the whole training; None: no noise is added.

    >>> print(update_privacy(Policy(max_dp_epsilon=2), party="clinics.north", epsilon=None))
    policy max_dp_epsilon: party 'clinics.north' got updates without noise (privacy.dp), expected epsilon at most 2, \
change the job, or max_dp_epsilon in the party's policy
    """
    most = policy.max_dp_epsilon
    if most is None or (epsilon is not None and epsilon <= most):
        return None
    got = "updates without noise (privacy.dp)" if epsilon is None else f"epsilon {epsilon:.3g} of privacy.dp"
    return _refuse("max_dp_epsilon", party, got, f"epsilon at most {most:g}")


def rows_to_score(policy: Policy, *, party: str, rows: int) -> Verdict | None:
    """Refuse to score more rows jointly than the passive party's policy allows on one alignment.

    ``rows`` are all rows over all runs on the alignment, the coming ones included.
    """
    if policy.scored_rows is None or rows <= policy.scored_rows:
        return None
    return _refuse("scored_rows", party, f"{rows:,} rows scored jointly in all", f"at most {policy.scored_rows:,}")


def spend_rows(guards: Guards, policy: Policy, *, party: str, rows: int, content: Sequence[bytes]) -> None:
    """Count a passive party's rows of this run that are scored jointly, before it answers for them.

    Parameters
    ----------
    rows : int
        Rows to be scored.
    content : sequence of bytes
        What the answers depend on: the same again, in a run that goes on after a crash, counts once.

    Raises
    ------
    PolicyError
        Over all runs on this alignment they are more than ``scored_rows``, and guards are enforced; nothing is counted.
    """

    def permit(total: int) -> None:
        guards.heed(rows_to_score(policy, party=party, rows=total))

    guards.budget.spend_rows(1, rows, content, permit)


def rows_to_predict(policy: Policy, *, party: str, rows: int) -> Verdict | None:
    """Refuse to score fewer rows at a time than the party's policy asks for: it would single people out.

    ``rows`` are those of the prediction, or, before they are known, the least that the job allows.
    """
    if rows >= policy.min_prediction_rows:
        return None
    because = (
        f"got {rows:,} rows to score at a time, expected at least {policy.min_prediction_rows:,}; score more rows at "
        "a time, or change alignment.min_prediction_rows in the job and min_prediction_rows in the party's policy"
    )
    return Verdict("policy min_prediction_rows", party, "refuse", because)


def rounding(policy: Policy, *, party: str) -> Verdict | None:
    """Round a passive party's scores where its policy says so; like dropping columns this acts where guards do."""
    if policy.score_bits is None:
        return None
    because = f"rounds its scores to {policy.score_bits} fraction bits (score_bits in its policy)"
    return Verdict("policy score_bits", party, "round", because)


def effective_limits(asked_rows: int | None, asked_gap: int | None, enforce: bool) -> tuple[int, int]:
    """Least rows of a node that passive parties split, and between two of their candidate splits, in a run.

    Parameters
    ----------
    asked_rows, asked_gap : int or None
        ``training.min_node_rows`` and ``training.min_bin_gap`` of the job; None: MIN_NODE_ROWS and MIN_BIN_GAP where
        guards are enforced, else 0.
    enforce : bool

    Examples
    --------
    >>> effective_limits(None, None, enforce=True), effective_limits(None, 3, enforce=False)
    ((200, 10), (0, 3))
    """
    rows, gap = (MIN_NODE_ROWS, MIN_BIN_GAP) if enforce else (0, 0)
    return rows if asked_rows is None else asked_rows, gap if asked_gap is None else asked_gap


def tree_limits(policy: Policy, *, party: str, min_node_rows: int, min_bin_gap: int) -> tuple[Verdict, ...]:
    """Refuse limits of a run below those that a passive party's policy asks for; see `effective_limits`.

    The active party opens sums of gradients per bin of a node. The difference of two sums over sets that differ in few
    rows is the sum over those rows, whose gradients it knows: small nodes and near candidates single rows out.
    """
    found = []
    for guard, splits, got, expected in (
        ("min node rows", "splits nodes of as few as {} rows", min_node_rows, policy.min_node_rows),
        ("min bin gap", "has candidate splits as near as {} rows", min_bin_gap, policy.min_bin_gap),
    ):
        key = guard.replace(" ", "_")
        because = (
            f"{splits.format(got)}, expected at least {expected}: differences of sums would single out rows; raise "
            f"training.{key}, or lower {key} in the party's policy"
        )
        found += [Verdict(guard, party, "refuse", because)] if got < expected else []
    return tuple(found)
