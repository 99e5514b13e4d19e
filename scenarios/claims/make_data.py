"""Invent motor insurance claims, SYNTHETIC data, and write three parties' CSVs: ``python make_data.py [FOLDER]``.

No row describes a real person, vehicle, policy or company: everything comes from a seeded random generator, the
number of claims per policy and year from the Poisson rate in ``claim_rate``. Each party holds part of what the rate
depends on, so that a joint model is better than any party's own. The result is the same every time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

POLICIES = 6_000
PARTIES = {  # file: id column, columns, share of policies it lacks
    "insurer": ("policy", ["claims", "driver_age", "years_claim_free", "région", "vehicle_class", "sum_insured"], 0.03),
    "telematics": ("device_policy", ["km_per_year", "night_share", "hard_braking", "speeding", "road_type"], 0.10),
    "garage": ("contract", ["vehicle_age", "brake_state", "tyre_depth_mm", "late_services"], 0.12),
}
MISSING = {"sum_insured": 0.02, "hard_braking": 0.05, "road_type": 0.03, "tyre_depth_mm": 0.06, "brake_state": 0.02}
REGIONS = {"Île-de-France": 0.25, "Bretagne": 0.0, "Rhône-Alpes": 0.1, "Provence": 0.2}
CLASSES = {"small": 0.0, "family": -0.05, "van": 0.15, "sports": 0.35}
ROADS = {"motorway": -0.15, "rural": 0.1, "town": 0.2}
BRAKES = {"new": -0.1, "good": 0.0, "worn": 0.3}


def policies(rng: np.random.Generator) -> pd.DataFrame:
    n = POLICIES
    age = rng.integers(18, 86, n)
    return pd.DataFrame(
        {
            "policy": [f"{number:07d}" for number in rng.choice(10_000_000, n, replace=False)],
            "driver_age": age,
            "years_claim_free": np.minimum(rng.poisson(6, n), age - 18),
            "région": rng.choice(list(REGIONS), n),
            "vehicle_class": rng.choice(list(CLASSES), n, p=[0.4, 0.4, 0.12, 0.08]),
            "sum_insured": np.round(rng.lognormal(10.0, 0.5, n), -2),
            "km_per_year": np.round(rng.gamma(4.0, 3500.0, n), -1),
            "night_share": np.round(rng.beta(1.5, 8.0, n), 3),
            "hard_braking": rng.poisson(rng.gamma(2.0, 2.0, n)),
            "speeding": np.round(rng.beta(1.2, 10.0, n), 3),
            "road_type": rng.choice(list(ROADS), n, p=[0.3, 0.3, 0.4]),
            "vehicle_age": rng.integers(0, 19, n),
            "brake_state": rng.choice(list(BRAKES), n, p=[0.3, 0.5, 0.2]),
            "tyre_depth_mm": np.round(rng.uniform(1.0, 8.0, n), 1),
            "late_services": rng.poisson(0.7, n),
        }
    )


def claim_rate(table: pd.DataFrame) -> pd.Series:
    log_rate = (
        -2.6
        + 0.25 * (table["driver_age"] < 26)
        - 0.05 * table["years_claim_free"]
        + table["région"].map(REGIONS)
        + table["vehicle_class"].map(CLASSES)
        + 0.45 * np.log(table["km_per_year"].clip(lower=500) / 12_000)
        + 2.2 * table["night_share"]
        + 0.09 * table["hard_braking"]
        + 2.5 * table["speeding"]
        + table["road_type"].map(ROADS)
        + 0.03 * table["vehicle_age"]
        + table["brake_state"].map(BRAKES)
        - 0.06 * table["tyre_depth_mm"]
        + 0.18 * table["late_services"]
    )
    return np.exp(log_rate + 0.45)


def make(folder: Path) -> None:
    rng = np.random.default_rng(2024)
    table = policies(rng)
    table["claims"] = rng.poisson(claim_rate(table))
    for column, share in MISSING.items():
        table[column] = table[column].astype(object).where(rng.random(len(table)) >= share, None)
    for number, (file, (id_column, columns, lacks)) in enumerate(PARTIES.items()):
        order = np.random.default_rng([2024, number]).permutation(len(table))
        rows = table.iloc[order[: round((1 - lacks) * len(table))]]
        rows[["policy", *columns]].rename(columns={"policy": id_column}).to_csv(
            folder / f"{file}.csv", index=False, na_rep="" if number != 2 else "N/A", encoding="utf-8"
        )


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
