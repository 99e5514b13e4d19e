"""What a peer must not get away with in mode split: every wrong message is refused, and its sender named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from parties.errors import RemoteProtocolError
from parties.link import COORDINATOR, Endpoint
from parties.wire import Active, Control, Coordinator, Passive, Revealed
from tests.splitnn.split_networks import SplitNetworks
from vfl import split_learning
from vfl.epochs import draw_batches
from vfl.split_learning import Wire

ROWS, UNITS, EPOCHS = 20, 4, 2
SMALL: dict[str, Any] = {"rows": ROWS, "widths": (2, 3), "settings": {"batch_size": 20, "epochs": EPOCHS}}
FIRST = {"epoch": 0, "block": 0}

Play = Callable[[Endpoint], Any]


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def against(**liars: Play) -> None:
    """Play with one role replaced; ``shop`` is the passive party."""
    networks = SplitNetworks(**SMALL)
    names = {"shop": "shop-1", "bank": "bank", "coordinator": COORDINATOR}
    networks.play(networks.plays() | {names[role]: play for role, play in liars.items()})


def refused(complaint: str, **liars: Play) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint) as caught:
        against(**liars)
    assert "\n" not in str(caught.value)


# a passive party that lies

BAD_NUMBERS = {
    "fewer rows": (numbers(ROWS - 1, UNITS), r"of shape \(19, 4\), expected \(20, 4\)"),
    "more rows": (numbers(ROWS + 1, UNITS), r"of shape \(21, 4\)"),
    "fewer units": (numbers(ROWS, UNITS - 1), r"of shape \(20, 3\)"),
    "turned": (numbers(UNITS, ROWS), r"of shape \(4, 20\)"),
    "flat": (numbers(ROWS * UNITS), r"of shape \(80,\)"),
    "nothing": (np.zeros(0), r"of shape \(0,\)"),
    "not a number": (np.full((ROWS, UNITS), np.nan), "no numbers, or beyond"),
    "infinity in one place": (np.where(np.eye(ROWS, UNITS), np.inf, 1.0), "no numbers, or beyond"),
    "far too large": (np.full((ROWS, UNITS), -1e300), "no numbers, or beyond"),
}
PLACES: dict[str, dict[str, Any]] = {
    "another epoch": {"epoch": 1, "block": 0},
    "another block": {"epoch": 0, "block": 1},
    "no place": {},
    "more than a place": FIRST | {"row": 1},
    "text for a number": {"epoch": 0, "block": "0"},
}


def send_outputs(payload: Revealed) -> Play:
    def play(endpoint: Endpoint) -> None:
        endpoint.link(Passive, Active, "bank").send(Wire.outputs, payload)

    return play


@pytest.mark.parametrize("case", BAD_NUMBERS)
def test_outputs_that_do_not_fit(case: str) -> None:
    values, complaint = BAD_NUMBERS[case]
    refused(f"shop-1 sent outputs .*{complaint}", shop=send_outputs(Revealed(FIRST, values)))


@pytest.mark.parametrize("case", PLACES)
def test_outputs_of_another_place(case: str) -> None:
    play = send_outputs(Revealed(PLACES[case], numbers(ROWS, UNITS)))
    refused("shop-1 sent outputs of another block than the one that is due", shop=play)


def test_outputs_sent_again_for_the_next_epoch() -> None:
    """The first message replayed where the next one is due."""

    def play(endpoint: Endpoint) -> None:
        lead = endpoint.link(Passive, Active, "bank")
        payload = Revealed(FIRST, numbers(ROWS, UNITS))
        lead.send(Wire.outputs, payload)
        lead.recv(Wire.gradients)
        lead.recv(Wire.epoch)
        lead.send(Wire.outputs, payload)

    refused("shop-1 sent outputs of another block", shop=play)


def test_scores_where_outputs_are_due() -> None:
    def play(endpoint: Endpoint) -> None:
        endpoint.link(Passive, Active, "bank").send(Wire.scored, Revealed({"block": 0}, numbers(ROWS, UNITS)))

    refused("shop-1 sent 'split_learning.scored' .* where 'split_learning.outputs'", shop=play)


def test_outputs_out_of_turn() -> None:
    """A second batch at once, where the next epoch's outputs are due."""

    def play(endpoint: Endpoint) -> None:
        lead = endpoint.link(Passive, Active, "bank")
        for block in range(2):
            lead.send(Wire.outputs, Revealed({"epoch": 0, "block": block}, numbers(ROWS, UNITS)))

    refused("shop-1 sent outputs of another block", shop=play)


# an active party that lies


def answer(gradients: Revealed | None = None, verdict: dict[str, Any] | None = None) -> Play:
    """Ends the first epoch as given."""

    def play(endpoint: Endpoint) -> None:
        link = endpoint.link(Active, Passive, "shop-1")
        link.recv(Wire.outputs)
        link.send(Wire.gradients, gradients or Revealed(FIRST, numbers(ROWS, UNITS)))
        link.send(Wire.epoch, Revealed({"epoch": 0, "best": True, "go": True} | (verdict or {}), np.zeros(0)))
        link.recv(Wire.outputs)

    return play


@pytest.mark.parametrize("case", BAD_NUMBERS)
def test_gradients_that_do_not_fit(case: str) -> None:
    values, complaint = BAD_NUMBERS[case]
    refused(f"bank sent gradients .*{complaint}", bank=answer(Revealed(FIRST, values)))


@pytest.mark.parametrize("case", PLACES)
def test_gradients_of_another_place(case: str) -> None:
    play = answer(Revealed(PLACES[case], numbers(ROWS, UNITS)))
    refused("bank sent gradients of another block than the one that is due", bank=play)


@pytest.mark.parametrize(
    ("verdict", "complaint"),
    [
        ({"best": None}, "without saying whether it was the best"),
        ({"best": 1}, "without saying whether it was the best"),
        ({"best": False}, "without saying whether it was the best"),
        ({"go": None}, "did not end epoch 1"),
        ({"go": "yes"}, "did not end epoch 1"),
        ({"epoch": 1}, "did not end epoch 1"),
        ({"epoch": None}, "did not end epoch 1"),
    ],
    ids=str,
)
def test_verdicts_that_say_nothing(verdict: dict[str, Any], complaint: str) -> None:
    refused(f"bank .*{complaint}", bank=answer(verdict=verdict))


def test_more_epochs_than_the_job_has() -> None:
    def play(endpoint: Endpoint) -> None:
        link = endpoint.link(Active, Passive, "shop-1")
        for epoch in range(EPOCHS):
            link.recv(Wire.outputs)
            link.send(Wire.gradients, Revealed({"epoch": epoch, "block": 0}, numbers(ROWS, UNITS)))
            link.send(Wire.epoch, Revealed({"epoch": epoch, "best": True, "go": True}, np.zeros(0)))
        link.recv(Wire.outputs)

    refused(f"bank goes on beyond the job's {EPOCHS} epochs", bank=play)


def test_an_end_of_the_epoch_before_its_gradients() -> None:
    def play(endpoint: Endpoint) -> None:
        link = endpoint.link(Active, Passive, "shop-1")
        link.recv(Wire.outputs)
        link.send(Wire.epoch, Revealed({"epoch": 0, "best": True, "go": False}, np.zeros(0)))

    refused("bank sent 'split_learning.epoch' .* where 'split_learning.gradients'", bank=play)


# the coordinator


@pytest.mark.parametrize(
    ("facts", "complaint"),
    [
        ({"epoch": 1, "go": True}, "did not end epoch 1"),
        ({"epoch": 0}, "did not end epoch 1"),
        ({"epoch": 0, "go": 1}, "did not end epoch 1"),
    ],
    ids=str,
)
def test_the_coordinator_is_told_the_epoch(facts: dict[str, Any], complaint: str) -> None:
    def play(endpoint: Endpoint) -> None:
        endpoint.link(Active, Coordinator, COORDINATOR).send(Wire.proceed, Control(facts))

    refused(f"bank {complaint}", bank=play)


def test_a_coordinator_that_noted_another_epoch() -> None:
    def play(endpoint: Endpoint) -> None:
        lead = endpoint.link(Coordinator, Active, "bank")
        lead.recv(Wire.proceed)
        lead.send(Wire.kept, Control({"epoch": 1}))

    refused("coordinator noted another epoch", coordinator=play)


# scoring


def scored(payloads: list[Revealed], rows: int = 30) -> Any:
    networks = SplitNetworks(**SMALL)
    terms = networks.terms

    def shop(endpoint: Endpoint) -> None:
        for payload in payloads:
            endpoint.link(Passive, Active, "bank").send(Wire.scored, payload)

    def bank(endpoint: Endpoint) -> np.ndarray:
        return split_learning.score_as_active(endpoint, terms, rows)

    return networks.play({COORDINATOR: lambda _: None, "bank": bank, "shop-1": shop})["bank"]


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (Revealed({"block": 0}, numbers(29, UNITS)), r"of shape \(29, 4\), expected \(30, 4\)"),
        (Revealed({"block": 0}, np.full((30, UNITS), np.inf)), "no numbers"),
        (Revealed({"block": 1}, numbers(30, UNITS)), "another block"),
        (Revealed({}, numbers(30, UNITS)), "another block"),
    ],
    ids=["fewer rows", "infinity", "another block", "no block"],
)
def test_scores_that_do_not_fit(payload: Revealed, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"shop-1 sent outputs .*{complaint}"):
        scored([payload])


def test_a_block_of_scores_sent_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_learning, "BLOCK", UNITS * 15)
    payload = Revealed({"block": 0}, numbers(15, UNITS))
    with pytest.raises(RemoteProtocolError, match="shop-1 sent outputs of another block"):
        scored([payload, payload])
    honest = [payload, Revealed({"block": 1}, payload.values)]
    np.testing.assert_array_equal(scored(honest), np.concatenate([payload.values] * 2))


# what follows from the messages of parties that follow the protocol


def test_outputs_of_a_linear_bottom_give_the_products_of_rows_with_rows() -> None:
    """The docstring's warning: from its own gradients and two epochs' outputs A has X X', so X up to a rotation."""
    rate, width = 0.1, 3
    settings = {"units": 5, "batch_size": 40, "epochs": 2, "optimizer": "sgd", "learning_rate": rate}
    networks = SplitNetworks(rows=40, widths=(2, width), settings=settings)
    networks.fit()
    seen = {
        name: [d.payload.values for d in networks.deliveries if d.message == f"split_learning.{name}"]
        for name in ("outputs", "gradients")
    }
    order = [draw_batches(40, 40, 0, epoch)[0] for epoch in range(2)]
    first, second = (values[np.argsort(rows)] for values, rows in zip(seen["outputs"], order, strict=True))
    gradients = seen["gradients"][0][np.argsort(order[0])]
    moved = (first - second) / rate  # (X X' + 1 1') times the gradients
    products = moved @ np.linalg.pinv(gradients.T @ moved, rcond=1e-4) @ moved.T - 1
    X = networks.blocks[1]
    np.testing.assert_allclose(products, X @ X.T, atol=0.05)
    assert np.abs(X @ X.T).max() > 5
