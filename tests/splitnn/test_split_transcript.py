"""The transcript of split learning is its Wire table; the coordinator reads nothing; what is disclosed is listed."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest

from parties.codec import encode
from parties.link import COORDINATOR
from parties.wire import TELLING, Active, Control, Coordinator, Message, Passive, Revealed
from tests.splitnn.split_networks import SplitNetworks, make_rows
from vfl import split_learning
from vfl.split_learning import Wire

EPOCHS, BATCHES, BLOCKS = 3, 3, 2
SHAPES = {
    "three parties": {},
    "noise, local steps": {"settings": {"gradient_clip": 0.1, "gradient_noise": 2.0, "local_steps": 2}},
    "multiclass, one passive party": {"task": "multiclass", "widths": (0, 3)},
}


@pytest.fixture(scope="module", params=SHAPES)
def networks(request: pytest.FixtureRequest) -> SplitNetworks:
    """A training with a validation part, and scores of new rows."""
    played = SplitNetworks(rows=64, validation=20, **SHAPES[request.param])
    played.fit()
    ledgers = played.ledgers
    played.score(make_rows(played.task, 10, played.widths, seed=3)[0])
    for name, ledger in played.ledgers.items():
        ledger.entries[:0] = ledgers[name].entries
    return played


def table() -> dict[str, Message]:
    return {message.name: message for message in vars(Wire).values() if isinstance(message, Message)}


def own(networks: SplitNetworks) -> Iterator[tuple[str, str, str, object]]:
    for one in networks.deliveries:
        if not one.message.startswith("greeting."):
            yield one.sender, one.receiver, one.message, one.payload


def test_the_transcript_is_the_wire_table(networks: SplitNetworks) -> None:
    wire, used = table(), set()
    for sender, receiver, name, payload in own(networks):
        message = wire[name]
        used.add(name)
        assert type(payload) is message.payload
        assert (message.src, message.dst) == (networks.roles[sender], networks.roles[receiver])
    assert used == set(wire)


def test_messages_come_in_the_order_of_the_docstring(networks: SplitNetworks) -> None:
    for party in networks.names[1:]:
        names = [name.partition(".")[2] for sender, receiver, name, _ in own(networks) if party in (sender, receiver)]
        epoch = "(outputs gradients ){3}(outputs ){2}epoch "
        assert re.fullmatch(f"({epoch}){{3}}scored ", "".join(f"{name} " for name in names)), names
    hub = [name for sender, receiver, name, _ in own(networks) if COORDINATOR in (sender, receiver)]
    assert hub == ["split_learning.proceed", "split_learning.kept"] * EPOCHS


def test_one_exchange_per_batch_whatever_the_local_steps(networks: SplitNetworks) -> None:
    count = [name for _, _, name, _ in own(networks)].count("split_learning.gradients")
    assert count == EPOCHS * BATCHES * len(networks.job.passive)


def test_what_messages_carry_is_a_number_per_row_and_unit_and_their_place(networks: SplitNetworks) -> None:
    for _, _, name, payload in own(networks):
        if name in ("split_learning.outputs", "split_learning.gradients"):
            assert isinstance(payload, Revealed)
            assert payload.values.ndim == 2 and payload.values.shape[1] == 4
            assert set(payload.facts) == {"epoch", "block"}
        elif name == "split_learning.scored":
            assert isinstance(payload, Revealed)
            assert payload.values.shape == (10, 4) and payload.facts == {"block": 0}
        elif name == "split_learning.epoch":
            assert isinstance(payload, Revealed)
            assert payload.values.size == 0 and set(payload.facts) == {"epoch", "best", "go"}
        else:
            assert isinstance(payload, Control)
            assert set(payload.facts) <= {"epoch", "go"}


def test_the_ledger_says_what_was_disclosed_and_how_much(networks: SplitNetworks) -> None:
    wire = table()
    for party, ledger in networks.ledgers.items():
        entries = [entry for entry in ledger.entries if entry.message in wire]
        assert entries
        for entry in entries:
            message = wire[entry.message]
            assert (entry.kind, entry.discloses) == (message.payload.__name__, message.discloses)
        outputs = [entry.values for entry in entries if entry.message == "split_learning.outputs"]
        rows = 4 * (44 + 20) * EPOCHS  # values of either side's ledger, and a few facts
        parties = {COORDINATOR: 0, "bank": len(networks.job.passive)}.get(party, 1)
        assert sum(outputs) == parties * (rows + 2 * (BATCHES + BLOCKS) * EPOCHS)


# the leakage list


def words(text: str) -> str:
    """On one line, without remarks in brackets; to the active party "its" is the passive party's."""
    return re.sub(r" ?\([^)]*\)", "", " ".join(text.split())).replace("a passive party's", "its")


def test_what_messages_disclose_is_the_leakage_list() -> None:
    section = re.search(r"\nLeakage\n-+\n(.*?)\nGradients tell", split_learning.__doc__ or "", re.DOTALL)
    assert section is not None
    entries = re.findall(r"^(active|passive|coordinator) : (.*(?:\n {4}.*)*)", section.group(1), re.MULTILINE)
    listed = {role: words(text).split("; ") for role, text in entries}
    assert listed.pop("coordinator") == ["sizes and timing", "all else passes through it sealed"]
    for role, kind in (("active", Active), ("passive", Passive)):
        told = [words(message.discloses) for message in table().values() if message.dst is kind and message.discloses]
        assert sorted(told) == sorted(listed.pop(role))
    assert not listed
    for message in table().values():
        assert bool(message.discloses) == issubclass(message.payload, TELLING), message


# who sees what


def test_the_coordinator_gets_epoch_numbers_only(networks: SplitNetworks) -> None:
    seen = [payload for _, receiver, _, payload in own(networks) if receiver == COORDINATOR]
    assert [payload.facts for payload in seen if isinstance(payload, Control)] == [
        {"epoch": epoch, "go": epoch < EPOCHS - 1} for epoch in range(EPOCHS)
    ]
    assert len(seen) == EPOCHS
    assert all(table()[name].dst is not Coordinator for name in ("split_learning.outputs", "split_learning.gradients"))


def test_what_passes_between_parties_is_sealed(networks: SplitNetworks) -> None:
    """The coordinator relays these frames: not a number of an output or a gradient can be read off."""
    relayed = b"|".join(frame.body for frame in networks.frames)
    checked = 0
    for sender, receiver, name, payload in own(networks):
        if COORDINATOR in (sender, receiver) or not isinstance(payload, Revealed):
            continue
        assert encode(payload) not in relayed
        assert not payload.values.size or payload.values[0].tobytes() not in relayed, name
        checked += 1
    assert checked >= EPOCHS * (2 * BATCHES + BLOCKS + 1) + 1


def test_cells_and_labels_and_weights_stay_at_home(networks: SplitNetworks) -> None:
    """As they lie in memory: no message holds a column, a party's weights or the labels."""
    sent = b"|".join(encode(payload) for _, _, _, payload in own(networks) if isinstance(payload, Revealed | Control))
    secrets = {f"columns of {n}": networks.columns(n)[:, 0] for n in networks.names if networks.columns(n).size}
    secrets["labels"] = np.asarray(networks.y, dtype=np.float64)[:8]
    for name, bottom in networks.bottoms.items():
        secrets |= {f"{name} {key}": array.astype(np.float64) for key, array in bottom.weights().items()}
    assert len(secrets) >= 4
    for what, values in secrets.items():
        assert np.ascontiguousarray(values).tobytes() not in sent, what
