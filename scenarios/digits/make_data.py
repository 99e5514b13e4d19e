"""Cut scikit-learn's digits into two parties' CSVs: ``python make_data.py [FOLDER]``.

Every image has 8 x 8 pixels. The sorting office has the left half of each and the digit, the scanner the right half.
Each party names the image differently, has an order of its own and lacks a few images. The result is the same every
time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

PARTIES = {  # file: id column, label, columns of the image, share of images it lacks
    "sorting_office": ("letter", ["digit"], range(4), 0.03),
    "scanner": ("scan", [], range(4, 8), 0.05),
}


def make(folder: Path) -> None:
    table = load_digits(as_frame=True).frame.astype(int).rename(columns={"target": "digit"})
    table["id"] = [f"{number:05d}" for number in range(1, len(table) + 1)]
    for number, (file, (id_column, label, columns, lacks)) in enumerate(PARTIES.items()):
        pixels = [f"pixel_{row}_{column}" for row in range(8) for column in columns]
        order = np.random.default_rng([1797, number]).permutation(len(table))
        rows = table.iloc[order[: round((1 - lacks) * len(table))]]
        rows[["id", *label, *pixels]].rename(columns={"id": id_column}).to_csv(folder / f"{file}.csv", index=False)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
