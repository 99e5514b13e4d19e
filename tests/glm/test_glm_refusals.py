"""What a dishonest or broken role sends is refused by its receiver, who names the sender."""

from __future__ import annotations

from collections.abc import Callable

import gmpy2
import numpy as np
import pytest

from parties.errors import CryptoError, LocalProtocolError, RemoteProtocolError, VflError
from parties.wire import Encrypted, Masked, Opened, PaillierKey, Payload, Revealed
from tests.glm.federations import make_federation, tamper
from vfl import glm, glm_exact
from vfl.paillier import CipherVector, PrivateKey, generate_keypair


def play(key_holder: str, model: str = "logistic", **training: object) -> None:
    make_federation(model, 30, (1, 2, 2), key_holder=key_holder, training={"max_iter": 3} | training).fit()


def more(payload: Payload) -> Payload:
    return type(payload)(*_parts(payload, np.concatenate([payload.body, payload.body[:1]])))


def fewer(payload: Payload) -> Payload:
    return type(payload)(*_parts(payload, payload.body[:-1]))


def wider(payload: Payload) -> Payload:
    body = payload.body
    return type(payload)(*_parts(payload, np.hstack([np.zeros((len(body), 1), dtype=body.dtype), body])))


def flat(payload: Payload) -> Payload:
    return type(payload)(*_parts(payload, payload.body.reshape(-1)))


def _parts(payload: Payload, body: np.ndarray) -> tuple[object, ...]:
    body = np.ascontiguousarray(body)
    return (payload.key, body) if isinstance(payload, Encrypted) else (body,)


def other_key(payload: Encrypted) -> Encrypted:
    return Encrypted(bytes(16), payload.body)


def last_row(value: int) -> Callable[[Encrypted], Encrypted]:
    """The last ciphertext replaced by a number."""

    def change(payload: Encrypted) -> Encrypted:
        body = payload.body.copy()
        body[-1] = np.frombuffer(value.to_bytes(body.shape[1]), dtype=np.uint8)
        return Encrypted(payload.key, body)

    return change


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> PrivateKey:
    """The run's key, made beforehand so that a test can misuse it."""
    key = generate_keypair(512, insecure_test_mode=True)
    monkeypatch.setattr("vfl.glm_exact.generate_keypair", lambda *_, **__: key)
    monkeypatch.setattr("vfl.glm_quadratic.generate_keypair", lambda *_, **__: key)
    return key


# message, who sends it, whom the refusal names (the coordinator answers for what it relays)
CIPHERTEXTS = [
    ("active", "glm_exact.residual", "active", "coordinator"),
    ("active", "glm_exact.products", "passive-2", "passive-2"),
    ("active", "glm_exact.all_products", "coordinator", "coordinator|passive"),
    ("coordinator", "glm_quadratic.deviation", "active", "active"),
    ("coordinator", "glm_quadratic.step_scores", "passive-1", "passive-1"),
    ("coordinator", "glm_quadratic.direction_scores", "active", "active"),
    ("coordinator", "glm_quadratic.products", "passive-2", "passive-2"),
    ("coordinator", "glm_quadratic.products", "active", "active"),
]
ciphertexts = pytest.mark.parametrize(("key_holder", "message", "sender", "named"), CIPHERTEXTS)


@ciphertexts
@pytest.mark.parametrize("change", [more, fewer, wider, flat, other_key], ids=lambda f: f.__name__)
def test_ciphertexts_of_another_count_width_or_key(
    key_holder: str, message: str, sender: str, named: str, change: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among them: a passive party that asks for more decryptions than agreed, or of other ciphertexts."""
    tamper(monkeypatch, sender, message, change)
    with pytest.raises(RemoteProtocolError, match=named):
        play(key_holder)


@ciphertexts
@pytest.mark.parametrize("bad", ["zero", "beyond", "no unit", "symbol -1"])
def test_numbers_that_are_no_ciphertexts(
    key_holder: str, message: str, sender: str, named: str, bad: str, key: PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, (p, _) = key.public.n, key.primes()
    numbers = {"zero": 0, "beyond": n * n, "no unit": p * (n + 1), "symbol -1": symbol_minus_one(n)}
    tamper(monkeypatch, sender, message, last_row(numbers[bad]))
    with pytest.raises(RemoteProtocolError, match=rf"ciphertexts from ({named})"):
        play(key_holder)


def symbol_minus_one(n: int) -> int:
    return next(x for x in range(2, 100) if gmpy2.jacobi(x, n) == -1)


def test_products_are_opened_for_nobody_before_all_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    tamper(monkeypatch, "passive-2", "glm_exact.products", last_row(0))
    federation = make_federation("logistic", 60, (1, 2, 2))
    with pytest.raises(RemoteProtocolError, match="passive-2"):
        federation.fit()
    assert not [d for d in federation.deliveries if d.message == "glm_exact.opened"]


OPENED = [("active", "glm_exact.opened", "active"), ("coordinator", "glm_quadratic.opened", "coordinator")]


@pytest.mark.parametrize(("key_holder", "message", "sender"), OPENED)
@pytest.mark.parametrize("change", [more, fewer, wider, flat], ids=lambda f: f.__name__)
def test_answers_of_another_shape(
    key_holder: str, message: str, sender: str, change: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    tamper(monkeypatch, sender, message, change)
    with pytest.raises(RemoteProtocolError, match=f"opened products from {sender}"):
        play(key_holder)


@pytest.mark.parametrize(("key_holder", "message", "sender"), OPENED)
def test_answers_that_are_not_ours(key_holder: str, message: str, sender: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong slot unmasks to a product beyond the agreed bound (with probability 1 - 2^-9 or more per product)."""
    random = np.random.default_rng(0)
    tamper(
        monkeypatch, sender, message, lambda p: Opened(random.integers(0, 8, p.body.shape).astype(np.uint8))
    )  # fmt: skip
    with pytest.raises(RemoteProtocolError, match=f"opened products from {sender}"):
        play(key_holder)


MASKED = [
    ("active", "glm_exact.gradient_scalars", "passive-1", "passive-1"),
    ("active", "glm_exact.scores", "passive-2", "passive-2"),
    ("active", "glm_exact.step_scalars", "passive-2", "passive-2"),
    ("active", "glm_exact.gradient_sums", "coordinator", "coordinator"),
    ("active", "glm_exact.score_sums", "coordinator", "coordinator"),
    ("active", "glm_exact.step_sums", "coordinator", "coordinator"),
    ("coordinator", "glm_quadratic.scalars", "active", "active"),
    ("coordinator", "glm_quadratic.scalars", "passive-2", "passive-2"),
    ("coordinator", "glm_quadratic.training_scores", "passive-1", "passive-1"),
    ("coordinator", "glm_quadratic.training_sums", "coordinator", "coordinator"),
]


@pytest.mark.parametrize(("key_holder", "message", "sender", "named"), MASKED)
@pytest.mark.parametrize("change", [more, fewer, wider], ids=lambda f: f.__name__)
def test_masked_words_of_another_shape(
    key_holder: str, message: str, sender: str, named: str, change: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    tamper(monkeypatch, sender, message, change)
    with pytest.raises(RemoteProtocolError, match=f"{named} sent masked words"):
        play(key_holder, newton_steps=1 if key_holder == "coordinator" else 0)


@pytest.mark.parametrize("sender", ["active", "passive-1", "passive-2"])
def test_scalars_without_shape(sender: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tamper(monkeypatch, sender, "glm_quadratic.scalars", lambda p: Masked(p.body.reshape(-1)))
    with pytest.raises(RemoteProtocolError, match=sender):
        play("coordinator")


GOOD = {"bound_bits": 0, "label_bits": 0, "rows_per_ciphertext": 1}
GOOD_QUADRATIC = {"bound_bits": 0, "label_bits": 0, "packed_deviation": 1, "packed_scores": 1, "curvature": 0.25}
BAD_SETUPS = [("active", GOOD | change) for change in (
    {"bound_bits": 129}, {"bound_bits": -129}, {"bound_bits": 1.0}, {"bound_bits": None}, {"bound_bits": True},
    {"label_bits": 1101}, {"rows_per_ciphertext": 0}, {"rows_per_ciphertext": 65}, {"rows_per_ciphertext": "1"},
)] + [("coordinator", GOOD_QUADRATIC | change) for change in (
    {"bound_bits": 129}, {"label_bits": -1101}, {"packed_deviation": 0}, {"packed_scores": 65}, {"curvature": 0.0},
    {"curvature": -1.0}, {"curvature": 2.0**17}, {"curvature": float("nan")}, {"curvature": float("inf")},
    {"curvature": 1}, {"curvature": None},
)]  # fmt: skip


@pytest.mark.parametrize(("key_holder", "facts"), BAD_SETUPS)
def test_set_ups_out_of_range(key_holder: str, facts: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    message = "glm_exact.setup" if key_holder == "active" else "glm_quadratic.setup"
    tamper(monkeypatch, "active", message, lambda p: Revealed(facts, p.values))
    with pytest.raises(RemoteProtocolError, match="active sent an? (set-up|expansion) out of range"):
        play(key_holder)


def test_the_coordinator_checks_its_copy_of_the_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = GOOD_QUADRATIC | {"curvature": float("nan")}
    tamper(monkeypatch, "active", "glm_quadratic.setup_copy", lambda p: Revealed(facts, p.values))
    with pytest.raises(RemoteProtocolError, match="active sent an expansion out of range"):
        play("coordinator")


@pytest.mark.parametrize("key_holder", ["active", "coordinator"])
def test_packings_that_do_not_fit_the_key(key_holder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"rows_per_ciphertext": 64, "packed_deviation": 64, "packed_scores": 64}
    message = "glm_exact.setup" if key_holder == "active" else "glm_quadratic.setup"
    tamper(monkeypatch, "active", message, lambda p: Revealed(p.facts | facts, p.values))
    with pytest.raises(CryptoError, match="Pack fewer rows"):
        play(key_holder)


STEERING = [
    ("active", "glm_exact.direction", "active"),
    ("active", "glm_exact.step", "active"),
    ("coordinator", "glm_quadratic.steer", "coordinator"),
]
BAD_VALUES = {
    "nan": lambda v: v * np.nan,
    "infinite": lambda v: v + np.inf,
    "more": lambda v: np.append(v, 1.0),
    "fewer": lambda v: v[:-1].copy(),
    "table": lambda v: v[None, :].copy(),
}


@pytest.mark.parametrize(("key_holder", "message", "sender"), STEERING)
@pytest.mark.parametrize("change", BAD_VALUES.values(), ids=BAD_VALUES)
def test_steering_values(
    key_holder: str, message: str, sender: str, change: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    tamper(monkeypatch, sender, message, lambda p: Revealed(p.facts, np.ascontiguousarray(change(p.values))))
    with pytest.raises(RemoteProtocolError, match=f"{sender} sent steering values"):
        play(key_holder)


@pytest.mark.parametrize(("key_holder", "message", "sender"), STEERING)
@pytest.mark.parametrize("size", [2.0**25, 1e200, 1e308])
def test_steps_beyond_fixed_point_end_in_an_error(
    key_holder: str, message: str, sender: str, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    tamper(monkeypatch, sender, message, lambda p: Revealed(p.facts, np.full_like(p.values, size)), after=1)
    with pytest.raises(VflError):
        play(key_holder)


def test_a_key_shorter_than_the_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    short = generate_keypair(256, insecure_test_mode=True).public
    for key_holder, message in (("active", "glm_exact.key"), ("coordinator", "glm_quadratic.key")):
        tamper(monkeypatch, key_holder, message, lambda _: PaillierKey(*short.to_wire()))
        with pytest.raises(RemoteProtocolError, match=f"public key from {key_holder}.*at least 512"):
            play(key_holder)


def test_a_payload_of_another_type_does_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    tamper(monkeypatch, "active", "glm_exact.proceed", lambda p: Opened(np.zeros((1, 1), dtype=np.uint8)))
    with pytest.raises(LocalProtocolError, match="carries Control"):
        play("active")


def test_ciphertexts_that_were_not_rerandomised_do_not_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(plan: object, v: CipherVector, *, pool: object = None) -> tuple[CipherVector, list[int]]:
        return v, [0] * len(v)

    monkeypatch.setattr(glm_exact, "mask_products", forgetful)
    with pytest.raises(LocalProtocolError, match="without re-randomising"):
        play("active")


def test_a_column_that_is_not_standardised_is_refused() -> None:
    integers = np.full((10, 1), 1 << 16, dtype=np.int64)
    with pytest.raises(LocalProtocolError, match="not standardised"):
        glm.make_block(integers, np.array([15]), 10, 0.0, ones=False)
