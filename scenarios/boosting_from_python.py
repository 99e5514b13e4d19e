"""Boosted trees on the credit_default scenario from Python: five trees, and which columns they use.

Run it from the project's root: ``.venv/bin/python scenarios/boosting_from_python.py``
"""

from __future__ import annotations

from pathlib import Path

from vfl import Federation, GradientBoostingClassifier, Party

FOLDER = Path(__file__).parent / "credit_default"


def main() -> None:
    federation = Federation(
        Party("bank", FOLDER / "bank.csv", id="customer_id", label="default.payment.next.month"),
        Party("card-network", FOLDER / "card_network.csv", id="client"),
        Party("biller", FOLDER / "biller.csv", id="account_holder"),
    )
    trees = GradientBoostingClassifier(n_estimators=5, max_depth=3, max_bin=32)
    model = federation.fit(trees, validation_fraction=0.1, test_fraction=0.3, seed=7, progress=True)
    print(f"\n{model.estimator}: {model.n_iter_} rounds")
    print(model.evaluate().to_frame().round(4).to_string())
    for line in model.report.feature_importance[:5]:  # the bank's columns by name, the others' by number
        print(f"{line.party}/{line.feature}: gain {line.gain:.0f} in {line.count} splits")


if __name__ == "__main__":
    main()
