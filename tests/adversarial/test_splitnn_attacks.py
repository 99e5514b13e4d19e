"""What roles of a source layer work out of what they see: attacks succeed as far as the docstring says, no further.

An active party that is only curious reads the rows' summed outputs in every epoch (`vfl.splitnn`, Leakage): with few
views it gets a part of the passive columns, with as many as there are columns everything but a rotation. What is not
among the promises, a role that does not follow the protocol, is shown too.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.errors import RemoteProtocolError
from parties.guards import first_layer_views, single_first_layer
from parties.link import COORDINATOR
from parties.wire import Encrypted, Revealed
from tests.glm.federations import tamper
from tests.splitnn.layers import Layers, make_layers
from vfl import forward_pass, masking
from vfl.epochs import draw_batches
from vfl.exchange import send_ciphers
from vfl.job import Job, Member, Privacy, SplitNN
from vfl.network_columns import FIXED_BITS, LARGEST
from vfl.paillier import ObfuscatorPool, decrypt, encrypt, from_bytes, generate_keypair, open_words, rerandomise
from vfl.source_layer import OUTPUT_BITS, STEP_BITS, Steps, initial_weights, mask_updates, multiply, plan_layer
from vfl.terms import Terms

KEY = generate_keypair(512, insecure_test_mode=True)
THEIRS = ObfuscatorPool(KEY.public, capacity=8, towards_owner=True)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """One key for all, so that tests can open what the active party opens."""
    monkeypatch.setattr(forward_pass, "generate_keypair", lambda *_, **__: KEY)


def whole_batches(rows: int, columns: tuple[int, ...], units: int, epochs: int, **more: Any) -> Layers:
    """All rows in one batch: what every epoch shows is of the same weights."""
    chosen = {"batch_size": rows, "units": units, "epochs": epochs, "source_learning_rate": 5.0} | more
    return make_layers(rows=rows, columns=columns, settings=chosen)


def views(layers: Layers) -> list[np.ndarray]:
    """Outputs by epoch, in the rows' own order."""
    n, found = layers.terms.rows, []
    for epoch, z in enumerate(layers.spy.seen):
        (order,) = draw_batches(n, layers.splitnn.batch_size, layers.seed, epoch)
        found.append(z[np.argsort(order)])
    return found


def steps_of(layers: Layers, epoch: int) -> np.ndarray:
    """The active party's own step, in the rows' order, as it subtracts it."""
    (order,) = draw_batches(layers.terms.rows, layers.splitnn.batch_size, layers.seed, epoch)
    fixed = Steps(layers.splitnn.source_step).fix(layers.spy.gradients[epoch])
    return np.ldexp(fixed[np.argsort(order)].astype(np.float64), -STEP_BITS)


def passive_columns(layers: Layers) -> np.ndarray:
    """What the active party would like to know."""
    return np.hstack([np.ldexp(layers.fixed(name).astype(np.float64), -FIXED_BITS) for name in layers.names[1:]])


def explained(columns: np.ndarray, by: np.ndarray) -> np.ndarray:
    """How much of every column lies in the span of others, 0 to 1."""
    centred, basis = columns - columns.mean(axis=0), np.linalg.qr(by - by.mean(axis=0))[0]
    return ((basis.T @ centred) ** 2).sum(axis=0) / (centred**2).sum(axis=0)


# an active party that is only curious


def test_two_epochs_with_as_many_units_as_columns_show_all_inner_products() -> None:
    """Z1 = X W, Z2 = Z1 - X X'D with D its own: with X = Z1 W^-1, G = (W'W)^-1 is all that it lacks, and is linear."""
    layers = whole_batches(60, (2, 2, 2), units=4, epochs=2)
    layers.fit()
    first, second = views(layers)
    D = steps_of(layers, 0)
    G = np.linalg.lstsq(first, first - second, rcond=None)[0] @ np.linalg.pinv(first.T @ D)
    X = passive_columns(layers)
    assert np.abs(first @ G @ first.T - X @ X.T).max() < 1e-3 * np.abs(X @ X.T).max()


def test_a_few_known_rows_then_show_all_cells() -> None:
    """As many as there are columns: each other row is a combination of these, as its outputs are of theirs."""
    layers = whole_batches(60, (1, 2, 2), units=4, epochs=1)
    layers.fit()
    (z,), X = views(layers), passive_columns(layers)
    known = np.argsort(X[:, 1] + X[:, 3])[-3:].tolist() + [0]
    coefficients = np.linalg.solve(z[known].T, z.T)
    assert np.abs(coefficients.T @ X[known] - X).max() < 2.0**-FIXED_BITS / 4  # to the last bit of a cell


def test_independent_columns_are_found_without_knowing_any_row() -> None:
    """Blind source separation of the outputs, each column up to sign and scale."""
    from sklearn.decomposition import FastICA

    rng = np.random.default_rng(4)
    layers = whole_batches(400, (1, 2, 1), units=3, epochs=1)
    layers.blocks[1:] = [
        np.stack([rng.exponential(size=400), rng.uniform(-2, 2, 400)], axis=1),
        rng.random((400, 1)) < 0.3,
    ]
    layers.blocks[2] = layers.blocks[2].astype(float)
    layers.fit()
    (z,) = views(layers)
    sources = FastICA(3, random_state=0, whiten="unit-variance", max_iter=1000).fit_transform(z)
    alike = np.abs(np.corrcoef(np.hstack([passive_columns(layers), sources]).T)[:3, 3:])
    assert (alike.max(axis=1) > 0.98).all()


def test_below_the_budget_columns_stay_open_but_not_all_alike() -> None:
    """Half as many views as columns hold half of what these span; of those that the labels hang on more than half."""
    few = whole_batches(80, (1, 4, 4), units=1, epochs=4)
    few.fit()
    X = passive_columns(few)
    told = explained(X, np.hstack(views(few)))
    assert told.mean() < 0.7 and told.min() < 0.3 and told.max() > 0.9
    many = whole_batches(80, (1, 4, 4), units=8, epochs=1)
    many.fit()
    assert explained(X, np.hstack(views(many))).min() > 0.9999


@pytest.mark.parametrize(
    ("epochs", "units", "level"), [(2, 4, "refuse"), (1, 4, "refuse"), (3, 1, "warn"), (1, 1, None)]
)
def test_the_guard_stops_where_the_attacks_begin(epochs: int, units: int, level: str | None) -> None:
    verdict = first_layer_views(epochs=epochs, units=units, passive_columns=[2, 2], party="bank", consent=False)
    assert level == (None if verdict is None else verdict.level)


def test_one_binary_column_of_the_only_passive_party_is_read_off() -> None:
    layers = whole_batches(60, (1, 1), units=2, epochs=1)
    layers.blocks[1] = (np.random.default_rng(1).random((60, 1)) < 0.4).astype(float)
    layers.fit()
    (z,) = views(layers)
    assert ((z[:, 0] != 0) == (layers.blocks[1][:, 0] == 1)).all()
    assert single_first_layer(party="shop-1", passive_parties=1, consent=False).level == "refuse"


# the first weights, which are a hash of the party's cells


def test_first_weights_tell_a_guess_from_the_truth_no_better_than_outputs_do() -> None:
    """Who knows all cells but one tests both values by the hash; and finds the cell without it, by regression."""
    layers = whole_batches(60, (1, 3, 2), units=2, epochs=1)
    layers.fit()
    (z,), X = views(layers), layers.fixed("shop-1")
    rest = np.ldexp(layers.fixed("shop-2") @ layers.first_weights("shop-2").astype(np.float64), -OUTPUT_BITS)
    guesses = []
    for value in (0, 1 << FIXED_BITS):
        guess = X.copy()
        guess[17, 2] = value
        weights = initial_weights(layers.job, guess, 2, layers.width)
        guesses.append(np.abs(np.ldexp(guess @ weights.astype(np.float64), -OUTPUT_BITS) + rest - z).max() < 1e-6)
    assert guesses == [X[17, 2] == 0, X[17, 2] != 0]
    others = np.arange(60) != 17
    cells = passive_columns(layers)
    weights = np.linalg.lstsq(cells[others], z[others], rcond=None)[0]
    lacking = z[17] - np.delete(cells[17], 2) @ np.delete(weights, 2, axis=0)
    assert np.allclose(lacking @ weights[2] / (weights[2] @ weights[2]), cells[17, 2], atol=1e-6)


def test_first_weights_of_other_rows_seeds_and_shapes_have_nothing_in_common() -> None:
    """So that folds, which differ in few rows, do not show differences of rows under the same weights."""
    layers = make_layers(rows=50, columns=(1, 4))
    X, job = layers.fixed("shop-1"), layers.job
    layers.seed = 1
    variants = [
        initial_weights(job, X, 16, 5),
        initial_weights(job, X[:-1], 16, 5),
        initial_weights(job, X[::-1].copy(), 16, 5),
        initial_weights(layers.job, X, 16, 5),
    ]
    for i, one in enumerate(variants):
        for other in variants[:i]:
            assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.8 and not (one == other).any()


# masks


def terms_of(columns: tuple[int, ...], units: int, batch: int, bits: int = 2048) -> Terms:
    names = ["bank", *(f"shop-{i}" for i in range(1, len(columns)))]
    members = tuple(Member(name=name, role="passive" if i else "active") for i, name in enumerate(names))
    job = Job(
        name="test",
        model="splitnn",
        task="binary",
        parties=members,
        splitnn=SplitNN(units=units, batch_size=batch),
        privacy=Privacy(key_bits=bits),
    )
    return Terms(job, "active", "", 1000, 1, dict(zip(names, columns, strict=True)), True, 0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 2000), min_size=1, max_size=6),
    st.integers(1, 64),
    st.integers(1, 1 << 16),
    st.sampled_from([2048, 3072]),
)
def test_masks_are_2_to_40_times_as_wide_as_anything_they_hide(
    passive: list[int], units: int, batch: int, bits: int
) -> None:
    """Also in batches of one row; and the parties' sums, each with its mask, stay within their slots."""
    plan = plan_layer(terms_of((1, *passive), units, batch, bits))
    cell = LARGEST << FIXED_BITS
    ahead, back = max(passive) * cell * 2**63, batch * cell * (2**STEP_BITS - 1)
    for layout, largest, terms in ((plan.forward, ahead, len(passive)), (plan.backward, back, 1)):
        assert layout.bound >= largest and layout.mask_range >= largest << 40
        assert terms * (layout.bound + layout.mask_range - 1 + largest) < 1 << layout.slot_bits
        assert layout.slot_bits * layout.slots <= bits - 2  # below N


@pytest.mark.parametrize("rows", [1, 7, 64, 65, 200])
@pytest.mark.parametrize("size", [1, 3, 64, 1000])
def test_no_batch_is_larger_than_the_masks_are_laid_out_for(rows: int, size: int) -> None:
    batches = draw_batches(rows, size, seed=3, epoch=2)
    assert max(map(len, batches)) <= size
    assert sorted(np.concatenate(batches).tolist()) == list(range(rows))


def test_batches_of_one_row_are_masked_as_large_ones_are() -> None:
    """The product is then a single row's cells times its step: of both nothing is seen."""
    layers = make_layers(rows=14, columns=(1, 2), settings={"batch_size": 1, "epochs": 1, "units": 2})
    layers.fit()
    layout = plan_layer(layers.terms).backward
    opened = [
        m >> layout.slot_bits * i & (1 << layout.slot_bits) - 1
        for d in layers.deliveries
        if d.message == "splitnn.updates"
        for m in map(int, KEY.decrypt_values(KEY.public.kernel.from_rows(d.payload.body)))
        for i in range(2)
    ]
    assert len(opened) == 14 * 2 * 2
    assert min(opened) > layout.bound << 20 and len(set(opened)) == len(opened)


# what roles see together


def products_and_rests(layers: Layers, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of one passive party, what the coordinator hands to the active one: opened products, and masked rests."""
    plan = plan_layer(layers.terms)
    found: dict[str, list[Any]] = {"products": [], "rests": []}
    for d in layers.deliveries:
        if d.sender == name and d.message.partition(".")[2] in found:
            found[d.message.partition(".")[2]].append(d.payload.body)
    pairs = []
    for body, rest in zip(found["products"], found["rests"], strict=True):
        residues = [int(m) for m in KEY.decrypt_values(KEY.public.kernel.from_rows(body))]
        used = -(-plan.units // plan.per_row(plan.forward))
        pairs.append(
            (plan.gather(open_words(plan.forward, residues, used), plan.forward), rest.reshape(-1, plan.units))
        )
    return pairs


def test_coordinator_and_active_party_together_see_sums_of_two_passive_parties_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a passive party's streams too, the other one's outputs: as the docstring says."""
    streams: dict[tuple[str, str], np.ndarray] = {}
    words = masking.Masks._words

    def spy(self: Any, label: str, count: int) -> Any:
        net = words(self, label, count)
        streams[threading.current_thread().name, label] = net
        return net

    monkeypatch.setattr(masking.Masks, "_words", spy)
    layers = make_layers(rows=50, columns=(1, 2, 2), settings={"units": 2, "batch_size": 25, "epochs": 1})
    layers.fit()
    X, W = layers.fixed("shop-1"), layers.first_weights("shop-1")
    order = draw_batches(50, 25, layers.seed, 0)[0]
    truth = X[order] @ W
    opened, rest = products_and_rests(layers, "shop-1")[0]
    lead, other = (streams[name, "outputs|0"].reshape(-1, 2) for name in ("bank", "shop-2"))
    assert np.array_equal((opened + rest + lead + other).view(np.int64), truth)
    without = (opened + rest + lead).view(np.int64)
    assert not (without == truth).any()
    assert abs(np.corrcoef(without.ravel().astype(float), truth.ravel().astype(float))[0, 1]) < 0.7
    assert np.abs(without).max() > 2**60  # the whole range, where outputs have 2^48


def test_a_passive_party_sees_the_same_sizes_whatever_the_labels() -> None:
    """And in the same order; of values it reads how epochs went, and nothing else."""
    seen = []
    for turned in (False, True):
        layers = make_layers(rows=60, columns=(1, 2, 1), validation=12, test=5)
        if turned:
            layers.y = np.where(np.arange(60) % 7 == 0, layers.y, 1 - layers.y)
        layers.fit()
        mine = [d for d in layers.deliveries if d.receiver == "shop-1" and not d.message.startswith("greeting")]
        seen.append([(d.message, d.sender, getattr(d.payload, "body", np.zeros(0)).shape) for d in mine])
        read = [d.payload for d in mine if not isinstance(d.payload, Encrypted) and not d.message.endswith(".key")]
        assert all(isinstance(p, Revealed) and set(p.facts) == {"best", "go"} and not p.values.size for p in read)
    assert seen[0] == seen[1]


# roles that do not follow the protocol: not promised, and said so


def test_an_active_party_that_sends_other_weights_reads_cells_unnoticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """V + 2^48 on the diagonal: each unit shows one column, is corrected by it, and training goes on to the bit."""
    honest = make_layers(rows=40, columns=(1, 2, 2), settings={"units": 4, "batch_size": 20, "epochs": 1})
    fits = honest.fit()
    layers = make_layers(rows=40, columns=(1, 2, 2), settings={"units": 4, "batch_size": 20, "epochs": 1})
    read: list[np.ndarray] = []
    encrypt_weights, sent = forward_pass.encrypt_weights, []

    def other_weights(plan: Any, key: Any, share: Any, pool: Any) -> Any:
        first = 2 * (len(sent) % 2)  # of shop-1 units 0 and 1, of shop-2 units 2 and 3
        sent.append(first)
        bent = share.copy()
        bent[[0, 1], [first, first + 1]] += np.uint64(1 << 48)
        return encrypt_weights(plan, key, bent, pool)

    def read_off(plan: Any, key: Any, products: Any, rest: Any) -> Any:
        opened = open_words(plan.forward, decrypt(key, products), -(-plan.units // plan.per_row(plan.forward)))
        whole = (plan.gather(opened, plan.forward) + rest.view(np.uint64)).view(np.int64)
        cells = (whole + (1 << 47)) >> 48
        read.append(cells)
        return np.ldexp((whole - (cells << 48)).astype(np.float64), -OUTPUT_BITS)

    monkeypatch.setattr(forward_pass, "encrypt_weights", other_weights)
    monkeypatch.setattr(forward_pass, "open_outputs", read_off)
    again = layers.fit()
    truth = np.hstack([layers.fixed("shop-1"), layers.fixed("shop-2")])
    order = np.concatenate(draw_batches(40, 20, layers.seed, 0))
    assert np.array_equal(np.concatenate(read), truth[order])
    assert again["bank"][0].course.losses == fits["bank"][0].course.losses
    mine, theirs = layers.weights(again), honest.weights(fits)
    assert all(np.array_equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("back", [True, False], ids=["steps", "weights"])
def test_plaintexts_beyond_the_agreed_ones_outgrow_the_masks(back: bool) -> None:
    """One number of 300 bits instead of 26 or 64: the cells that it is multiplied with stand above every mask."""
    layers = make_layers(rows=8, columns=(1, 3), settings={"units": 1, "batch_size": 8})
    plan, X = plan_layer(layers.terms), layers.fixed("shop-1")
    plain = [0] * (8 if back else 3)
    plain[1] = 1 << 300
    vector = from_bytes(KEY.public, send_ciphers(encrypt(KEY, plain)).body, count=len(plain))
    if back:
        opened = decrypt(KEY, mask_updates(plan, vector, X, THEIRS)[0])
        cells = X[1]
    else:
        opened = decrypt(KEY, multiply(plan, vector, X, np.zeros((3, 1), dtype=np.uint64), THEIRS)[0])
        cells = X[:, 1]
    n = KEY.public.n
    signed = [m - n if 2 * m > n else m for m in opened]
    assert [(m + (1 << 299)) >> 300 for m in signed] == cells.tolist()


@pytest.mark.parametrize("row", range(6))
def test_a_passive_party_that_sends_a_step_back_sees_its_sign_by_whether_the_run_stops(
    row: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bit of one row, for one run that ends in an error which names this party."""
    layers = make_layers(rows=24, columns=(1, 1), settings={"units": 1, "batch_size": 24, "epochs": 1})
    got: list[Any] = []
    tamper(monkeypatch, COORDINATOR, "splitnn.gradients_copy", lambda sent: got.append(sent) or sent)

    def answer(sent: Any) -> Any:
        step = from_bytes(KEY.public, np.ascontiguousarray(got[0].body[row : row + 1]), count=1)
        return send_ciphers(rerandomise(step, towards_owner=True))

    tamper(monkeypatch, "shop-1", "splitnn.updates", answer)
    try:
        layers.fit()
        stopped = False
    except RemoteProtocolError as error:
        assert "updates from shop-1" in str(error)
        stopped = True
    (gradient,) = layers.spy.gradients
    assert stopped == (Steps(layers.splitnn.source_step).fix(gradient)[row, 0] < 0)
