"""The greeting: differing jobs are named on all roles, a lying coordinator gains nothing."""

import numpy as np
import pytest

from parties.errors import ConfigError, RemoteProtocolError, VflError
from parties.greeting import Agreed, Standing, Wire, greet_as_coordinator, greet_as_party, job_digest
from parties.link import COORDINATOR, Endpoint
from parties.local import LocalNetwork
from parties.sealing import KeyPair
from parties.wire import Active, Control, Coordinator, DataParty, Masked, Message, Passive, Roster

ROLES = {"bank": Active, "shop": Passive, COORDINATOR: Coordinator}
JOB = {"training.l2": "0.001", "task": "binary"}


def greet(*, jobs=None, judge=None, pins=None, then=None, standings=None, agreed=None):
    """What each role raised, each over its own end; ``judge`` plays the coordinator.

    ``standings`` says how far a role is, ``agreed`` takes what each of them agreed on.
    """
    network = LocalNetwork(list(ROLES))
    static = {name: KeyPair.fresh() for name in ("bank", "shop")}
    pinned = {name: pair.public for name, pair in static.items()} if pins is None else pins
    raised = {}

    def role(name):
        end = Endpoint(name, ROLES, network.transport(name))
        job = (jobs or {}).get(name, JOB)
        standing = (standings or {}).get(name, Standing())

        def start():
            try:
                if name == COORDINATOR:
                    found = judge(end, job) if judge else greet_as_coordinator(end, job, standing)
                else:
                    found = greet_as_party(end, job, static[name], pinned, standing)
                if agreed is not None:
                    agreed[name] = found
                if name != COORDINATOR:
                    if then is not None:
                        then(end)
            except VflError as error:
                raised[name] = error
            return end

        return start

    return network.run({name: role(name) for name in ROLES}), raised


def test_channels_are_open_on_both_sides():
    ends, raised = greet()
    assert not raised
    assert ends["bank"].pair_secret("shop", "x") == ends["shop"].pair_secret("bank", "x")
    assert ends[COORDINATOR].channels == {}
    again, _ = greet()
    assert ends["bank"].pair_secret("shop", "x") != again["bank"].pair_secret("shop", "x")


@pytest.mark.parametrize(
    ("jobs", "line"),
    [
        ({"shop": JOB | {"training.l2": "0.002"}}, r"training\.l2 \(at shop\)"),
        ({"bank": JOB | {"extra": "1"}}, r"extra \(at bank\)"),
        ({"bank": {"task": "binary"}}, r"training\.l2 \(at bank\)"),
        ({COORDINATOR: JOB | {"task": "count"}}, r"task \(at bank\)"),
        ({"shop": {}}, r"task \(at shop\)"),
    ],
)
def test_a_line_that_differs_is_named_on_all_roles(jobs, line):
    _, raised = greet(jobs=jobs)
    assert set(raised) == set(ROLES)
    assert {type(error) for error in raised.values()} == {ConfigError}
    for error in raised.values():
        with pytest.raises(ConfigError, match=line):
            raise error
    assert "0.002" not in str(raised.values())


def scripted(roster):
    """A coordinator that hands round what ``roster`` makes of the true keys."""

    def judge(end, job):
        links = [end.link(Coordinator, DataParty, name) for name in end.peers(DataParty)]
        keys = {link.peer: link.recv(Wire.hello).ephemeral for link in links}
        for link in links:
            link.send(Wire.verdict, Control({"differs": None}))
            link.send(Wire.roster, Roster(roster(keys)))

    return judge


def test_a_roster_without_a_party():
    _, raised = greet(judge=scripted(lambda keys: {"bank": keys["bank"]}))
    assert set(raised) == {"bank"}
    with pytest.raises(RemoteProtocolError, match="roster lacks shop"):
        raise raised["bank"]


def test_a_key_that_is_no_point_is_laid_at_its_party():
    _, raised = greet(judge=scripted(lambda keys: keys | {"shop": bytes(32)}))
    with pytest.raises(RemoteProtocolError, match="^shop: .*not a valid X25519 point"):
        raise raised["bank"]


class Talk:
    share = Message(DataParty, DataParty, Masked)


def test_a_swapped_key_makes_the_first_seal_fail():
    def then(end):
        peer = end.link(DataParty, DataParty, end.peers(DataParty)[0])
        peer.send(Talk.share, Masked(np.zeros((1, 1), np.uint64)))
        peer.recv(Talk.share)

    relay = KeyPair.fresh().public
    _, raised = greet(judge=scripted(lambda keys: keys | {"shop": relay}), then=then)
    assert set(raised) == {"bank", "shop"}
    for name, error in raised.items():
        with pytest.raises(RemoteProtocolError, match="does not open"):
            raise error
        assert {"bank": "shop", "shop": "bank"}[name] in str(error)


def test_a_party_without_a_pinned_key_is_named_before_anything_is_told():
    _, raised = greet(pins={}, judge=lambda end, job: None)
    for name, error in raised.items():
        with pytest.raises(ConfigError, match=f"^{name} has no pinned key of"):
            raise error
    assert set(raised) == {"bank", "shop"}


def test_the_digest_depends_on_lines_and_not_on_their_order():
    assert job_digest(JOB) == job_digest(dict(reversed(JOB.items())))
    others = [{}, {"task": "binary"}, JOB | {"task": "count"}, {"training.l2": "binary", "task": "0.001"}]
    assert len({job_digest(job) for job in [JOB, *others]}) == 5


# Which run goes on, and from where


def agree(**standings):
    """What all agree on, which must be one thing."""
    agreed = {}
    _, raised = greet(standings=standings, agreed=agreed)
    assert not raised and len(set(agreed.values())) == 1
    return agreed["bank"]


def test_without_anything_kept_a_new_run_begins():
    first, second = agree(), agree()
    assert first.step == second.step == 0
    assert len(first.run) == 32 and first.run != second.run


@pytest.mark.parametrize(
    ("bank", "shop", "coordinator", "step"),
    [
        ((1, 2, 3), (1, 2, 3), (1, 2, 3), 3),
        ((1, 2, 3), (2, 3, 4), (3, 4), 3),
        ((2, 3), (1, 2), (1, 2, 3), 2),
        ((5, 1), (1, 5), (5,), 5),
        ((1,), (2,), (1, 2), 0),
        ((1, 2), (), (1, 2), 0),
        ((), (), (), 0),
    ],
)
def test_all_go_on_from_the_highest_step_that_all_keep(bank, shop, coordinator, step):
    standings = {"bank": bank, "shop": shop, COORDINATOR: coordinator}
    agreed = agree(**{name: Standing(2, "a run", steps) for name, steps in standings.items()})
    assert agreed == Agreed("a run", step)


@pytest.mark.parametrize("odd", list(ROLES))
@pytest.mark.parametrize("run", ["another run", ""])
def test_another_run_at_one_role_begins_a_new_run(odd, run):
    standings = {name: Standing(2, "a run", (1, 2, 3)) for name in ROLES}
    agreed = agree(**standings | {odd: Standing(2, run, (1, 2, 3) if run else ())})
    assert agreed.step == 0
    assert agreed.run not in ("a run", "another run", "")


def claiming(agreed, *, other=None, keys=lambda keys: keys):
    """A coordinator that says what to go on from, and something else to the shop."""

    def judge(end, job):
        links = [end.link(Coordinator, DataParty, name) for name in end.peers(DataParty)]
        shown = {link.peer: link.recv(Wire.hello).ephemeral for link in links}
        for link in links:
            run, step = other if other is not None and link.peer == "shop" else agreed
            link.send(Wire.verdict, Control({"differs": None}))
            link.send(Wire.roster, Roster(keys(shown), run, step))

    return judge


@pytest.mark.parametrize("claimed", [("a run", 4), ("another run", 2), ("", 1), ("a run", 10**9)])
def test_a_coordinator_that_goes_on_from_what_a_party_does_not_keep_is_refused(claimed):
    standings = dict.fromkeys(("bank", "shop"), Standing(2, "a run", (1, 2, 3)))
    _, raised = greet(judge=claiming(claimed), standings=standings)
    assert set(raised) == {"bank", "shop"}
    for error in raised.values():
        with pytest.raises(RemoteProtocolError, match="a checkpoint that this party does not keep"):
            raise error


def talk(end):
    peer = end.link(DataParty, DataParty, end.peers(DataParty)[0])
    peer.send(Talk.share, Masked(np.zeros((1, 1), np.uint64)))
    peer.recv(Talk.share)


@pytest.mark.parametrize("other", [("a run", 2), ("a run", 0), ("another run", 0)], ids=["step", "beginning", "run"])
def test_parties_that_are_told_other_steps_or_runs_cannot_open_each_others_seals(other):
    standings = dict.fromkeys(("bank", "shop"), Standing(2, "a run", (1, 2, 3)))
    _, raised = greet(judge=claiming(("a run", 3), other=other), standings=standings, then=talk)
    assert set(raised) == {"bank", "shop"}
    for error in raised.values():
        with pytest.raises(RemoteProtocolError, match="does not open"):
            raise error


def test_parties_of_other_generations_cannot_open_each_others_seals():
    """One that is fed an older generation's greeting."""
    standings = {"bank": Standing(2), "shop": Standing(3)}
    _, raised = greet(judge=claiming(("a run", 0)), standings=standings, then=talk)
    assert set(raised) == {"bank", "shop"}
    for error in raised.values():
        with pytest.raises(RemoteProtocolError, match="does not open"):
            raise error


def test_told_the_same_they_open_each_others_seals():
    """So that the refusals above are due to what differs."""
    standings = dict.fromkeys(("bank", "shop"), Standing(2, "a run", (1, 2, 3)))
    _, raised = greet(judge=claiming(("a run", 3)), standings=standings, then=talk)
    assert not raised


def test_a_roster_that_swaps_two_partys_keys_makes_the_first_seal_fail():
    swapped = claiming(("a run", 0), keys=lambda keys: {"bank": keys["shop"], "shop": keys["bank"]})
    _, raised = greet(judge=swapped, then=talk)
    assert set(raised) == {"bank", "shop"}


def test_a_roster_of_an_earlier_greeting_makes_the_first_seal_fail():
    """Fresh keys of a run before: their private halves are gone."""
    earlier = {name: KeyPair.fresh().public for name in ("bank", "shop")}
    _, raised = greet(judge=claiming(("a run", 0), keys=lambda keys: earlier), then=talk)
    assert set(raised) == {"bank", "shop"}
    for error in raised.values():
        with pytest.raises(RemoteProtocolError, match="does not open"):
            raise error
