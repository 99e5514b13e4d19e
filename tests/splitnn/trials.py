"""Small companies that train a split neural network together, for tests of whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.runs.companies import TASKS, Companies, make_companies

Section = dict[str, object]


def make_split(
    folder: Path,
    task: str = "binary",
    *,
    training: Section | None = None,
    consent: Section | None = None,
    **options: Any,
) -> Companies:
    """Companies as `make_companies` makes them, for a small network; ``consent`` is every party's policy."""
    model = next(model for model, its_task in TASKS.items() if its_task == task)
    network: Section = {"units": 3, "hidden": [5], "epochs": 2, "batch_size": 64, "learning_rate": 0.01}
    companies = make_companies(folder, model, training=network | (training or {}), **options)
    companies.model = "splitnn"
    companies.top |= {"model": "splitnn", "task": task}
    allowed = {"embedding_gradients": True} if (training or {}).get("mode") == "split" else {}
    for party in companies.parties.values():
        party["policy"] = {"key_bits": 512, **allowed} | (consent or {})
    return companies
