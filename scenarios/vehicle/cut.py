"""Cut FATE's two vehicle files into two parties' CSVs: ``python cut.py vehicle_guest.csv vehicle_host.csv [FOLDER]``.

The source files hold the same rows in the same order. Here each party names the id differently, has an order of its
own and lacks a share of the rows, so that alignment is real. The result is the same every time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

PARTIES = (("workshop", "vehicle", 0.04), ("camera", "silhouette", 0.06))  # file, id column, share of rows it lacks


def cut(sources: list[Path], folder: Path) -> None:
    for number, ((file, id_column, lacks), source) in enumerate(zip(PARTIES, sources, strict=True)):
        raw = pd.read_csv(source, dtype=str)
        raw["id"] = raw["id"].str.zfill(4)
        order = np.random.default_rng([149, number]).permutation(len(raw))
        rows = raw.iloc[order[: round((1 - lacks) * len(raw))]]
        rows.rename(columns={"id": id_column, "y": "model"}).to_csv(folder / f"{file}.csv", index=False)


if __name__ == "__main__":
    cut([Path(sys.argv[1]), Path(sys.argv[2])], Path(sys.argv[3]) if len(sys.argv) > 3 else Path(__file__).parent)
