"""Rounds until silos' averaged models judge test rows as well as one on all rows: ``python -m benchmarks.averaging``.

Logistic regression by FedSGD (gradients added, L-BFGS), FedAvg (means by rows), declared weights and simple means, two
local passes per round of steps that suit the data (0.1 and 0.02: larger ones keep the weights moving around the
optimum); on the three hospitals of ``scenarios/hospitals`` and on the credit-card customers that
``scenarios/credit_default`` has in common, dealt out to five unequal silos. Printed is the least number of rounds from
which on the test AUC stays within 0.002 of the pooled model's; and how far FedSGD's weights are from the pooled ones
once both are at the optimum.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vfl import Federation, JointModel, LogisticRegression, Party, Silo
from vfl.horizontal_shard import load_horizontal_shard

Floats = NDArray[np.float64]

ROUNDS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 60)
RULES = ("fedsgd", "fedavg", "weighted", "simple")
NEAR = 0.002
STEPS = {"diagnosis": 0.1, "default.payment.next.month": 0.02}
"""Learning rate of the local passes, by the label's column."""
SCENARIOS = Path(__file__).parents[1] / "scenarios"


def hospitals() -> tuple[dict[str, pd.DataFrame], str]:
    """The three hospitals' rows, and their label."""
    folder = SCENARIOS / "hospitals"
    return {name: pd.read_csv(folder / f"{name}.csv") for name in ("university", "county", "rural")}, "diagnosis"


def customers() -> tuple[dict[str, pd.DataFrame], str]:
    """Rows of the credit-card scenario that all three companies have, in five silos of one to five parts."""
    folder, ids = SCENARIOS / "credit_default", {"bank": "customer_id", "card_network": "client"}
    whole = None
    for name in ("bank", "card_network", "biller"):
        frame = pd.read_csv(folder / f"{name}.csv", dtype={ids.get(name, "account_holder"): str})
        frame = frame.rename(columns={ids.get(name, "account_holder"): "patient"})
        whole = frame if whole is None else whole.merge(frame, on="patient")
    assert whole is not None
    silo = np.random.default_rng(0).choice(5, size=len(whole), p=np.arange(1, 6) / 15)
    return {f"s{i}": whole[silo == i].reset_index(drop=True) for i in range(5)}, "default.payment.next.month"


def play(frames: Mapping[str, pd.DataFrame], label: str, rule: str, out: Path, **options: Any) -> JointModel:
    """Fit by one rule, over at most so many rounds."""
    silos = {
        name: Silo(frame, weight=float(number + 1) if rule == "weighted" else None)
        for number, (name, frame) in enumerate(frames.items())
    }
    federation = Federation(Party("group", silos=silos, id="patient", label=label))
    settings: dict[str, Any] = {} if rule == "fedsgd" else {"local_epochs": 2, "learning_rate": STEPS[label]}
    estimator = LogisticRegression(l2=1e-3, aggregation=rule, **settings, **options)
    return federation.fit(estimator, test_fraction=0.3, seed=1, out=out, overwrite=True)


def first_near(frames: Mapping[str, pd.DataFrame], label: str, rule: str, folder: Path) -> tuple[str, float, float]:
    """Rounds until near for good, the last AUC, and the pooled one."""
    far, found, pooled, joint = 0, {}, 0.0, 0.0
    for rounds in ROUNDS:
        most = {"max_iter": rounds, "tol": 1e-12} if rule == "fedsgd" else {"rounds": rounds, "tol": 1e-12}
        report = play(frames, label, rule, folder, **most).report
        joint, pooled = float(report.metrics["joint"]["auc"]), float(report.metrics["pooled"]["auc"])
        found[rounds] = abs(joint - pooled) <= NEAR
        far = far if found[rounds] else rounds
    after = [rounds for rounds in ROUNDS if rounds > far]
    return (str(after[0]) if after else f"more than {ROUNDS[-1]}"), joint, pooled


def distance(frames: Mapping[str, pd.DataFrame], label: str, folder: Path) -> float:
    """Largest difference between FedSGD's standardised weights and the pooled optimum's, both at the optimum."""
    play(frames, label, "fedsgd", folder, tol=1e-20, max_iter=300)
    shard = load_horizontal_shard(folder / f"group.{next(iter(frames))}")
    parts = []
    for silo, frame in frames.items():
        ids = pd.read_csv(folder / f"group.{silo}" / "ids.csv", dtype=str)
        parts.append(frame.set_index(frame["patient"].astype(str)).loc[ids.loc[ids["part"] == "train", "patient"]])
    rows = pd.concat(parts)
    y = (rows[label].astype(str) == shard.classes[1]).to_numpy(dtype=float)
    X, _ = shard.preprocessor.transform(rows.drop(columns=["patient", label]).astype(float))
    coef, intercept = pooled_optimum(X, y, 1e-3)
    away = np.abs(shard.coef.ravel() - coef).max(), np.abs(shard.weights["intercept"].ravel() - intercept).max()
    return float(max(away))


def pooled_optimum(X: Floats, y: Floats, l2: float) -> tuple[Floats, float]:
    """Logistic regression by Newton's method, to the last digits."""
    Z, penalty = np.hstack([X, np.ones((len(X), 1))]), np.append(np.full(X.shape[1], l2), 0.0)
    w = np.zeros(Z.shape[1])
    for _ in range(100):
        mean = 1 / (1 + np.exp(-Z @ w))
        gradient = Z.T @ (mean - y) / len(y) + penalty * w
        hessian = (Z * (mean * (1 - mean))[:, None]).T @ Z / len(y) + np.diag(penalty)
        w = w - np.linalg.solve(hessian, gradient)
        if float(np.abs(gradient).max()) < 1e-15:
            break
    return w[:-1], float(w[-1])


def main() -> None:
    for title, (frames, label) in {"hospitals": hospitals(), "customers in 5 silos": customers()}.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "run"
            print(f"{title}: {', '.join(f'{silo} {len(frame):,}' for silo, frame in frames.items())} rows")
            for rule in RULES:
                rounds, joint, pooled = first_near(frames, label, rule, folder)
                print(f"  {rule:9} within {NEAR} of pooled from round {rounds}: AUC {joint:.4f}, pooled {pooled:.4f}")
            away = distance(frames, label, folder)
            print(f"  fedsgd    largest difference of a weight from the pooled optimum: {away:.1e}")


if __name__ == "__main__":
    main()
