"""Split learning: the same weights as on one graph in one place, whatever the task and the local steps are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.splitnn.split_networks import SplitNetworks

CASES: dict[str, dict[str, Any]] = {
    "binary": {},
    "one passive party": {"widths": (2, 4)},
    "label-only active party": {"widths": (0, 3, 2)},
    "multiclass": {"task": "multiclass"},
    "regression, weighted": {"task": "regression", "weighted": True},
    "hidden layers below": {"settings": {"bottom_hidden": (6, 5), "activation": "tanh"}},
    "sgd": {"settings": {"optimizer": "sgd", "learning_rate": 0.1}},
    "local steps": {"settings": {"local_steps": 3}},
    "local steps, sgd, hidden": {"settings": {"local_steps": 4, "optimizer": "sgd", "bottom_hidden": (5,)}},
    "one batch": {"settings": {"batch_size": 100}},
    "batches of one row": {"rows": 12, "settings": {"batch_size": 1}},
}


@pytest.mark.parametrize("case", CASES)
def test_all_weights_are_those_of_one_graph_in_one_place(case: str) -> None:
    networks = SplitNetworks(**CASES[case])
    fits = networks.fit()
    weights, losses = networks.together()
    assert networks.network is not None
    found = {"bank": networks.network.weights()} | {name: b.weights() for name, b in networks.bottoms.items()}
    for name, expected in weights.items():
        for key, array in expected.items():
            np.testing.assert_allclose(found[name][key], array, rtol=1e-4, atol=2e-6, err_msg=f"{name} {key}")
    course = fits["bank"].course
    unit = networks.network.label.deviation**2
    assert course.losses[0] == pytest.approx(losses[0] * unit, rel=1e-5)
    assert len(course.losses) == 4 and course.rounds == 3
    assert [fits[name] for name in ("coordinator", *networks.names[1:])] == [3] * len(networks.names)
