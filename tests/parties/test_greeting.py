"""The greeting: differing jobs are named on all roles, a lying coordinator gains nothing."""

import numpy as np
import pytest

from parties.errors import ConfigError, RemoteProtocolError, VflError
from parties.greeting import Wire, greet_as_coordinator, greet_as_party, job_digest
from parties.link import COORDINATOR, Endpoint
from parties.local import LocalNetwork
from parties.sealing import KeyPair
from parties.wire import Active, Control, Coordinator, DataParty, Masked, Message, Passive, Roster

ROLES = {"bank": Active, "shop": Passive, COORDINATOR: Coordinator}
JOB = {"training.l2": "0.001", "task": "binary"}


def greet(*, jobs=None, judge=None, pins=None, then=None):
    """What each role raised, each over its own end; ``judge`` plays the coordinator."""
    network = LocalNetwork(list(ROLES))
    static = {name: KeyPair.fresh() for name in ("bank", "shop")}
    pinned = {name: pair.public for name, pair in static.items()} if pins is None else pins
    raised = {}

    def role(name):
        end = Endpoint(name, ROLES, network.transport(name))
        job = (jobs or {}).get(name, JOB)

        def start():
            try:
                if name == COORDINATOR:
                    (judge or greet_as_coordinator)(end, job)
                else:
                    greet_as_party(end, job, static[name], pinned)
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
