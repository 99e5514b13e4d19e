"""Figures and names as a reader wants them: three digits that count, thousands separated, no bare identifiers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

METRICS: dict[str, tuple[str, str, bool]] = {
    "auc": ("AUC", "chance that a positive row gets a higher score than a negative one; 0.5 is guessing", True),
    "ks": ("KS", "largest gap between the two classes' cumulative score curves", True),
    "accuracy": ("accuracy", "share of rows whose class is right", True),
    "precision": ("precision", "share of rows called positive that are", True),
    "recall": ("recall", "share of positive rows that are found", True),
    "f1": ("F1", "balance of precision and recall", True),
    "log_loss": ("log loss", "mean surprise about the true class", False),
    "brier": ("Brier score", "mean squared error of the probability", False),
    "macro_f1": ("macro F1", "F1 per class, averaged", True),
    "rmse": ("RMSE", "root of the mean squared error, in the label's unit", False),
    "mae": ("MAE", "mean absolute error, in the label's unit", False),
    "r2": ("R²", "share of the label's variance that is explained", True),
    "poisson_deviance": ("Poisson deviance", "mean distance of counts from their predictions; 0 is perfect", False),
}
"""Per metric: its name, what it means, and whether more is better."""

CHIEF = {"binary": "auc", "multiclass": "accuracy", "regression": "rmse", "count": "poisson_deviance"}
"""The metric that the headline names."""

MODELS = {
    "logistic": "logistic regression",
    "softmax": "multinomial logistic regression",
    "linear": "linear regression",
    "poisson": "Poisson regression",
    "boosting": "model of boosted trees",
    "splitnn": "split neural network",
}

RULES = {
    "fedsgd": (
        "FedSGD",
        "In every round each silo works out the gradient on its own rows, and their sum makes one step (FedSGD).",
    ),
    "fedavg": (
        "FedAvg",
        "In every round each silo trains on its own rows, and the mean of their models, by rows, goes on (FedAvg).",
    ),
    "weighted": (
        "weighted averaging",
        "In every round each silo trains on its own rows, and the mean of their models, by declared weights, goes on.",
    ),
    "simple": (
        "simple averaging",
        "In every round each silo trains on its own rows, and the plain mean of their models goes on.",
    ),
}
"""Per rule of averaging: its name, and what it does."""

_ROUNDS = {"boosting": "tree", "splitnn": "epoch"}


def round_word(model: str, *, rounds: bool = False) -> str:
    """What a round of the training is called, in the singular; ``rounds``: it is one of averaging, whatever the model.

    >>> round_word("boosting"), round_word("splitnn"), round_word("logistic"), round_word("splitnn", rounds=True)
    ('tree', 'epoch', 'round', 'round')
    """
    return "round" if rounds else _ROUNDS.get(model, "round")


def significant(value: float | None, digits: int = 3) -> str:
    """A number with so many digits that count.

    >>> significant(0.70982), significant(53.934), significant(1234567.8), significant(0.0), significant(None)
    ('0.710', '53.9', '1,234,568', '0', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if abs(value) < 1e-4 or abs(value) >= 1e15:
        return f"{value:.{digits - 1}e}".replace("e-0", "e-").replace("e+", "e").replace("-", "−")
    return fixed(value, decimals_for([value], digits))


def decimals_for(values: Iterable[float | None], digits: int = 3) -> int:
    """Decimals with which the smallest of the values keeps so many digits that count; six at most.

    >>> decimals_for([0.618, 0.71]), decimals_for([77.2, 53.9]), decimals_for([2000.0]), decimals_for([0.0, None])
    (3, 1, 0, 3)
    """
    sizes = [abs(value) for value in values if value is not None and math.isfinite(value) and value]
    if not sizes:
        return digits
    return min(6, max(0, digits - 1 - math.floor(math.log10(min(sizes)))))


def fixed(value: float | None, decimals: int) -> str:
    """A number with so many decimals, a real minus sign and thousands separated.

    >>> fixed(-1234.5, 1), fixed(-0.0001, 2), fixed(None, 2)
    ('−1,234.5', '0.00', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.{decimals}f}"
    return text.lstrip("-") if not text.strip("-0.,") else text.replace("-", "−")


def count(value: int | None) -> str:
    """A whole number, thousands separated.

    >>> count(20671), count(None)
    ('20,671', '–')
    """
    return "–" if value is None else f"{value:,}"


def seconds(value: float) -> str:
    """A duration.

    >>> seconds(0.0042), seconds(4.266), seconds(20.59), seconds(4000)
    ('0.00 s', '4.27 s', '20.6 s', '1 h 7 min')
    """
    if value >= 3600:
        return f"{value // 3600:.0f} h {value % 3600 / 60:.0f} min"
    if value >= 600:
        return f"{value / 60:.0f} min"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} s"


def percent(share: float, decimals: int = 1) -> str:
    """A share in percent.

    >>> percent(0.7489), percent(0.05, 0)
    ('74.9 %', '5 %')
    """
    return f"{100 * share:.{decimals}f} %"


def probability(p: float) -> str:
    """A p-value as papers print it.

    >>> probability(0.00002), probability(0.034)
    ('p < 0.001', 'p = 0.034')
    """
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> listed(["bank"]), listed(["bank", "biller", "telco"])
    ('bank', 'bank, biller and telco')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def plural(number: int, one: str, several: str = "") -> str:
    """A counted noun.

    >>> plural(1, "message"), plural(2048, "message"), plural(2, "party", "parties")
    ('1 message', '2,048 messages', '2 parties')
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"
