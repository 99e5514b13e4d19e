"""Cross-validation of a joint model, on one machine.

The parties align once. A fold is a block of consecutive rows of the agreed order, which a hash has shuffled: fold k of
K is what scikit-learn's ``KFold(K)`` makes of the rows in that order. Every fold is one more training of the whole
protocol, with the fold as its test rows.

*Leakage.* Every training lets the active party open more scores and scores more rows jointly, on the same rows. Between
companies all of it would count in the parties' budgets for this alignment (docs/protocols), and so it does here: the
trainings of a cross-validation, or of a whole `GridSearch`, share one account per party. On one machine its guards only
warn and say what would be refused; with ``privacy={"enforce": True}`` they act. ``spent`` shows the sums. Labels that
are randomised (``label_dp_epsilon``) are randomised anew for every training, so that their epsilons add up.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from vfl.common_alignment import align_once
from vfl.estimators import Estimator
from vfl.federation import Federation, prepare
from vfl.folds import Fold, check_folds, lines_of, play, refuse_silos, sum_of_spent, sum_of_warnings, trainings
from vfl.notebook import Course, table_html
from vfl.own_modules import modules_of


@dataclass(frozen=True, repr=False)
class CrossValidation:
    """Metrics of every fold, and what all trainings together let others learn.

    Attributes
    ----------
    folds : list of Fold
    spent : DataFrame
        Per party, over all folds: ``equations``, scores per row that the active party opened (at the active party) or
        could open of this party's columns; ``rows_scored`` jointly. What budgets between companies would count.
    warnings : list of str
        Of all folds, each once; guards say what would be refused between companies.

    Examples
    --------
    >>> first = Fold(50, {"rmse": 2.0}, None, rounds=7, converged=True, seconds=0.1, warnings=[])
    >>> folds = [first, Fold(50, {"rmse": 4.0}, None, rounds=6, converged=True, seconds=0.1, warnings=[])]
    >>> result = CrossValidation(folds, spent=pd.DataFrame(), warnings=[])
    >>> result
    CrossValidation(2 folds)
    >>> float(result.summary().loc["rmse", "mean"])
    3.0
    """

    folds: list[Fold]
    spent: pd.DataFrame
    warnings: list[str]

    def __repr__(self) -> str:
        return f"CrossValidation({len(self.folds)} folds)"

    def to_frame(self) -> pd.DataFrame:
        """One row per fold: joint metrics, ``active_only_METRIC`` if asked for, rows, rounds, training seconds."""
        return pd.DataFrame(
            [_line(fold) for fold in self.folds], index=pd.RangeIndex(1, len(self.folds) + 1, name="fold")
        )

    def summary(self) -> pd.DataFrame:
        """Mean and standard deviation (over folds, ddof 1) of every metric."""
        names = [f"active_only_{name}" for name in self.folds[0].active_only or ()]
        return self.to_frame()[[*self.folds[0].metrics, *names]].agg(["mean", "std"]).T

    def _repr_html_(self) -> str:
        return table_html(f"{len(self.folds)} folds", self.to_frame()) + table_html("Mean over folds", self.summary())


def cross_validate(
    estimator: Estimator,
    federation: Federation,
    *,
    cv: int = 5,
    seed: int = 0,
    validation_fraction: float = 0.0,
    active_only: bool = False,
    progress: bool = False,
) -> CrossValidation:
    """Judge a joint model by cross-validation over all common rows.

    Each fold is one more training on the same alignment. Between companies its opened scores and its scored rows would
    count in the same budgets as those of the other folds; on one machine the guards only warn, see the module.

    Parameters
    ----------
    estimator : estimator
        What to train.
    cv : int
        Folds, at least 2; blocks of the agreed row order.
    seed : int
        Of the row order, and so of the folds.
    validation_fraction : float
        Boosting and networks: share of all rows held out of every training to watch the loss.
    active_only : bool
        Also judge the same model on the active party's columns alone.
    progress : bool
        Show how far it is.

    Raises
    ------
    VflError
        As a run would raise it.

    Examples
    --------
    >>> from vfl import Federation, LinearRegression, Party
    >>> ids = [f"c{i}" for i in range(200)]
    >>> bank = pd.DataFrame({"client": ids, "income": [i % 7 for i in range(200)]})
    >>> shop = pd.DataFrame({"card": ids, "visits": [i % 5 for i in range(200)]})
    >>> bank["spent"] = bank["income"] + 2.0 * shop["visits"]
    >>> federation = Federation(
    ...     Party("bank", bank, id="client", label="spent"),
    ...     Party("shop", shop, id="card"),
    ...     privacy={"key_bits": 512, "insecure_test_mode": True},  # for this example only; leave it out
    ... )
    >>> result = cross_validate(LinearRegression(), federation, cv=2)
    >>> result.to_frame()["r2"].round(2).tolist()
    [1.0, 1.0]
    >>> int(result.spent.loc["shop", "rows_scored"])
    200
    """
    scenario, tables = prepare(federation, estimator, lines_of(seed, 0.0, validation_fraction))
    refuse_silos(scenario.job)
    modules = modules_of(estimator, scenario.job)
    check_folds(cv)
    with Course(cv, progress) as course:
        with course.step("Aligning ids", counts=False) as report:
            alignment = align_once(scenario, tables, report)
        folds = [
            play(training, tables, alignment, course, active_only=active_only, modules=modules)
            for training in trainings(scenario, cv, alignment.rows, "fold {fold}")
        ]
    return CrossValidation(folds, sum_of_spent(alignment), sum_of_warnings(scenario, [fold.warnings for fold in folds]))


def _line(fold: Fold) -> dict[str, object]:
    """A fold as a line of a table."""
    alone: dict[str, object] = {f"active_only_{name}": value for name, value in (fold.active_only or {}).items()}
    rest = {"rows": fold.rows, "rounds": fold.rounds, "converged": fold.converged, "seconds": fold.seconds}
    return {**fold.metrics, **alone, **rest}
