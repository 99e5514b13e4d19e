"""What a round costs against the number of silos, 2 to 32, all on this machine: ``python -m benchmarks.silos``.

Horizontal: 32,000 synthetic rows of 30 columns, FedAvg of logistic regression, one local pass; the secure sum is most
of it. Hybrid: ``scenarios/credit_default`` with the card network's rows dealt out to so many silos, logistic regression
under 2,048 bits. All roles are threads that take turns on one machine: seconds are those of all silos together, and
would be shared out among theirs. Bytes count every hop.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from vfl import Federation, LogisticRegression, Party
from vfl.report.summary import RunReport

SILOS = (2, 4, 8, 16, 32)
SCENARIO = Path(__file__).parents[1] / "scenarios" / "credit_default"
ROUNDS = 10


def horizontal(silos: int, folder: Path) -> RunReport:
    """FedAvg of so many silos of the same rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(32_000, 30))
    frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(30)])
    frame["y"] = (rng.random(len(X)) < 1 / (1 + np.exp(-X @ rng.normal(size=30) / 3))).astype(int)
    parts = {f"s{i}": frame.iloc[i::silos].reset_index(drop=True) for i in range(silos)}
    federation = Federation(Party("group", silos=parts, label="y"))
    estimator = LogisticRegression(aggregation="fedavg", rounds=ROUNDS, batch_size=256, tol=1e-15)
    return federation.fit(estimator, test_fraction=0.0, baselines=False, out=folder, overwrite=True).report


def hybrid(silos: int, folder: Path) -> RunReport:
    """The credit-card scenario with a card network of so many silos."""
    cards = pd.read_csv(SCENARIO / "card_network.csv", dtype={"client": str})
    silo = np.random.default_rng(0).integers(silos, size=len(cards))
    parts = {f"s{i}": cards[silo == i].reset_index(drop=True) for i in range(silos)}
    federation = Federation(
        Party("bank", SCENARIO / "bank.csv", id="customer_id", label="default.payment.next.month"),
        Party("card-network", silos=parts, id="client"),
        Party("biller", SCENARIO / "biller.csv", id="account_holder"),
    )
    return federation.fit(LogisticRegression(), seed=7, baselines=False, out=folder, overwrite=True).report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--silos", type=int, nargs="*", default=SILOS)
    counts = parser.parse_args().silos
    with tempfile.TemporaryDirectory() as name:
        for title, play in (("horizontal", horizontal), ("hybrid", hybrid)):
            print(f"{title:10} {'silos':>6} {'s a round':>10} {'kB a round':>11} {'kB a silo':>10} {'messages':>9}")
            for silos in counts:
                training = play(silos, Path(name) / "run").training
                rounds = max(training.rounds, 1)
                kilobytes = training.bytes / rounds / 1000
                print(
                    f"{'':10} {silos:6} {training.seconds / rounds:10.3f} {kilobytes:11.1f} {kilobytes / silos:10.1f} "
                    f"{training.messages / rounds:9.0f}"
                )


if __name__ == "__main__":
    main()
