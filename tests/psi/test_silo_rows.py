"""The proof that silos make up all rows: sums over any shares are equal, masks cancel, anything else shows."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parties.wire import Active, Passive
from psi import silo_rows
from psi.elements import elements_of
from psi.silo_rows import _masked, _sides, _sum
from psi.silos import cast_of
from psi.source import ElementArray

PEOPLE = ElementArray(elements_of([b"person %d" % number for number in range(40)]))
KEY = bytes(range(32))


class Ends:
    """As much of an endpoint as masks need: secrets of pairs, the same at both ends."""

    def __init__(self, names):
        self.secrets = {frozenset((a, b)): os.urandom(32) for a in names for b in names if a < b}

    def of(self, name):
        end = self

        class End:
            def __init__(self):
                self.name = name

            def pair_secret(self, peer, purpose):
                secret = end.secrets[frozenset((name, peer))]
                return bytes(a ^ b for a, b in zip(secret, purpose.encode().ljust(32)[:32], strict=True))

        return End()


def roles(*names):
    return dict.fromkeys(names, Passive) | {names[0]: Active}


@given(
    order=st.permutations(range(40)),
    owners=st.lists(st.integers(0, 4), min_size=40, max_size=40),
    chunk=st.sampled_from([1, 7, 1 << 18]),
)
@settings(max_examples=40, deadline=None)
def test_sums_over_any_shares_are_the_sum_over_all(order, owners, chunk):
    rows, owners = np.array(order), np.array(owners)
    everybody = np.arange(40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(silo_rows, "_CHUNK", chunk)
        parts = [_sum(PEOPLE, everybody[owners == s], rows[owners == s], KEY) for s in range(5)]
        assert (np.sum(parts, axis=0, dtype=np.uint64) == _sum(PEOPLE, everybody, rows, KEY)).all()


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_other_rows_have_another_sum(data):
    own = np.array(sorted(data.draw(st.sets(st.integers(0, 39), min_size=2))))
    rows = np.array(data.draw(st.permutations(range(len(own)))))
    honest = _sum(PEOPLE, own, rows, KEY)
    swapped = rows.copy()
    swapped[:2] = rows[1::-1]
    assert (_sum(PEOPLE, own, swapped, KEY) != honest).all()
    assert (_sum(PEOPLE, own[1:], rows[1:], KEY) != honest).all()
    assert (_sum(PEOPLE, np.append(own, own[0]), np.append(rows, rows[0]), KEY) != honest).all()
    assert (_sum(PEOPLE, own, rows, bytes(32)) != honest).all()


def test_the_sum_over_nothing_is_zero():
    none = np.zeros(0, np.int64)
    assert not _sum(PEOPLE, none, none, KEY).any()


CASTS = {
    "guide with one list": roles("bank", "a.x", "a.y", "mill", "b.x", "b.y", "b.z"),
    "silos only": roles("bank.x", "bank.y", "a.x", "a.y", "b.x", "b.y", "b.z"),
}


@pytest.mark.parametrize("case", CASTS)
def test_masks_cancel_in_each_comparison_and_hide_every_part(case):
    cast = cast_of(CASTS[case])
    ends = Ends(list(CASTS[case]))
    totals = {name: np.frombuffer(os.urandom(32), np.uint64) for name in CASTS[case]}
    assert _sides(cast).keys() == {"a", "b"}
    for holder, sides in _sides(cast).items():
        parts = {name: _masked(ends.of(name), sides, totals[name], holder, KEY) for name in sides}
        bare = [totals[name] if sign > 0 else np.negative(totals[name]) for name, sign in sides.items()]
        assert (np.sum(list(parts.values()), axis=0, dtype=np.uint64) == np.sum(bare, axis=0, dtype=np.uint64)).all()
        assert all((part != one).all() for part, one in zip(parts.values(), bare, strict=True))


def test_masks_differ_by_comparison_and_by_key():
    """Two silos of the guide's party meet in every comparison."""
    end, zero, pair = Ends(["bank.x", "bank.y"]).of("bank.y"), np.zeros(4, np.uint64), {"bank.x": -1, "bank.y": -1}
    first, second = (_masked(end, pair, zero, holder, KEY) for holder in ("a", "b"))
    again = _masked(end, pair, zero, "a", bytes(32))
    assert len({first.tobytes(), second.tobytes(), again.tobytes()}) == 3


def test_who_is_compared_with_whom():
    whole, silos = (_sides(cast_of(kinds)) for kinds in CASTS.values())
    assert whole == {"a": {"a.x": 1, "a.y": 1, "bank": -1}, "b": {"b.x": 1, "b.y": 1, "b.z": 1, "bank": -1}}
    assert silos["a"] == {"a.x": 1, "a.y": 1, "bank.x": -1, "bank.y": -1}
