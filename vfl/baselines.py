"""The two models beside which a joint model is judged: the active party alone, and all data pooled.

Both minimise what the joint run minimises: mean loss + l2 ||w||^2 / 2, the intercept not penalised. scikit-learn gets
close (C = 1 / (n l2) for logistic and softmax, alpha = n l2 for Ridge, alpha = l2 for Poisson); a few Newton
steps then bring the gradient to rounding level, so that the result also serves as w* in tests. ``pooled`` needs all
CSVs in one place: it exists on one machine only.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor, Ridge

from vfl.losses import FAMILIES, Family, Labels, are_estimated, mean_loss, normalise_weights

Floats = NDArray[np.float64]

_NEWTON_STEPS = 50
_GRADIENT_TOLERANCE = 1e-11


def fit_glm(
    model: str,
    X_train: Floats,
    y_train: Labels,
    l2: float,
    fit_intercept: bool = True,
    weights: Floats | None = None,
    n_classes: int = 2,
) -> tuple[Floats, Floats]:
    """Fit a GLM on plain data, to the optimum.

    Parameters
    ----------
    model : {"logistic", "linear", "poisson", "softmax"}
    X_train : ndarray of shape (n, d), float64
        Encoded, standardised columns; d may be 0.
    y_train : ndarray of shape (n,) or, softmax, (n, classes)
        0/1, class codes, or numbers; logistic and softmax also take estimates of labels (``vfl.label_dp``).
    l2 : float
        Weight of ||w||^2 / 2 beside the mean loss.
    weights : ndarray of shape (n,) or None
        Sample weights; scaled to mean 1 here.
    n_classes : int
        Softmax only.

    Returns
    -------
    coef : ndarray of shape (d,), softmax (classes, d)
    intercept : ndarray of shape (), softmax (classes,)
        Softmax: centred to sum 0, which the loss does not see.
    """
    family = FAMILIES[model]
    outputs = n_classes if model == "softmax" else 1
    relative = None if weights is None else normalise_weights(weights)
    theta: Floats = np.zeros((outputs, X_train.shape[1] + 1))
    if fit_intercept:
        theta[:, -1] = family.start(y_train, relative, n_classes)
    if X_train.shape[1]:
        if not are_estimated(family, y_train):  # scikit-learn takes classes only
            start = _sklearn_start(model, X_train, y_train, l2, fit_intercept, relative, outputs)
            theta = theta if start is None else start
        theta = _polish(family, X_train, y_train, l2, fit_intercept, relative, theta)
    if not fit_intercept:
        theta[:, -1] = 0.0  # the solver leaves rounding noise there
    if model == "softmax":
        theta[:, -1] -= theta[:, -1].mean()
        return theta[:, :-1], theta[:, -1]
    return theta[0, :-1], theta[0, -1:].reshape(())


def predict(model: str, X: Floats, coef: Floats, intercept: Floats) -> Floats:
    """P(positive), class probabilities (n, classes), or the predicted number per row."""
    return FAMILIES[model].mean(X @ coef.T + intercept)


def baseline_predictions(
    model: str,
    X_train: Floats,
    y_train: Labels,
    X_test: Floats,
    *,
    n_classes: int = 2,
    l2: float = 0.001,
    fit_intercept: bool = True,
    weights: Floats | None = None,
) -> Floats:
    """Predictions of the test rows by the same model fitted on plain columns.

    ``active_only``: the active party's columns; with none (d = 0) the prediction is the training mean.
    ``pooled``: the columns of all parties that the joint run used, side by side. "without NAME": all but that party's.

    Parameters
    ----------
    X_train, X_test : ndarrays of shape (n_train, d) and (n_test, d), float64
    y_train : ndarray of shape (n_train,)
    n_classes : int
        Softmax only.
    """
    intercept_too = fit_intercept or X_train.shape[1] == 0
    coef, intercept = fit_glm(model, X_train, y_train, l2, intercept_too, weights, n_classes)
    return predict(model, X_test, coef, intercept)


def _sklearn_start(
    model: str, X: Floats, y: Labels, l2: float, fit_intercept: bool, weights: Floats | None, outputs: int
) -> Floats | None:
    """scikit-learn's solution as rows (coef, intercept); None where it has no equivalent (softmax of two classes)."""
    if model == "softmax" and outputs == 2:
        return None
    estimator: LinearRegression | LogisticRegression | PoissonRegressor | Ridge
    if model == "linear" and l2 == 0:
        estimator = LinearRegression(fit_intercept=fit_intercept)  # Ridge divides by the zeros of collinear columns
    elif model == "linear":
        estimator = Ridge(alpha=len(y) * l2, fit_intercept=fit_intercept, solver="svd")
    elif model == "poisson":
        estimator = PoissonRegressor(
            alpha=l2, fit_intercept=fit_intercept, solver="newton-cholesky", tol=1e-6, max_iter=1000
        )
    else:
        inverse = 1 / (len(y) * l2) if l2 > 0 else np.inf
        estimator = LogisticRegression(C=inverse, fit_intercept=fit_intercept, tol=1e-6, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ConvergenceWarning: the Newton steps finish the work
        estimator.fit(X, y, sample_weight=weights)
    coef = np.atleast_2d(np.asarray(estimator.coef_, dtype=np.float64))
    intercept = np.broadcast_to(np.atleast_1d(estimator.intercept_), (outputs,))
    theta = np.column_stack([coef, intercept])
    return theta if np.isfinite(theta).all() and len(theta) == outputs else None


def _polish(
    family: Family, X: Floats, y: Labels, l2: float, fit_intercept: bool, weights: Floats | None, theta: Floats
) -> Floats:
    """Damped Newton steps until the gradient is at rounding level or the loss stops falling."""
    A = np.column_stack([X, np.full(len(X), float(fit_intercept))])
    penalty = np.full(A.shape[1], l2)
    penalty[-1] = 0.0
    value = _objective(family, A, y, penalty, weights, theta)
    for _ in range(_NEWTON_STEPS):
        gradient, hessian = _derivatives(family, A, y, penalty, weights, theta)
        if np.abs(gradient).max() <= _GRADIENT_TOLERANCE:
            break
        newton = np.linalg.lstsq(hessian, -gradient.ravel(), rcond=1e-13)[0]
        step = np.asarray(newton, dtype=np.float64).reshape(theta.shape)
        length, theta, value = _shorten(family, A, y, penalty, weights, theta, step, value)
        if length == 0:
            break
    return theta


def _shorten(
    family: Family,
    A: Floats,
    y: Labels,
    penalty: Floats,
    weights: Floats | None,
    theta: Floats,
    step: Floats,
    value: float,
) -> tuple[float, Floats, float]:
    """Halve a step until the objective does not rise (beyond rounding); length 0 if none helps."""
    for halvings in range(30):
        length = 0.5**halvings
        trial = theta + length * step
        reached = _objective(family, A, y, penalty, weights, trial)
        if reached <= value + 1e-15 * abs(value):
            return length, trial, reached
    return 0.0, theta, value


def _objective(family: Family, A: Floats, y: Labels, penalty: Floats, weights: Floats | None, theta: Floats) -> float:
    z = A @ theta.T
    z = z if family.name == "softmax" else z[:, 0]
    return mean_loss(family, z, y, weights) + float((penalty * theta**2).sum()) / 2


def _derivatives(
    family: Family, A: Floats, y: Labels, penalty: Floats, weights: Floats | None, theta: Floats
) -> tuple[Floats, Floats]:
    """Gradient (outputs, d + 1) and Hessian (outputs (d + 1)) squared, class by class in blocks."""
    n, width = A.shape
    z = A @ theta.T
    relative = np.ones(n) if weights is None else weights
    if family.name == "softmax":
        residual, mu = family.residual(z, y), family.mean(z)
    else:
        residual, mu = family.residual(z[:, 0], y)[:, None], np.zeros((n, 1))
    gradient = (residual * relative[:, None]).T @ A / n + penalty * theta
    hessian = np.zeros((theta.size, theta.size))
    for row in range(len(theta)):
        for column in range(len(theta)):
            if family.name == "softmax":
                second = mu[:, row] * (float(row == column) - mu[:, column])
            else:
                second = family.variance(z[:, 0])
            block = (A * (relative * second)[:, None]).T @ A / n
            hessian[row * width : (row + 1) * width, column * width : (column + 1) * width] = block
    return gradient, hessian + np.diag(np.tile(penalty, len(theta)))
