"""Runs with fresh keys and masks end bit-identical, packed or not."""

from __future__ import annotations

import pytest

from tests.glm.federations import Federation, play, results, told
from vfl import glm_exact, glm_quadratic

RUNS = [
    ("logistic", "active", {}),
    ("linear", "active", {}),
    ("poisson", "active", {}),
    ("softmax", "active", {}),
    ("logistic", "coordinator", {"newton_steps": 1}),
    ("logistic", "coordinator", {"newton_steps": 1, "curvature": "row"}),
    ("linear", "coordinator", {}),
]
runs = pytest.mark.parametrize(("model", "key_holder", "training"), RUNS, ids=lambda v: str(v))


def encrypted(federation: Federation) -> set[bytes]:
    return {d.payload.body.tobytes() for d in federation.deliveries if type(d.payload).__name__ == "Encrypted"}


@runs
def test_fresh_keys_and_other_packings_change_no_bit(
    model: str, key_holder: str, training: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, fits), (second, again) = play(model, key_holder, training), play(model, key_holder, training)
    assert results(fits) == results(again)
    assert told(first) == told(second)
    assert not encrypted(first) & encrypted(second)
    for protocol in (glm_exact, glm_quadratic):
        monkeypatch.setattr(protocol, "choose_rows_per_ciphertext", lambda *_: 1)
    bare, unpacked = play(model, key_holder, training)
    assert packings(first) != packings(bare) == {1}
    assert results(fits) == results(unpacked)


def packings(federation: Federation) -> set[object]:
    setups = [d.payload.facts for d in federation.deliveries if d.message.endswith(".setup")]
    return {v for facts in setups for k, v in facts.items() if k.startswith(("packed", "rows_per"))}
