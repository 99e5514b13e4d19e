"""The credit_default scenario from Python: two models on the same federation, side by side.

Run it from the project's root: ``.venv/bin/python scenarios/credit_default_from_python.py``
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from vfl import Federation, LogisticRegression, Party

FOLDER = Path(__file__).parent / "credit_default"


def main() -> None:
    network = pd.read_csv(FOLDER / "card_network.csv", dtype={"client": str})  # a DataFrame does as well as a CSV
    federation = Federation(
        Party("bank", FOLDER / "bank.csv", id="customer_id", label="default.payment.next.month"),
        Party("card-network", network, id="client"),
        Party("biller", FOLDER / "biller.csv", id="account_holder"),
    )
    for l2 in (1e-3, 1e-1):
        model = federation.fit(LogisticRegression(l2=l2), test_fraction=0.3, seed=7, progress=True)
        print(f"\n{model.estimator}: {model.n_iter_} rounds")
        print(model.evaluate().to_frame().round(4).to_string())
        print(model.coef_["card-network"].round(3).to_string())


if __name__ == "__main__":
    main()
