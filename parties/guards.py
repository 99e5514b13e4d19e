"""Guards: what a run would let others learn, judged by sizes that all parties know, or by the owner's own columns.

Every guard is a pure function; it returns a `Verdict`, or None where all is well. `Guards.heed` gives a verdict its
effect: between companies (``enforce``) a refusal ends the run; on one machine, where all CSVs lie in one place anyway,
it becomes a warning that says what would be refused. What compares a job with a party's policy stands in
`parties.policy`.

>>> guards = Guards(enforce=False, small_data=False)
>>> guards.heed(label_rank(columns=300, rows=1000, party="card-network"))
False
>>> guards.warnings
["guard: label rank: party 'card-network' has 300 columns for 1000 rows, rank 0.30, expected at most 0.25, \
use fewer columns or more rows"]

References
----------
Label rank, small batches: exact gradients are linear equations on the residuals, and at zero weights subset sums of
the rows, which lattice reduction solves when the batch is small. Score budget: every opened vector of summed scores is
one more linear view of the passive columns; as many views as columns give their column space. The same holds of the
outputs of a first layer. Leverage: the diagonal of the hat matrix, the share of a row's fitted value that its own label
decides. Gradients of single rows: their norm and direction tell labels (O. Li et al., *Label Leakage and Protection in
Two-party Split Learning*, ICLR 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from parties.budget import Budget
from parties.errors import PolicyError

KeyHolder = Literal["active", "coordinator"]

SCORE_BITS = 8
"""Fraction bits that are left of opened scores once the score budget is spent with every passive party's consent."""

_WORKED_OUT = "which tell it their column space, and over several epochs the columns but for a rotation"

Level = Literal["warn", "drop", "round", "stop", "refuse", "forbid"]
"""How grave: "forbid" refuses wherever guards are asked, all others refuse or act where guards are enforced."""
_WOULD = {
    "drop": "columns would be left out",
    "round": "scores would be rounded",
    "stop": "training would stop here",
    "refuse": "this would be refused",
}


@dataclass(frozen=True)
class Verdict:
    """What a guard found: which guard, whose, how grave, and why (got, expected, what to do)."""

    guard: str
    party: str
    level: Level
    because: str

    def __str__(self) -> str:
        return f"{self.guard}: party '{self.party}' {self.because}"


@dataclass(frozen=True)
class Guards:
    """How verdicts act in one party's process.

    Parameters
    ----------
    enforce : bool
        True between companies, or where the job says so: refusals end the run. False: they only warn.
    small_data : bool
        The job asks for small data, and this party's policy allows it.
    budget : Budget
        Counts what this party has let others learn; by default of the present run alone.
    """

    enforce: bool
    small_data: bool
    budget: Budget = field(default_factory=Budget, repr=False)
    _heard: dict[tuple[str, str, Level], str] = field(default_factory=dict, init=False, repr=False)

    @property
    def warnings(self) -> list[str]:
        """Warnings so far in the order of their first occurrence; one per guard, party and level."""
        return list(self._heard.values())

    def heed(self, verdict: Verdict | None) -> bool:
        """Give a verdict its effect; True: the caller acts on it.

        "stop": it ends here; "drop": it leaves columns out; "round": it rounds scores.

        Raises
        ------
        PolicyError
            The verdict refuses, and guards are enforced, or it forbids.
        """
        if verdict is None:
            return False
        if verdict.level == "forbid" or (verdict.level == "refuse" and self.enforce):
            raise PolicyError(str(verdict))
        text = str(verdict)
        if verdict.level != "warn" and not self.enforce:
            text = f"between companies {_WOULD[verdict.level]} because {text}"
        self._heard.setdefault((verdict.guard, verdict.party, verdict.level), f"guard: {text}")
        return self.enforce and verdict.level in ("stop", "drop", "round")


def single_passive(*, key_holder: KeyHolder, party: str, passive_parties: int, consent: bool) -> Verdict | None:
    """Refuse where the opened sum of passive scores is one party's own scores and it has not consented.

    With the key at the active party (for poisson and softmax the only way) the active party opens the sum of all
    passive scores. ``party`` is the passive party, ``consent`` its policy's partial_scores.
    """
    if key_holder != "active" or passive_parties != 1 or consent:
        return None
    because = (
        "is the only passive party, so that the active party, which holds the key, would learn its very scores; "
        "got no consent, expected partial_scores = true in its policy, or, without silos, "
        "privacy.key_holder = 'coordinator' (logistic and linear)"
    )
    return Verdict("single passive party", party, "refuse", because)


def score_budget(
    *, evaluations: int, scores: int, passive_columns: Sequence[int], party: str, consent: bool
) -> Verdict | None:
    """The active party's budget of opened scores, evaluations * scores / sum of passive columns.

    Parameters
    ----------
    evaluations : int
        Vectors of summed passive scores opened so far, the coming one included.
    scores : int
        Scores per row: the number of classes for softmax, else 1.
    passive_columns : sequence of int
        Columns of each passive party after encoding.
    party : str
        The active party.
    consent : bool
        Every passive party's policy allows partial_scores.

    Returns
    -------
    Verdict or None
        "warn" above 0.5; "stop" from 1 on, without consent. With it see `scores_are_rounded`.
    """
    spent = evaluations * scores / max(sum(passive_columns), 1)
    if spent <= 0.5:
        return None
    columns = f"{sum(passive_columns)} passive columns"
    if spent < 1 or consent:
        because = f"has opened scores for more than half of its budget: {columns}, {scores} score(s) per row"
        return Verdict("score budget", party, "warn", because)
    because = (
        f"got {evaluations} evaluations of {scores} score(s) per row, expected fewer equations than {columns}; "
        "fewer rounds, more columns, or partial_scores = true in every passive party's policy"
    )
    return Verdict("score budget", party, "stop", because)


def scores_are_rounded(
    guards: Guards, *, evaluations: int, scores: int, passive_columns: Sequence[int], consent: bool
) -> bool:
    """Whether scores are rounded to 2^-SCORE_BITS from here on: guards enforced, budget spent, all consent."""
    return guards.enforce and consent and evaluations * scores >= sum(passive_columns)


def label_rank(*, columns: int, rows: int, party: str) -> Verdict | None:
    """Rank of what a passive party learns about the labels, its columns / rows (of a fixed batch, or of all).

    Its exact gradients are linear equations on the residuals; however many rounds there are, a fixed set of rows
    gives at most as many independent ones as the party has columns (after encoding). Warn above 0.25, refuse from 1.
    """
    rank = columns / max(rows, 1)
    if rank <= 0.25:
        return None
    because = f"has {columns} columns for {rows} rows, rank {rank:.2f}, expected "
    if rank < 1:
        return Verdict("label rank", party, "warn", because + "at most 0.25, use fewer columns or more rows")
    return Verdict("label rank", party, "refuse", because + "below 1, use fewer columns or more rows")


def least_rows(columns: int) -> int:
    """Rows that a batch needs beside a party's columns, max(16 columns, 512)."""
    return max(16 * columns, 512)


def small_batch(guards: Guards, *, rows: int, columns: int, party: str) -> Verdict | None:
    """Refuse batches, the full one too, of fewer than max(16 columns, 512) rows unless small data is allowed.

    At zero weights an exact gradient of a small batch is a subset sum of its rows that lattice reduction solves.
    """
    if guards.small_data or rows >= least_rows(columns):
        return None
    because = (
        f"has {columns} columns, and a batch has {rows} rows, expected at least {least_rows(columns)} "
        "(16 per column, no fewer than 512); use more rows, or small_data = true in [privacy] and in its policy"
    )
    return Verdict("small data", party, "refuse", because)


def two_silos(*, party: str, holder: str, silos: int, consent: bool) -> Verdict | None:
    """Refuse sums over two silos without consent: each takes off its own part, and has the other's.

    The silos of a party add up what they learn from their rows (counts, means, gradients), so that none shows its own
    part; of two there is one other.

    Parameters
    ----------
    party : str
        A silo.
    holder : str
        Its party.
    silos : int
        How many silos a sum of that party is over at least.
    consent : bool
        The silo's policy allows two_silos.
    """
    if silos != 2 or consent:
        return None
    because = (
        f"may be one of two silos of '{holder}' in a sum, so that each can work out the other's part (means, counts, "
        "gradients); got no consent, expected two_silos = true in the policy of every silo, or three silos and more"
    )
    return Verdict("two silos", party, "refuse", because)


def gradient_sampling(*, party: str, consent: bool) -> Verdict | None:
    """Refuse GOSS without the active party's consent: the rows drawn tell the passive parties where it errs most.

    ``party`` is the active party, ``consent`` its policy's gradient_sampling.
    """
    if consent:
        return None
    because = (
        "samples rows by their gradients (top_rate, other_rate), so that the passive parties learn which rows have "
        "large ones; got no consent, expected gradient_sampling = true in its policy, or training.subsample instead"
    )
    return Verdict("gradient sampling", party, "refuse", because)


def embedding_exchange(*, party: str, consent: bool) -> Verdict | None:
    """Forbid, on one machine too, that single rows' outputs and gradients are exchanged without a party's consent.

    In mode split a passive party shows what its network makes of every row, and the active party every row's gradient,
    which tells of the row's label. ``party`` is any party, ``consent`` its policy's embedding_gradients.
    """
    if consent:
        return None
    because = (
        "would exchange every row's outputs and gradients in the clear (training.mode = 'split'), which tell of rows "
        "and labels; got no consent, expected embedding_gradients = true in its policy ([party.policy] of a scenario, "
        "[policy] of a party file), or training.mode = 'source-layer'"
    )
    return Verdict("embedding gradients", party, "forbid", because)


def single_first_layer(*, party: str, passive_parties: int, consent: bool) -> Verdict | None:
    """Refuse where the opened sum of first-layer outputs is one party's own and it has not consented.

    As `single_passive`, for networks: ``party`` is the passive party, ``consent`` its policy's partial_scores.
    """
    if passive_parties != 1 or consent:
        return None
    because = (
        "is the only passive party, so that the active party would learn its very first-layer outputs; got no consent, "
        "expected partial_scores = true in its policy, or a second passive party"
    )
    return Verdict("single passive party", party, "refuse", because)


def first_layer_views(
    *, epochs: int, units: int, passive_columns: Sequence[int], party: str, consent: bool
) -> Verdict | None:
    """The active party's views of the passive columns through a network's first layer, epochs * units / columns.

    In every epoch it opens, for each unit, the sum over the passive parties of its outputs for all rows: one more
    linear view of their columns. It knows its own steps between them, so that from as many views as columns inner
    products of rows follow too. Unlike the rounds of a GLM the epochs are known before training, and so is the verdict.

    Parameters
    ----------
    epochs : int
        Most epochs, those of earlier runs on the same rows included.
    units : int
        Outputs of the first layer.
    passive_columns : sequence of int
        Columns of each passive party after encoding.
    party : str
        The active party.
    consent : bool
        Every passive party's policy allows partial_scores.

    Returns
    -------
    Verdict or None
        "warn" above 0.5; "refuse" from 1 on, without consent.
    """
    views, columns = epochs * units, sum(passive_columns)
    if 2 * views <= columns:
        return None
    because = f"would open up to {views:,} views of {columns:,} passive columns ({epochs:,} epochs of {units:,} units)"
    if views < columns:
        return Verdict("first-layer views", party, "warn", f"{because}, more than half of its budget")
    if consent:
        return Verdict("first-layer views", party, "warn", f"{because}, {_WORKED_OUT}")
    because += (
        f", {_WORKED_OUT}; expected fewer views than columns: lower training.units or training.epochs, bring more "
        "columns, or set partial_scores = true in every passive party's policy"
    )
    return Verdict("first-layer views", party, "refuse", because)
