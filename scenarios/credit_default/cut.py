"""Cut the UCI credit-card file into three companies' CSVs: ``python cut.py UCI_Credit_Card.csv [FOLDER]``.

The bank knows the customer and the label, the card network the repayment status, the biller the amounts. Each has a
name of its own for the id, a row order of its own, and lacks a share of the rows. For ``silos.toml`` the card network
is cut once more, into three regions of unequal size with different customers. The result is the same every time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

MONTHS = range(1, 7)
PARTIES = {  # file: id column, columns, share of rows it lacks
    "bank": ("customer_id", ["default.payment.next.month", "LIMIT_BAL", "SEX", "EDUCATION", "MARRIAGE", "AGE"], 0.08),
    "card_network": ("client", ["PAY_0", "PAY_2", "PAY_3", "PAY_4", "PAY_5", "PAY_6"], 0.12),
    "biller": ("account_holder", [f"BILL_AMT{m}" for m in MONTHS] + [f"PAY_AMT{m}" for m in MONTHS], 0.15),
}
REGIONS = {"north": 0.5, "coast": 0.3, "south": 0.2}


def cut(source: Path, folder: Path) -> None:
    raw = pd.read_csv(source)
    raw["ID"] = raw["ID"].map("{:06d}".format)  # ids are text: 000001 ... 030000
    for number, (file, (id_column, columns, lacks)) in enumerate(PARTIES.items()):
        order = np.random.default_rng([350, number]).permutation(len(raw))
        rows = raw.iloc[order[: round((1 - lacks) * len(raw))]]
        rows[["ID", *columns]].rename(columns={"ID": id_column}).to_csv(folder / f"{file}.csv", index=False)
    cut_regions(folder)


def cut_regions(folder: Path) -> None:
    """The card network's rows, each in one region."""
    rows = pd.read_csv(folder / "card_network.csv", dtype=str)
    shares = list(REGIONS.values())
    region = np.random.default_rng(350).choice(len(shares), size=len(rows), p=shares)
    for number, name in enumerate(REGIONS):
        rows[region == number].to_csv(folder / f"card_network_{name}.csv", index=False)


if __name__ == "__main__":
    cut(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent)
