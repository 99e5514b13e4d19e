"""The verdict: what is told, to whom, below the limit nothing, and contradictions named."""

import re

import numpy as np
import pytest

from parties.errors import DataError, RemoteProtocolError
from parties.local import run_local
from parties.wire import Active, Bitmaps, Control, Coordinator, DataParty, Message, Passive, Positions, Revealed
from psi import verdict
from psi.verdict import Limit, Wire

ROLES = {"coordinator": Coordinator, "bank": Active, "shop": Passive}
SIZES = {"bank": 30, "shop": 20}
TWO = Limit(2)


def judged(tell, hear, party="bank", **recorders):
    """The coordinator runs ``tell``, a party ``hear``; what the party returns."""
    plays = {"coordinator": tell, "bank": lambda end: None, "shop": lambda end: None} | {party: hear}
    return run_local(plays, roles=ROLES, **recorders)[party]


def say(facts, values=()):
    """A coordinator that gives the bank this verdict."""
    payload = Revealed(facts, np.array(values, np.float64))
    return lambda end: end.link(Coordinator, DataParty, "bank").send(Wire.verdict, payload)


def hear_count(limit=TWO, silent=False):
    return lambda end: verdict.hear_count(end, SIZES, limit, silent=silent)


def test_docstring_lists_what_is_disclosed():
    leakage = " ".join(verdict.__doc__.partition("*Leakage*")[2].partition("Below")[0].split())
    listed = dict(re.findall(r"- ``(\w+)``, to [\w -]+: ([^.]+)\.", leakage))
    declared = {key: m.discloses for key, m in vars(Wire).items() if isinstance(m, Message) and m.discloses}
    assert listed == declared


def test_enough():
    told = judged(lambda end: verdict.tell_count(end, 7, Limit(7), to=["bank"]), hear_count(Limit(7)))
    assert told == 7


def test_the_silent_hear_no_number():
    seen = []

    def tell(end):
        verdict.tell_count(end, 7, Limit(7), to=["shop"], silent=["shop"])

    assert judged(tell, hear_count(Limit(7), silent=True), "shop", observe=seen.append) == 0
    assert [(d.message, d.payload.facts) for d in seen if d.message.startswith("verdict.")] == [
        ("verdict.enough", {"enough": True})
    ]


@pytest.mark.parametrize("silent", [False, True])
def test_below_the_limit_neither_role_goes_on_and_the_number_stays(silent):
    raised, seen = [], []

    def caught(action):
        def run(end):
            with pytest.raises(DataError) as error:
                action(end)
            raised.append(str(error.value))

        return run

    for count in (0, 1, 9):
        quiet = ["shop"] if silent else []
        judged(
            caught(lambda end, n=count, q=quiet: verdict.tell_count(end, n, Limit(10), to=["shop"], silent=q)),
            caught(hear_count(Limit(10), silent)),
            "shop",
            observe=seen.append,
        )
    assert len(raised) == 6
    assert len(set(raised)) == 1
    assert "expected at least min_intersection = 10" in raised[0]
    told = [d.payload for d in seen if d.message in ("verdict.verdict", "verdict.enough")]
    assert [payload.facts for payload in told] == [{"enough": False}] * 3
    assert not any(len(payload.values) for payload in told if isinstance(payload, Revealed))


@pytest.mark.parametrize(("count", "text"), [(0, "no common ids .got 0"), (9, "got 9, expected at least")])
def test_on_one_machine_a_small_number_is_told(count, text):
    limit = Limit(10, tell_small_count=True)

    def tell(end):
        with pytest.raises(DataError, match=text):
            verdict.tell_count(end, count, limit, to=["bank"])

    with pytest.raises(DataError, match=text):
        judged(tell, hear_count(limit))


VERDICTS = {
    "below the limit": ({"enough": True, "common": 1}, ()),
    "more than the shortest list": ({"enough": True, "common": 21}, ()),
    "no verdict": ({}, ()),
    "no number": ({"enough": True}, ()),
    "a fraction": ({"enough": True, "common": 3.0}, ()),
    "a truth": ({"enough": True, "common": True}, ()),
    "with values": ({"enough": True, "common": 3}, (0, 1, 2)),
    "refused with values": ({"enough": False}, (0, 1, 2)),
    "refused above the limit": ({"enough": False, "common": 9}, ()),
    "refused below zero": ({"enough": False, "common": -1}, ()),
    "text": ({"enough": "yes", "common": 3}, ()),
    "one": ({"enough": 1, "common": 3}, ()),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_contradictory_verdicts_name_the_coordinator(case):
    with pytest.raises(RemoteProtocolError, match="coordinator sent a verdict"):
        judged(say(*VERDICTS[case]), hear_count())


@pytest.mark.parametrize(
    "facts",
    [{"enough": True, "common": 3}, {"enough": False, "common": 1}, {}],
    ids=["a number", "a small number", "none"],
)
def test_the_silent_take_no_number(facts):
    with pytest.raises(RemoteProtocolError, match="coordinator sent a verdict"):
        judged(
            lambda end: end.link(Coordinator, Passive, "shop").send(Wire.enough, Control(facts)),
            hear_count(silent=True),
            "shop",
        )


def test_matches_arrive_per_bucket():
    places = [np.array([0, 9]), np.array([], np.int64), np.array([3, 4, 9])]
    told = judged(
        lambda end: verdict.tell_matches(end, "bank", [10, 10, 10], places),
        lambda end: verdict.hear_matches(end, [10, 10, 10], 5),
    )
    assert [found.tolist() for found in told] == [[0, 9], [], [3, 4, 9]]


def flags(*places, length=30):
    bits = np.zeros(length, bool)
    bits[list(places)] = True
    return np.packbits(bits)


MATCHES = {
    "fewer than told": ([30], flags(1, 2)),
    "more than told": ([30], flags(1, 2, 3, 4)),
    "beyond the list": ([30], flags(1, 2, 31, length=32)),
    "other length": ([29], flags(1, 2, 3)),
    "cut into buckets": ([15, 15], flags(1, 2, 3)),
    "no list": ([], flags(1, 2, 3)),
    "bits too short": ([30], flags(1, 2, 3)[:3]),
    "bits too long": ([30], flags(1, 2, 3, length=40)),
    "two dimensions": ([30], flags(1, 2, 3).reshape(2, 2)),
}


@pytest.mark.parametrize("case", MATCHES)
def test_contradictory_matches_name_the_coordinator(case):
    counts, bits = MATCHES[case]

    def tell(end):
        payload = Bitmaps(np.array(counts, np.int64), bits)
        end.link(Coordinator, DataParty, "bank").send(Wire.matches, payload)

    with pytest.raises(RemoteProtocolError, match="coordinator sent a verdict"):
        judged(tell, lambda end: verdict.hear_matches(end, [30], 3))


def test_members_arrive_in_pairs():
    own, other = np.array([29, 0, 5]), np.array([1, 19, 0])
    told = judged(
        lambda end: verdict.tell_members(end, "bank", own, other),
        lambda end: verdict.hear_members(end, SIZES, 3),
    )
    assert [places.tolist() for places in told] == [[29, 0, 5], [1, 19, 0]]


MEMBERS = {
    "too few": ([2, 2], [1, 2, 3, 4]),
    "uneven": ([4, 2], [1, 2, 3, 4, 5, 6]),
    "too many places": ([3, 3], [1, 2, 3, 4, 5, 6, 7]),
    "one list": ([3], [1, 2, 3]),
    "beyond its own list": ([3, 3], [1, 2, 30, 4, 5, 6]),
    "beyond the other's": ([3, 3], [1, 2, 3, 4, 5, 20]),
    "its own repeated": ([3, 3], [1, 2, 2, 4, 5, 6]),
    "the other's repeated": ([3, 3], [1, 2, 3, 4, 5, 4]),
}


@pytest.mark.parametrize("case", MEMBERS)
def test_contradictory_members_name_the_coordinator(case):
    counts, positions = MEMBERS[case]

    def tell(end):
        payload = Positions(np.array(counts, np.int64), np.array(positions, np.uint32))
        end.link(Coordinator, Active, "bank").send(Wire.members, payload)

    with pytest.raises(RemoteProtocolError, match="coordinator sent a verdict"):
        judged(tell, lambda end: verdict.hear_members(end, SIZES, 3))
