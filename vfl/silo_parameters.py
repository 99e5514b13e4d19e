"""How the silos of one party train together: the parameters that linear models and networks share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sklearn.base import BaseEstimator

Rules = Literal["fedsgd", "fedavg", "weighted", "simple"]


@dataclass(kw_only=True, eq=False, repr=False)
class SiloParameters(BaseEstimator):  # type: ignore[misc]
    """Keys of [training] that only a federation of silos alone reads; the defaults give the model of pooled rows."""

    aggregation: Rules = "fedsgd"
    aggregation_by_layer: Mapping[str, Rules] | None = None
    rounds: int = 50
    local_epochs: int = 1
    client_fraction: float = 1.0
    server_optimizer: Literal["average", "momentum", "adam"] = "average"
    server_learning_rate: float | None = None
    proximal: float = 0.0
    min_silos: int | None = None
    round_timeout: float = 60.0
