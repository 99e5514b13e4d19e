"""Cut LIBSVM's a9a file into two parties' CSVs: ``python cut.py a9a [FOLDER]``.

The census office knows the label and the first 61 columns, the employer the last 62. The file has no ids: the line
number, as text of five digits, is the id. Each party names it differently, has a row order of its own and lacks a share
of the rows, so that alignment is real. The result is the same every time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_svmlight_file

PARTIES = {  # file: id column, columns, share of rows it lacks
    "census": ("person", ["income", *(f"x{j}" for j in range(1, 62))], 0.02),
    "employer": ("employee", [f"x{j}" for j in range(62, 124)], 0.03),
}


def cut(source: Path, folder: Path) -> None:
    X, y = load_svmlight_file(source, n_features=123)
    table = pd.DataFrame(X.toarray().astype(int), columns=[f"x{j}" for j in range(1, 124)])
    table["income"] = (y > 0).astype(int)  # LIBSVM's own file says -1 and +1, copies of it 0 and 1
    table["id"] = [f"{line:05d}" for line in range(1, len(table) + 1)]
    for number, (file, (id_column, columns, lacks)) in enumerate(PARTIES.items()):
        order = np.random.default_rng([2, number]).permutation(len(table))
        rows = table.iloc[order[: round((1 - lacks) * len(table))]]
        rows[["id", *columns]].rename(columns={"id": id_column}).to_csv(folder / f"{file}.csv", index=False)


if __name__ == "__main__":
    cut(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent)
