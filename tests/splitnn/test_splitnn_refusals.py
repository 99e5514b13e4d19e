"""What a dishonest or broken peer sends while a source layer is trained or scored is refused; the sender is named."""

import tracemalloc
from collections.abc import Callable
from types import SimpleNamespace

import gmpy2
import msgspec
import numpy as np
import pytest

from parties.errors import DataError, LocalProtocolError, RemoteProtocolError
from parties.frame import Frame
from parties.link import COORDINATOR
from parties.local import LocalTransport
from parties.wire import Control, Encrypted, Masked, PaillierKey, Revealed
from tests.glm.federations import tamper
from tests.splitnn.layers import Layers, make_layers
from vfl import forward_pass
from vfl.exchange import send_ciphers
from vfl.forward_pass import CoordinatorForward
from vfl.paillier import encrypt, generate_keypair
from vfl.source_layer import plan_layer

KEY = generate_keypair(512, insecure_test_mode=True)
OTHER = generate_keypair(512, insecure_test_mode=True)
N, P = KEY.public.n, KEY.primes()[0]
ONE, TWO = {"columns": (1, 2)}, {"columns": (1, 2, 1)}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    """One key for all, so that tests can misuse it."""
    monkeypatch.setattr(forward_pass, "generate_keypair", lambda *_, **__: KEY)


def layers_of(shape=TWO, **settings) -> Layers:
    settings = {"batch_size": 10, "epochs": 1} | settings
    return make_layers(rows=31, validation=4, test=3, settings=settings, **shape)


def refused(match, layers=None):
    """Nothing but a RemoteProtocolError comes of it, and it says who sent what."""
    with pytest.raises(RemoteProtocolError, match=match):
        (layers or layers_of()).fit()


@pytest.mark.parametrize("shape", [ONE, TWO], ids=["one", "two"])
def test_the_federation_of_these_tests_is_fine(shape):
    layers = layers_of(shape)
    fits = layers.fit()
    assert fits["bank"][0].course.rounds == fits[COORDINATOR] == fits["shop-1"].epochs == 1
    assert np.isfinite(fits["bank"][1]).all()


# ciphertexts

CIPHERTEXTS = [  # message, its sender, whom the refusal names (the coordinator answers for what it hands on)
    ("splitnn.weights", "bank", "bank"),
    ("splitnn.products", "shop-1", "shop-1"),
    ("splitnn.products", "shop-2", "shop-2"),
    ("splitnn.all_products", "coordinator", "coordinator"),
    ("splitnn.gradients", "bank", "coordinator"),
    ("splitnn.gradients_copy", "coordinator", "coordinator"),
    ("splitnn.updates", "shop-2", "shop-2"),
    ("splitnn_scoring.weights", "bank", "bank"),
    ("splitnn_scoring.products", "shop-2", "shop-2"),
    ("splitnn_scoring.all_products", "coordinator", "coordinator"),
]
ciphertexts = pytest.mark.parametrize(
    ("message", "sender", "named"), CIPHERTEXTS, ids=[f"{message} of {sender}" for message, sender, _ in CIPHERTEXTS]
)


def with_body(change):
    return lambda payload: type(payload)(payload.key, np.ascontiguousarray(change(payload.body)))


def last_row(value):
    def change(body):
        body = body.copy()
        body[-1] = np.frombuffer(value.to_bytes(body.shape[1]), dtype=np.uint8)
        return body

    return change


MINUS_ONE = next(x for x in range(2, 100) if gmpy2.jacobi(x, N) == -1)
BODIES = {
    "one more": lambda body: np.concatenate([body, body[:1]]),
    "twice as many": lambda body: np.concatenate([body, body]),
    "one fewer": lambda body: body[:-1],
    "none": lambda body: body[:0],
    "wider": lambda body: np.hstack([np.zeros((len(body), 1), np.uint8), body]),
    "flat": lambda body: body.reshape(-1),
    "three dimensions": lambda body: body[:, None],
    "zero": last_row(0),
    "beyond": last_row(N * N),
    "no unit": last_row(P * (N + 1)),
    "symbol -1": last_row(MINUS_ONE),
}


@ciphertexts
@pytest.mark.parametrize("bad", BODIES)
def test_ciphertexts_that_are_none(message, sender, named, bad, monkeypatch):
    tamper(monkeypatch, sender, message, with_body(BODIES[bad]))
    refused(named)


@ciphertexts
def test_ciphertexts_under_another_key(message, sender, named, monkeypatch):
    tamper(monkeypatch, sender, message, lambda payload: Encrypted(OTHER.public.fingerprint, payload.body))
    refused(f"{named} sent ciphertexts under another key")


@ciphertexts
def test_ciphertexts_of_a_later_batch_are_checked_too(message, sender, named, monkeypatch):
    later = 0 if message.startswith("splitnn_scoring") else 2
    tamper(monkeypatch, sender, message, with_body(BODIES["symbol -1"]), after=later)
    refused(named)


@pytest.mark.parametrize("bad", BODIES)
def test_of_one_passive_party_the_active_one_checks_what_the_coordinator_hands_on(bad, monkeypatch):
    tamper(monkeypatch, "shop-1", "splitnn.products", with_body(BODIES[bad]))
    refused("shop-1" if bad in ("one more", "one fewer", "none", "flat") else "coordinator", layers_of(ONE))


def test_the_coordinator_hands_no_more_on_than_rows_of_units_can_take(monkeypatch):
    """It does not know the columns; what no plan for so many rows and units can have goes no further."""
    tamper(monkeypatch, "shop-1", "splitnn.products", with_body(lambda body: np.concatenate([body] * 4)))
    refused("shop-1 sent 32 ciphertexts for 8 rows, expected as many for each, up to 3", layers_of(ONE))


# plaintexts


def sent_instead(*plain):
    """Every ciphertext is one of these plaintexts."""

    def change(body):
        return send_ciphers(encrypt(KEY, [plain[i % len(plain)] for i in range(len(body))])).body

    return with_body(change)


def beyond(layout: str) -> int:
    """One more than three slots can hold."""
    plan = plan_layer(layers_of().terms)
    return 1 << getattr(plan, layout).slot_bits * 3


PLAIN = [
    ("splitnn.products", "shop-1", "forward", "outputs from coordinator"),
    ("splitnn.all_products", "coordinator", "forward", "outputs from coordinator"),
    ("splitnn.updates", "shop-2", "backward", "updates from shop-2"),
    ("splitnn_scoring.products", "shop-2", "forward", "outputs from coordinator"),
]
plaintexts = pytest.mark.parametrize(("message", "sender", "layout", "named"), PLAIN, ids=[case[0] for case in PLAIN])


@plaintexts
@pytest.mark.parametrize("kind", ["just beyond its slots", "as long as the modulus", "negative"])
def test_plaintexts_that_no_honest_sum_has(message, sender, layout, named, kind, monkeypatch):
    plain = {"just beyond its slots": beyond(layout), "as long as the modulus": N // 2 - 1, "negative": -(1 << 400)}
    tamper(monkeypatch, sender, message, sent_instead(plain[kind], 0))
    refused(named)


@plaintexts
def test_any_plaintexts_within_the_slots_end_in_a_model_or_in_a_line_on_divergence(
    message, sender, layout, named, monkeypatch
):
    tamper(monkeypatch, sender, message, sent_instead(0, 1, beyond(layout) // 4 - 1, 12345 << 64))
    layers = layers_of()
    try:
        fits = layers.fit()
    except DataError as error:
        assert "diverged" in str(error)
    else:
        assert np.isfinite(fits["bank"][1]).all()


@pytest.mark.parametrize(("message", "layout"), [("splitnn.weights", "forward"), ("splitnn.gradients", "backward")])
def test_any_plaintexts_of_the_active_party_end_alike(message, layout, monkeypatch):
    """A passive party cannot see what it multiplies; it must not break on it, nor the others."""
    tamper(monkeypatch, "bank", message, sent_instead(N // 2 - 1, -1, 1 << 300))
    with pytest.raises((RemoteProtocolError, DataError), match="outputs from|updates from|diverged"):
        layers_of().fit()


# keys


@pytest.mark.parametrize("bits", [384, 640])
@pytest.mark.parametrize("message", ["key", "key_copy"])
@pytest.mark.parametrize("table", ["splitnn", "splitnn_scoring"])
def test_a_key_of_another_length_than_the_jobs(table, message, bits, monkeypatch):
    other = generate_keypair(bits, insecure_test_mode=True).public
    tamper(monkeypatch, "bank", f"{table}.{message}", lambda _: PaillierKey(*other.to_wire()))
    refused(f"public key from bank: .*{bits} bits")


@pytest.mark.parametrize("message", ["key", "key_copy"])
def test_two_keys(message, monkeypatch):
    """What is under the key that a role was told meets what is under another one's."""
    tamper(monkeypatch, "bank", f"splitnn.{message}", lambda _: PaillierKey(*OTHER.public.to_wire()))
    refused("bank sent ciphertexts under another key|shop-1 sent ciphertexts under another key")


BAD_KEYS = {
    "empty": lambda n, h, e: (b"", b"", e),
    "even": lambda n, h, e: ((int.from_bytes(n) - 1).to_bytes(len(n)), h, e),
    "padded": lambda n, h, e: (b"\0" + n, h, e),
    "no obfuscator": lambda n, h, e: (n, (1).to_bytes(len(h)), e),
    "short exponents": lambda n, h, e: (n, h, 8),
    "huge exponents": lambda n, h, e: (n, h, 1 << 40),
    "huge": lambda n, h, e: (b"\xff" * 100_000, b"\xff" * 200_000, e),
}


@pytest.mark.parametrize("bad", BAD_KEYS)
def test_keys_that_are_none(bad, monkeypatch):
    tamper(
        monkeypatch,
        "bank",
        "splitnn.key",
        lambda sent: PaillierKey(*BAD_KEYS[bad](sent.n, sent.h_s, sent.exponent_bits)),
    )
    refused("public key from bank")


# masked words

WORDS = {
    "one more": lambda body: np.concatenate([body, body[:1]]),
    "one fewer": lambda body: body[:-1],
    "none": lambda body: body[:0],
    "two limbs": lambda body: np.hstack([body, body]),
    "four limbs": lambda body: np.hstack([body] * 4),
    "flat": lambda body: body.ravel(),
    "three dimensions": lambda body: body[:, :, None],
}
MASKED = [
    ("splitnn.share", "shop-2", "shop-2"),
    ("splitnn.rests", "shop-1", "shop-1"),
    ("splitnn.rests", "shop-2", "shop-2"),
    ("splitnn.sums", "coordinator", "coordinator"),
    ("splitnn_scoring.rests", "shop-2", "shop-2"),
    ("splitnn_scoring.sums", "coordinator", "coordinator"),
]


@pytest.mark.parametrize("bad", WORDS)
@pytest.mark.parametrize(("message", "sender", "named"), MASKED, ids=[f"{m} of {s}" for m, s, _ in MASKED])
def test_words_of_another_shape(message, sender, named, bad, monkeypatch):
    tamper(monkeypatch, sender, message, lambda sent: Masked(np.ascontiguousarray(WORDS[bad](sent.body))))
    refused(f"{named} sent masked words of shape")


@pytest.mark.parametrize("bad", WORDS)
def test_words_of_the_only_passive_party(bad, monkeypatch):
    tamper(monkeypatch, "shop-1", "splitnn.rests", lambda sent: Masked(np.ascontiguousarray(WORDS[bad](sent.body))))
    refused("shop-1 sent masked words of shape", layers_of(ONE))


@pytest.mark.parametrize(("message", "sender"), [("share", "shop-1"), ("rests", "shop-2"), ("sums", "coordinator")])
@pytest.mark.parametrize("word", [0, 2**63, 2**64 - 1])
def test_any_words_end_in_a_model_or_in_a_line_on_divergence(message, sender, word, monkeypatch):
    tamper(monkeypatch, sender, f"splitnn.{message}", lambda sent: Masked(np.full_like(sent.body, word)))
    try:
        assert np.isfinite(layers_of().fit()["bank"][1]).all()
    except DataError as error:
        assert "diverged" in str(error)


# how epochs end

FACTS = {
    "nothing": {},
    "without best": {"go": True},
    "without go": {"best": True},
    "numbers": {"best": 1, "go": 1},
    "texts": {"best": "yes", "go": "no"},
    "nothing known": {"best": None, "go": None},
    "other names": {"Best": True, "Go": True},
}


@pytest.mark.parametrize("name", FACTS)
def test_epochs_that_end_without_a_verdict(name, monkeypatch):
    tamper(monkeypatch, "bank", "splitnn.epoch", lambda _: Revealed(FACTS[name], np.zeros(0)))
    refused("bank ended an epoch without saying how it went")


@pytest.mark.parametrize("name", [name for name in FACTS if name != "without best"])
def test_the_coordinator_is_told_whether_training_goes_on(name, monkeypatch):
    tamper(monkeypatch, "bank", "splitnn.proceed", lambda _: Control(FACTS[name]))
    refused("bank ended an epoch without saying")


def test_epochs_beyond_the_jobs(monkeypatch):
    tamper(monkeypatch, "bank", "splitnn.epoch", lambda _: Revealed({"best": True, "go": True}, np.zeros(0)))
    refused("bank goes on beyond the job's 2 epochs", layers_of(epochs=2))


def test_the_coordinator_ends_with_the_jobs_epochs_whatever_it_is_told(monkeypatch):
    tamper(monkeypatch, "bank", "splitnn.proceed", lambda _: Control({"go": True}))
    assert layers_of(epochs=2).fit()[COORDINATOR] == 2


@pytest.mark.parametrize(("told", "payload"), [("epoch", Revealed), ("proceed", Control)])
def test_roles_that_are_told_different_ends_wait_or_refuse_and_break_on_nothing(told, payload, monkeypatch):
    """One of them is told that training ends an epoch early. Over a network the other roles' waits run out."""
    facts = {"best": True, "go": False} if told == "epoch" else {"go": False}
    instead = Revealed(facts, np.zeros(0)) if payload is Revealed else Control(facts)
    tamper(monkeypatch, "bank", f"splitnn.{told}", lambda _: instead)
    with pytest.raises((RemoteProtocolError, LocalProtocolError), match="bank sent|coordinator sent|deadlock: .* from"):
        layers_of(epochs=2).fit()


# frames: cut, prolonged, repeated, left out, in another order


def tamper_frames(monkeypatch, sender, message, change: Callable[[Frame], list[Frame]], *, at=0):
    """Replace one frame on its way by any others."""
    honest, seen = LocalTransport.send, []

    def send(self, frame):
        frames = [frame]
        if (frame.header.sender, frame.header.message) == (sender, message):
            seen.append(message)
            frames = change(frame) if len(seen) == at + 1 else frames
        for one in frames:
            honest(self, one)

    monkeypatch.setattr(LocalTransport, "send", send)


def changed_body(change):
    return lambda frame: [msgspec.structs.replace(frame, body=change(frame.body))]


def recoded(old: bytes, new: bytes):
    return changed_body(lambda body: body.replace(old, new, 1))


FRAMES = {
    "empty": changed_body(lambda body: b""),
    "three bytes": changed_body(lambda body: body[:3]),
    "half": changed_body(lambda body: body[: len(body) // 2]),
    "one byte less": changed_body(lambda body: body[:-1]),
    "one byte more": changed_body(lambda body: body + b"\0"),
    "noise": changed_body(lambda body: bytes(range(256)) * 4),
    "a header of 4 GiB": changed_body(lambda body: b"\xff\xff\xff\xff" + body[4:]),
    "another type of numbers": recoded(b"\xa5uint8", b"\xa5int16"),
    "floats instead of words": recoded(b"\xa6uint64", b"\xa6float6"),
}
MESSAGES = [
    ("splitnn.weights", "bank"),
    ("splitnn.key", "bank"),
    ("splitnn.key_copy", "bank"),
    ("splitnn.share", "shop-1"),
    ("splitnn.products", "shop-1"),
    ("splitnn.rests", "shop-1"),
    ("splitnn.all_products", "coordinator"),
    ("splitnn.sums", "coordinator"),
    ("splitnn.gradients", "bank"),
    ("splitnn.gradients_copy", "coordinator"),
    ("splitnn.updates", "shop-1"),
    ("splitnn.epoch", "bank"),
    ("splitnn.proceed", "bank"),
]
messages = pytest.mark.parametrize(("message", "sender"), MESSAGES, ids=[message for message, _ in MESSAGES])
OPEN = {message for message, sender in MESSAGES if message not in (
    "splitnn.weights", "splitnn.key", "splitnn.share", "splitnn.updates", "splitnn.epoch"
)}  # fmt: skip


def applies(bad, message) -> bool:
    """Types of numbers can be told from the bytes only where these are not sealed, and have such numbers."""
    if bad == "another type of numbers":
        return message in OPEN - {"splitnn.key_copy", "splitnn.rests", "splitnn.sums", "splitnn.proceed"}
    return bad != "floats instead of words" or message in ("splitnn.rests", "splitnn.sums")


CASES = [(bad, *case) for bad in FRAMES for case in MESSAGES if applies(bad, case[0])]


@pytest.mark.parametrize(("bad", "message", "sender"), CASES, ids=[f"{m}, {bad}" for bad, m, _ in CASES])
def test_bytes_that_are_no_message(bad, message, sender, monkeypatch):
    tamper_frames(monkeypatch, sender, message, FRAMES[bad])
    refused(sender)


@messages
def test_a_message_sent_twice(message, sender, monkeypatch):
    """The frame as it stands; with the next number, too, where it is not sealed."""
    tamper_frames(monkeypatch, sender, message, lambda frame: [frame, frame])
    with pytest.raises((RemoteProtocolError, LocalProtocolError), match=f"{sender} sent|from {sender}|deadlock"):
        layers_of(epochs=3).fit()


@pytest.mark.parametrize("message", sorted(OPEN - {"splitnn.proceed", "splitnn.key_copy"}))
def test_a_message_of_another_batch_again(message, monkeypatch):
    """An earlier message's content in a later one's place: refused, or a model of other numbers; nothing breaks."""
    sender, kept = dict(MESSAGES)[message], []

    def swap(payload):
        kept.append(payload)
        return kept[0]

    tamper(monkeypatch, sender, message, swap)
    layers = layers_of(batch_size=12)
    try:
        fits = layers.fit()
    except (RemoteProtocolError, DataError) as error:
        assert "diverged" in str(error) or sender in str(error) or "coordinator" in str(error)
    else:
        assert np.isfinite(fits["bank"][1]).all()


def test_a_sealed_message_again_does_not_open(monkeypatch):
    """The coordinator relays the first batch's updates in the second's place, renumbered."""
    kept = []

    def swap(frame):
        return [msgspec.structs.replace(frame, body=kept[0])]

    honest = LocalTransport.send

    def send(self, frame):
        if (frame.header.sender, frame.header.message) == ("shop-1", "splitnn.updates"):
            kept.append(frame.body)
            (frame,) = swap(frame)
        honest(self, frame)

    monkeypatch.setattr(LocalTransport, "send", send)
    refused("the seal of splitnn.updates from shop-1 does not open")


@pytest.mark.parametrize(
    ("first", "second", "sender"),
    [("products", "rests", "shop-1"), ("all_products", "sums", "coordinator")],
)
def test_two_messages_in_the_wrong_order(first, second, sender, monkeypatch):
    held = []
    honest = LocalTransport.send

    def send(self, frame):
        if (frame.header.sender, frame.header.message) == (sender, f"splitnn.{first}"):
            held.append(frame)
            return
        honest(self, frame)
        if held and (frame.header.sender, frame.header.message) == (sender, f"splitnn.{second}"):
            honest(self, held.pop())

    monkeypatch.setattr(LocalTransport, "send", send)
    refused(f"{sender} sent 'splitnn.{second}'")


@pytest.mark.parametrize(("message", "sender"), [("products", "shop-2"), ("all_products", "coordinator")])
def test_a_message_left_out(message, sender, monkeypatch):
    tamper_frames(monkeypatch, sender, f"splitnn.{message}", lambda frame: [])
    refused(f"{sender} sent")


# memory


def test_a_message_of_many_ciphertexts_costs_the_coordinator_no_memory_before_it_is_refused():
    """Of one byte each they cost their sender nothing."""
    sent = Encrypted(KEY.public.fingerprint, np.zeros((1 << 22, 1), np.uint8))
    link = SimpleNamespace(peer="shop-1", recv=lambda _: sent)
    lead = SimpleNamespace(send=lambda *_: None)
    hub = CoordinatorForward(
        lead, [link, link], SimpleNamespace(products=0, rests=0, all_products=0), KEY.public, units=16
    )
    tracemalloc.start()
    try:
        with pytest.raises(RemoteProtocolError, match="shop-1 sent"):
            hub.add_up(7)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
