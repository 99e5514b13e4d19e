"""What passes in an alignment of silos: the Wire tables, what they disclose, and nothing that tells whose a row is."""

import re

import numpy as np
import pytest

from parties.codec import encode
from parties.wire import Blinded, Masked, Message, Positions
from psi import align, ecdh, silo_rows, silos, verdict
from tests.psi.silo_lists import ALL_SILOS, MIXED, cells, play

SILOS = [name for name in MIXED if name.startswith("shops.")]
WHOLE = ["bank", "biller"]
HIDDEN = {"verdict.members", "verdict.enough", "align.noted", "align.parted"}
"""Of one-sided alignments and of refused ones."""


def record(columns, **options):
    seen, frames = [], []
    found = play(columns, observe=seen.append, frames=frames, **options)
    return found, [d for d in seen if not d.message.startswith("greeting.")], frames


@pytest.fixture(scope="module")
def recorded():
    return record(MIXED)


def payloads(seen, name, to=None):
    return [d.payload for d in seen if d.message == name and to in (None, d.receiver)]


def test_transcript_is_the_wire_tables(recorded):
    _, seen, _ = recorded
    steps = [(d.message, d.sender, d.receiver) for d in seen if not d.message.startswith(("ecdh.", "verdict."))]
    expected = [("align.terms", name, "coordinator") for name in MIXED]
    expected += [(message, "coordinator", name) for name in MIXED for message in ("align.plan", "silos.repeats")]
    expected += [("silos.numbers", "coordinator", name) for name in SILOS]
    expected += [(message, "bank", name) for name in SILOS for message in ("silo_rows.rows", "silo_rows.key")]
    expected += [("silo_rows.part", name, "bank") for name in SILOS]
    expected += [("align.proof", "biller", "bank")]
    expected += [("align.agreed", "bank", name) for name in MIXED if name != "bank"]
    assert sorted(steps) == sorted(expected)
    tables = [table for module in (align, ecdh, verdict, silos, silo_rows) for table in vars(module.Wire).values()]
    kinds = {message.name: message.payload for message in tables if isinstance(message, Message)}
    assert {d.message: type(d.payload) for d in seen} == {n: kind for n, kind in kinds.items() if n not in HIDDEN}


def test_bitmaps_go_to_parties_with_one_list_only(recorded):
    _, seen, _ = recorded
    assert sorted(d.receiver for d in seen if d.message == "verdict.matches") == sorted(WHOLE)


def test_where_all_have_silos_the_first_active_one_is_the_guide():
    _, seen, _ = record(ALL_SILOS)
    others = [name for name in ALL_SILOS if name != "banks.one"]
    assert [d.receiver for d in seen if d.message == "silos.numbers"] == list(ALL_SILOS)
    assert {(d.sender, d.receiver) for d in seen if d.message == "silo_rows.rows"} == {("banks.one", n) for n in others}
    assert {(d.sender, d.receiver) for d in seen if d.message == "silo_rows.part"} == {(n, "banks.one") for n in others}
    assert not payloads(seen, "align.proof")
    assert not payloads(seen, "verdict.matches")


@pytest.mark.parametrize("module", [silos, silo_rows], ids=["silos", "silo_rows"])
def test_docstring_lists_what_is_disclosed(module):
    leakage = " ".join(module.__doc__.partition("*Leakage*")[2].split())
    listed = dict(re.findall(r"- ``(\w+)``, to [\w ]+: ([^.]+)\.", leakage))
    declared = {key: m.discloses for key, m in vars(module.Wire).items() if isinstance(m, Message) and m.discloses}
    assert listed == declared


def test_only_sealed_bodies_and_no_id_pass_the_coordinator(recorded):
    _, seen, frames = recorded
    relayed = b"|".join(bytes(frame.body) for frame in frames)
    assert b"client-" not in relayed
    for name in ("silo_rows.rows", "silo_rows.key", "silo_rows.part"):
        for payload in payloads(seen, name):
            assert encode(payload) not in relayed
            held = payload.positions if isinstance(payload, Positions) else payload.body
            assert held.tobytes() not in relayed
    assert not any(isinstance(d.payload, Blinded | Masked) for d in seen if d.receiver == "coordinator")


def test_numbers_say_nothing_of_the_rows_that_they_become():
    """The coordinator knows a silo's numbers; whether they tell anything of its rows would show in 2,000 of them."""
    people = np.random.default_rng(0).permutation(4000)
    columns = {"bank": cells(*range(4000)), "shops.a": cells(*people[:2000]), "shops.b": cells(*people[2000:])}
    found, seen, _ = record(columns)
    (told,) = payloads(seen, "silos.numbers", to="shops.a")
    numbers = np.sort(told.positions[2000:].astype(np.int64))
    rows = found["shops.a"].owned
    assert len(rows) == 2000
    first_half = (np.count_nonzero(numbers < 2000), np.count_nonzero(rows < 2000))
    expected = 2000 * (2000 / 4000)
    assert all(abs(count - expected) < 6 * np.sqrt(2000 / 8) for count in first_half)
    both = len(np.intersect1d(numbers, rows))
    assert abs(both - 1000) < 6 * np.sqrt(2000 / 8)


def test_numbers_say_nothing_of_whose_rows_they_are_at_another_party():
    """Where all parties have several silos: numbers by place would put one silo's rows before the other's."""
    columns = {
        "banks.a": cells(*range(1000)),
        "banks.b": cells(*range(1000, 2000)),
        "shops.a": cells(*range(0, 2000, 2)),
        "shops.b": cells(*range(1, 2000, 2)),
    }
    _, seen, _ = record(columns)
    numbers = {name: payloads(seen, "silos.numbers", to=name)[0].positions[1000:] for name in columns}
    assert len(np.intersect1d(numbers["banks.a"], numbers["shops.a"])) == 500
    for name in columns:
        assert abs(np.count_nonzero(numbers[name] < 1000) - 500) < 6 * np.sqrt(1000 / 8)


@pytest.mark.parametrize("columns", [MIXED, ALL_SILOS], ids=["guide with one list", "silos only"])
def test_numbers_keys_orders_and_sums_are_fresh(columns):
    (_, first, _), (_, second, _) = record(columns), record(columns)
    for name in ("silo_rows.key", "silo_rows.rows", "silo_rows.part", "silos.numbers"):
        told = [encode(payload) for seen in (first, second) for payload in payloads(seen, name)]
        assert len(set(told[: len(told) // 2]) & set(told[len(told) // 2 :])) == 0


def test_all_silos_hear_the_same_order(recorded):
    _, seen, _ = recorded
    for name in ("silo_rows.rows", "silo_rows.key"):
        told = [encode(payload) for payload in payloads(seen, name)]
        assert len(told) == 3
        assert len(set(told)) == 1


def test_what_a_silo_hears_does_not_depend_on_who_of_the_others_has_a_row():
    """Sizes of lists apart, which are public: south and west swap their lists."""
    base = {**MIXED, "shops.west": cells(25, 26, *range(90, 98))}
    swapped = {**base, "shops.south": base["shops.west"], "shops.west": base["shops.south"]}
    shapes = []
    for columns in (base, swapped):
        _, seen, _ = record(columns)
        heard = [d for d in seen if d.receiver == "shops.north" and not d.message.startswith("ecdh.")]
        shapes.append([(d.message, d.sender, len(encode(d.payload))) for d in heard])
    assert shapes[0] == shapes[1]


def test_sums_look_random(recorded):
    _, seen, _ = recorded
    parts = [payload.body for payload in payloads(seen, "silo_rows.part")]
    assert [part.shape for part in parts] == [(1, 4)] * 3
    assert len({word for part in parts for word in part.ravel().tolist()}) == 12


def test_a_bare_sum_is_none_of_the_parts(monkeypatch):
    bare, honest = [], silo_rows._sum

    def kept(*arguments):
        bare.append(honest(*arguments))
        return bare[-1]

    monkeypatch.setattr(silo_rows, "_sum", kept)
    _, seen, _ = record(MIXED)
    told = {payload.body.tobytes() for payload in payloads(seen, "silo_rows.part")}
    assert len(bare) == 4
    assert not told & {one.tobytes() for one in bare}
    assert not told & {np.negative(one).tobytes() for one in bare}
