"""Choose a penalty on the diabetes scenario from Python, judge the model, and use it on new patients.

Run it from the project's root: ``.venv/bin/python scenarios/selection_from_python.py``
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd

from vfl import Federation, GridSearch, LinearRegression, Party, cross_validate, load_model

FOLDER = Path(__file__).parent / "diabetes"


def read(name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A party's rows: those to train on, and a tenth of the patients, who come later."""
    table = pd.read_csv(FOLDER / f"{name}.csv", dtype=str)
    late = table.iloc[:, 0].str[-1] == "7"
    return table[~late], table[late]


def main() -> None:
    tables = {name: read(name) for name in ("clinic", "practice", "laboratory")}
    federation = Federation(
        Party("clinic", tables["clinic"][0], id="patient", label="progression"),
        Party("practice", tables["practice"][0], id="patient_number"),
        Party("laboratory", tables["laboratory"][0], id="sample_of"),
    )

    folds = cross_validate(LinearRegression(l2=0.001), federation, cv=3, seed=7, active_only=True, progress=True)
    print(folds.to_frame().round(3).to_string())
    print(folds.summary().round(3).to_string())
    print("What between companies would count, over all folds:")
    print(folds.spent.to_string())

    search = GridSearch(LinearRegression(), {"l2": [1e-3, 1e-1, 1.0]}, cv=2).fit(federation, seed=7, progress=True)
    print(pd.DataFrame(search.cv_results_)[["param_l2", "mean_test_score", "rank_test_score"]].to_string())
    print(f"{search.best_estimator_}, on rows that did not choose it:")
    print(search.best_model_.evaluate().to_frame().round(3).to_string())

    with tempfile.TemporaryDirectory() as folder:
        search.best_model_.save(f"{folder}/run")  # from here on `vfl predict` can use it too
        model = load_model(f"{folder}/run")
    later = {name: new for name, (_, new) in tables.items()}
    predictions = model.predictions(later)
    print(f"{len(predictions.index)} later patients scored, {len(predictions.unmatched)} whom another party lacks")
    print(predictions.to_frame().head(3).round(1).to_string())
    print(f"RMSE on them: {model.evaluate(later).metrics['rmse']:.1f}")


if __name__ == "__main__":
    main()
