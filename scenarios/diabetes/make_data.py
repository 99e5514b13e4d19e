"""Cut scikit-learn's diabetes data into three parties' CSVs: ``python make_data.py [FOLDER]``.

The clinic knows how the disease went on (the label) and nothing else, the practice has examined the patients, the
laboratory has tested their blood. Each party names the patient differently, has an order of its own and lacks a few
patients. The result is the same every time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_diabetes

PARTIES = {  # file: id column, columns, share of patients it lacks
    "clinic": ("patient", ["progression"], 0.02),
    "practice": ("patient_number", ["age", "sex", "bmi", "bp"], 0.03),
    "laboratory": ("sample_of", ["s1", "s2", "s3", "s4", "s5", "s6"], 0.04),
}


def make(folder: Path) -> None:
    table = load_diabetes(as_frame=True, scaled=False).frame.rename(columns={"target": "progression"})
    table["patient"] = [f"P{number:04d}" for number in range(1, len(table) + 1)]
    for number, (file, (id_column, columns, lacks)) in enumerate(PARTIES.items()):
        order = np.random.default_rng([442, number]).permutation(len(table))
        rows = table.iloc[order[: round((1 - lacks) * len(table))]]
        rows[["patient", *columns]].rename(columns={"patient": id_column}).to_csv(folder / f"{file}.csv", index=False)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
