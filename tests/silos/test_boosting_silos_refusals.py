"""What a dishonest or broken silo or coordinator sends is refused by its receiver, who names the sender."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from parties.errors import RemoteProtocolError
from parties.wire import Bitmaps, Control, Encrypted, EncryptedSums, Masked, Positions, Revealed
from tests.glm.federations import tamper
from tests.silos.silo_forests import SiloForests, silo_forests
from vfl import boosting_silos
from vfl.paillier import generate_keypair
from vfl.trees.bitmaps import bits_to_words, words_to_bits

KEY = generate_keypair(512, insecure_test_mode=True)
QUICK: dict[str, Any] = {"n_estimators": 2, "max_depth": 2, "min_child_weight": 0.0, "max_bin": 6}
Change = Callable[[Any], Any]


@pytest.fixture(autouse=True)
def one_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """One key for all, so that it need not be made anew."""
    monkeypatch.setattr(boosting_silos, "generate_keypair", lambda *_, **__: KEY)


def make_forests() -> SiloForests:
    return silo_forests("binary", (2, 2), rows=80, settings=QUICK)


def body(change: Change) -> Change:
    """Change the rows of ciphertexts or words."""

    def changed(payload: Any) -> Any:
        rows = np.ascontiguousarray(change(payload.body.copy()))
        if isinstance(payload, Masked):
            return Masked(rows)
        if isinstance(payload, EncryptedSums):
            return EncryptedSums(payload.key, payload.counts, rows)
        return Encrypted(payload.key, rows)

    return changed


def zeroed(rows: Any) -> Any:
    rows[0] = 0
    return rows


def beyond(rows: Any) -> Any:
    rows[-1] += np.uint64(1 << 63)
    return rows


def facts(**given: Any) -> Change:
    return lambda payload: Control({**payload.facts, **given})


def values(change: Change) -> Change:
    return lambda payload: Revealed({}, change(payload.values.copy()))


CASES: dict[str, tuple[str, str, Change, str]] = {
    "fewer gradients": ("bank.s1", "gradients", body(lambda b: b[:-1]), "bank.s1"),
    "gradients that are no units": ("bank.s1", "gradients", body(zeroed), "ciphertexts from bank.s1"),
    "fewer copies of gradients": ("coordinator", "gradients_copy", body(lambda b: b[:-1]), "coordinator"),
    "copies that are no units": ("coordinator", "gradients_copy", body(zeroed), "ciphertexts from coordinator"),
    "fewer candidates": ("shop-1.s1", "candidates", body(lambda b: b[:-1]), "shop-1.s1"),
    "candidates that are no units": ("shop-1.s1", "candidates", body(zeroed), "ciphertexts from shop-1.s1"),
    "fewer sums": ("coordinator", "candidate_sums", body(lambda b: b[:-1]), "a silo of shop-1 or the coordinator"),
    "sums that are no units": ("coordinator", "candidate_sums", body(zeroed), "a silo of shop-1 or the coordinator"),
    "an odd count": ("shop-1.s0", "offered", values(lambda v: v[:-1]), "shop-1.s0 sent counts"),
    "half a candidate": ("shop-1.s0", "offered", values(lambda v: v + 0.5), "shop-1.s0 sent counts"),
    "no number of candidates": ("shop-1.s0", "offered", values(lambda v: v * np.nan), "shop-1.s0 sent counts"),
    "fewer than none": ("shop-1.s0", "offered", values(lambda v: v - 1), "shop-1.s0 sent counts"),
    "another node": ("shop-1.s0", "offered", values(lambda v: v + 1), "a silo of shop-1 or the coordinator sent cand"),
    "more candidates than sums": ("shop-1.s0", "offered", values(lambda v: v * 1e6), "a silo of shop-1 or the coord"),
    "too few sides": ("shop-1.s1", "sides", body(lambda b: b[:-1]), "shop-1.s1 sent masked words"),
    "too few sums of sides": ("coordinator", "side_sums", body(lambda b: b[:-1]), "coordinator sent masked words"),
    "sides of no rows": (
        "shop-1.s1",
        "sides",
        body(beyond),
        "a silo of shop-1 or the coordinator sent bits that",
    ),
    "a candidate that was not offered": (
        "bank.s0",
        "chosen",
        lambda p: Positions(p.counts, p.positions + np.uint32(1 << 20)),
        "bank.s0 chose candidates that this party did not offer",
    ),
    "an outcome of another size": (
        "bank.s0",
        "outcome",
        lambda p: Bitmaps(p.counts[:-1], p.bits),
        "bank.s0 sent bitmaps",
    ),
    "told of fewer rows": ("bank.s0", "told", lambda p: Bitmaps(p.counts - 1, p.bits), "bank.s0 sent bitmaps"),
    "gains of fewer nodes": ("bank.s0", "gains", values(lambda v: v[:-1]), "bank.s0 sent steering values"),
    "gains that are none": ("bank.s0", "gains", values(lambda v: v * np.nan), "bank.s0 sent steering values"),
    "gains below the own": ("bank.s0", "gains", values(lambda v: v + 1e-9), "bank.s0 tells of splits that gain less"),
    "a tree out of turn": ("bank.s0", "tree", facts(tree=1), "bank.s0 announced"),
    "no more trees than grown": ("bank.s0", "tree", facts(go=False, trees=9), "bank.s0 announced"),
    "too many blocks": ("bank.s0", "turn", facts(blocks=99), "bank.s0 announced no tree, level or end"),
    "no blocks": ("bank.s0", "turn", facts(blocks=0), "bank.s0 announced no tree, level or end"),
    "blocks that are no number": ("bank.s0", "turn", facts(blocks=True), "bank.s0 announced no tree, level or end"),
    "no step": ("bank.s0", "turn", facts(step="leaf"), "bank.s0 announced no tree, level or end"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_refused(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sender, message, change, match = CASES[case]
    tamper(monkeypatch, sender, f"boosting_silos.{message}", change)
    with pytest.raises(RemoteProtocolError, match=match):
        make_forests().fit()


def test_the_federation_of_these_tests_is_fine() -> None:
    forests = make_forests()
    _, _, parts = forests.check()
    assert parts[1].splits
    assert len(forests.received("boosting_silos.outcome")) > 0


def test_ciphertexts_under_another_key_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    strange = generate_keypair(512, insecure_test_mode=True).public.fingerprint
    for sender, message in (("bank.s1", "gradients"), ("shop-1.s1", "candidates")):
        with monkeypatch.context() as patch, pytest.raises(RemoteProtocolError, match=f"{sender} sent ciphertexts"):
            tamper(patch, sender, f"boosting_silos.{message}", lambda p: Encrypted(strange, p.body))
            make_forests().fit()


def test_bits_and_words() -> None:
    rng = np.random.default_rng(0)
    for count in (0, 1, 63, 64, 65, 200):
        bits = rng.random(count) < 0.5
        owner = rng.integers(0, 3, count)
        words = sum(bits_to_words(bits & (owner == silo)) for silo in range(3))
        assert np.asarray(words).shape == (-(-count // 64),)
        np.testing.assert_array_equal(words_to_bits(np.asarray(words), count, "bank"), bits)
    with pytest.raises(RemoteProtocolError, match="bank sent bits that are no row's"):
        words_to_bits(np.array([8]), 3, "bank")
    with pytest.raises(RemoteProtocolError, match="expected those of 3 bits"):
        words_to_bits(np.array([1, 0]), 3, "bank")
