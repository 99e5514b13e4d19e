"""Cut scikit-learn's breast cancer data into the CSVs of three hospitals: ``python make_data.py [FOLDER]``.

569 tumours (Wisconsin), 30 measures each. The hospitals have the same columns and other patients: a university clinic
that sees most of the malignant tumours, a county hospital, and a rural practice with few patients, nearly all of them
with benign ones. The result is the same every time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer

SHARES = {  # of the malignant and of the benign tumours
    "university": (0.72, 0.38),
    "county": (0.24, 0.40),
    "rural": (0.04, 0.22),
}


def make(folder: Path) -> None:
    data = load_breast_cancer(as_frame=True)
    rows = data.frame.rename(columns=lambda name: name.replace(" ", "_"))
    rows["diagnosis"] = np.where(rows.pop("target") == 0, "malignant", "benign")
    rows.insert(0, "patient", [f"P{number:04d}" for number in range(len(rows))])
    rng = np.random.default_rng(569)
    hospital = np.empty(len(rows), dtype=object)
    for column, diagnosis in enumerate(("malignant", "benign")):
        here = rows["diagnosis"] == diagnosis
        shares = [both[column] for both in SHARES.values()]
        hospital[here] = rng.choice(list(SHARES), size=int(here.sum()), p=shares)
    for name in SHARES:
        rows[hospital == name].to_csv(folder / f"{name}.csv", index=False)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
