"""Wrong, repeated, swapped and malformed messages of an alignment of silos: found out, and their sender named."""

import numpy as np
import pytest

from parties.errors import RemoteProtocolError
from parties.wire import Blinded, Control, Coordinator, DataParty, Masked, Positions, Revealed
from psi import align, silo_rows, silos
from psi.align import AlignmentSettings, align_party
from psi.elements import random_order
from psi.ids import IdRules, prepare_ids
from tests.psi.silo_lists import ALL_SILOS, COMMON, MIXED, SETTINGS, cells, play

N = len(COMMON)


def lying(monkeypatch, change):
    """The coordinator tells silos other places and numbers: ``change(silo, places, numbers)``."""
    honest = silos.tell_numbers

    def told(end, silo, places, numbers):
        honest(end, silo, *change(silo, places.copy(), numbers.copy()))

    monkeypatch.setattr(silos, "tell_numbers", told)


def only(silo, change):
    return lambda name, places, numbers: change(places, numbers) if name == silo else (places, numbers)


def put(array, at, value):
    array[at] = value
    return array


MALFORMED = {
    "number out of range": lambda p, n: (p, put(n, 0, N)),
    "number twice": lambda p, n: (p, put(n, 0, n[1])),
    "place twice": lambda p, n: (put(p, 0, p[1]), n),
    "place out of range": lambda p, n: (put(p, -1, len(MIXED["shops.north"])), n),
    "descending places": lambda p, n: (p[::-1], n[::-1]),
    "a place more": lambda p, n: (np.append(p, p[-1] + 1), n),
    "a number less": lambda p, n: (p, n[1:]),
    "more than are common": lambda p, n: (np.arange(N + 1), np.arange(N + 1)),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_numbers_name_the_coordinator(case, monkeypatch):
    lying(monkeypatch, only("shops.north", MALFORMED[case]))
    with pytest.raises(RemoteProtocolError, match="coordinator sent numbers of common rows that do not fit"):
        play(MIXED)


SHAPES = {
    "counts too many": ([1, 1, 0], [0, 0]),
    "odd": ([1, 1], [0, 0, 0]),
    "two dimensions": ([1, 1], [[0, 0]]),
    "none counted": ([], []),
}


@pytest.mark.parametrize("case", SHAPES)
def test_numbers_of_another_shape_name_the_coordinator(case, monkeypatch):
    counts, positions = SHAPES[case]
    payload = Positions(np.array(counts, np.int64), np.array(positions, np.uint32))

    def told(end, silo, places, numbers):
        end.link(Coordinator, DataParty, silo).send(silos.Wire.numbers, payload)

    monkeypatch.setattr(silos, "tell_numbers", told)
    with pytest.raises(RemoteProtocolError, match="coordinator sent numbers of common rows that do not fit"):
        play(MIXED)


def test_the_place_of_a_dummy_names_the_coordinator(monkeypatch):
    """West has three ids, so that most of so many places hold dummies."""
    lying(monkeypatch, only("shops.west", lambda p, n: (np.arange(N), np.arange(N))))
    with pytest.raises(RemoteProtocolError, match="coordinator says that dummies of the alignment are common ids"):
        play(MIXED, AlignmentSettings(seed=7, min_intersection=1, pad_to=400))


def swapped(numbers, *at):
    numbers[list(at)] = numbers[list(at[::-1])]
    return numbers


def another(places, length):
    """The same but for the first place, which becomes one that is not common."""
    free = np.setdiff1d(np.arange(length), places)[0]
    places[0] = free
    return places


WRONG = {
    "two of its rows swapped": lambda p, n: (p, swapped(n, 0, 1)),
    "a row kept from it": lambda p, n: (p[1:], n[1:]),
    "all rows kept from it": lambda p, n: (p[:0], n[:0]),
    "a row of another silo": lambda p, n: (p, put(n, 0, next(k for k in range(N) if k not in n))),
    "a row that is not common": lambda p, n: by_place(another(p, len(MIXED["shops.north"])), n),
}


def by_place(places, numbers):
    order = np.argsort(places)
    return places[order], numbers[order]


SILOS_ONLY = {
    "banks.one": cells(*range(13)),
    "banks.two": cells(*range(13, 40)),
    **{name: ids for name, ids in MIXED.items() if name.startswith("shops.")},
}


@pytest.mark.parametrize("columns", [MIXED, SILOS_ONLY], ids=["guide with one list", "silos only"])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_numbers_that_fit_are_found_out(case, columns, monkeypatch):
    guide = next(iter(columns))
    lying(monkeypatch, only("shops.north", WRONG[case]))
    with pytest.raises(RemoteProtocolError, match=f"the rows of 'shops' and of '{guide}' differ after the join"):
        play(columns)


def test_two_silos_given_each_others_numbers(monkeypatch):
    kept = {}

    def change(silo, places, numbers):
        if silo == "shops.north":
            kept["number"] = numbers[0]
            return places, numbers
        if silo == "shops.south":
            return places, put(numbers, 0, kept["number"])
        return places, numbers

    lying(monkeypatch, change)
    with pytest.raises(RemoteProtocolError, match="the rows of 'shops' and of 'bank' differ"):
        play(MIXED)


def test_every_party_hears_of_it(monkeypatch):
    lying(monkeypatch, only("shops.north", WRONG["a row kept from it"]))
    errors = {}

    def run(end):
        prepared = prepare_ids([MIXED[end.name]], IdRules(), party=end.name)
        try:
            align_party(end, prepared, SETTINGS)
        except RemoteProtocolError as error:
            errors[end.name] = str(error)

    play(MIXED, replace=dict.fromkeys(MIXED, run))
    assert errors.keys() == MIXED.keys()
    assert len(set(errors.values())) == 1


def test_where_more_than_one_differs_the_silos_are_named(monkeypatch):
    lying(monkeypatch, only("shops.north", WRONG["a row kept from it"]))
    monkeypatch.setattr(align, "_proves", lambda got, expected: False)
    with pytest.raises(RemoteProtocolError, match="the rows of 'shops' and of 'bank' differ"):
        play(MIXED)


def test_the_active_partys_own_silos_are_compared_too(monkeypatch):
    lying(monkeypatch, only("banks.two", lambda p, n: (p, swapped(n, 0, 1))))
    with pytest.raises(RemoteProtocolError, match="the rows of 'shops' and of 'banks.one' differ"):
        play(ALL_SILOS)


ORDERS = {
    "too short": lambda k: k[1:],
    "too long": lambda k: np.append(k, k[:1]),
    "repeated": lambda k: put(k, 0, k[1]),
    "out of range": lambda k: put(k, int(np.argmax(k)), len(k)),
    "two dimensions": lambda k: k[None],
}


@pytest.mark.parametrize("case", ORDERS)
def test_a_malformed_order_names_the_guide(case, monkeypatch):
    monkeypatch.setattr(silo_rows, "Positions", lambda counts, held: Positions(counts, ORDERS[case](held)))
    with pytest.raises(RemoteProtocolError, match="bank sent no proper order of the common rows"):
        play(MIXED)


def test_another_order_for_one_silo_is_found_out(monkeypatch):
    honest = silo_rows.hear_rows

    def heard(end, cast, numbers, common):
        rows = honest(end, cast, numbers, common)
        return np.sort(random_order(common)[numbers]) if end.name == "shops.south" else rows

    monkeypatch.setattr(silo_rows, "hear_rows", heard)
    with pytest.raises(RemoteProtocolError, match="the rows of 'shops' and of 'bank' differ"):
        play(MIXED)


@pytest.mark.parametrize("shape", [(1, 31), (2, 32), (0, 32)], ids=str)
def test_a_malformed_key_names_the_guide(shape, monkeypatch):
    monkeypatch.setattr(silo_rows, "Blinded", lambda body: Blinded(np.zeros(shape, np.uint8)))
    with pytest.raises(RemoteProtocolError, match="bank sent no proper key"):
        play(MIXED)


@pytest.mark.parametrize("shape", [(1, 3), (2, 4), (0, 4)], ids=str)
def test_malformed_sums_name_their_sender(shape, monkeypatch):
    monkeypatch.setattr(silo_rows, "Masked", lambda body: Masked(np.zeros(shape, np.uint64)))
    with pytest.raises(RemoteProtocolError, match=r"shops.north sent no proper sums"):
        play(MIXED)


def test_a_silo_that_lies_about_its_sum_is_found_out(monkeypatch):
    monkeypatch.setattr(silo_rows, "Masked", lambda body: Masked(body + np.uint64(1)))
    with pytest.raises(RemoteProtocolError, match="the rows of 'shops' and of 'bank' differ"):
        play(MIXED)


REPEATS = {
    "unknown party": ({"party": "mills"}, [3]),
    "party with one list": ({"party": "bank"}, [3]),
    "no number": ({"party": "shops"}, []),
    "zero": ({"party": "shops"}, [0]),
    "a fraction": ({"party": "shops"}, [1.5]),
    "nan": ({"party": "shops"}, [float("nan")]),
    "more than fit": ({"party": "shops"}, [22]),
    "two numbers": ({"party": "shops"}, [1, 2]),
    "a number without a party": ({}, [1]),
    "more facts": ({"party": "shops", "mood": 1}, [1]),
    "no text": ({"party": 3}, [1]),
}


@pytest.mark.parametrize("case", REPEATS)
def test_malformed_repeats_name_the_coordinator(case, monkeypatch):
    facts, values = REPEATS[case]

    def told(end, repeated):
        for name in end.peers(DataParty):
            payload = Revealed(facts, np.array(values, np.float64))
            end.link(Coordinator, DataParty, name).send(silos.Wire.repeats, payload)

    monkeypatch.setattr(silos, "tell_repeats", told)
    with pytest.raises(RemoteProtocolError, match="coordinator sent no proper count of ids"):
        play(MIXED)


def test_messages_in_another_order_name_their_sender(monkeypatch):
    """The guide tells the key before the rows."""
    honest = silo_rows.tell_rows

    def told(end, cast, numbers, ranks, common):
        for name in cast.silos:
            end.link(DataParty, DataParty, name).send(silo_rows.Wire.key, Blinded(np.zeros((1, 32), np.uint8)))
        return honest(end, cast, numbers, ranks, common)

    monkeypatch.setattr(silo_rows, "tell_rows", told)
    with pytest.raises(RemoteProtocolError, match=r"bank.*silo_rows\.key.*silo_rows\.rows"):
        play(MIXED)


@pytest.mark.parametrize("facts", [{"differs": "nobody"}, {"differs": 3}, {}], ids=["unknown", "number", "nothing"])
def test_a_malformed_verdict_names_the_guide(facts, monkeypatch):
    monkeypatch.setattr(align, "Control", lambda told: Control(facts if "differs" in told else told))
    with pytest.raises(RemoteProtocolError, match="bank sent no proper verdict on the order of rows"):
        play(MIXED)
