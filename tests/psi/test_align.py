"""Alignment of whole roles: terms, sizes, order, agreement."""

import hashlib
import re

import numpy as np
import pytest

from parties.errors import ConfigError, DataError, RemoteProtocolError
from parties.local import run_local
from parties.wire import Active, Control, Coordinator, DataParty, Message, Passive, Revealed
from psi import align, ecdh, verdict
from psi.align import AlignmentSettings, Wire, align_coordinator, align_party, row_order
from psi.exchange import exchange_as_party
from psi.ids import IdRules, prepare_ids
from psi.source import ListedIds

SETTINGS = AlignmentSettings(seed=7, min_intersection=5)


def cells(start, stop, step=1):
    return [f"client-{i}" for i in range(start, stop, step)]


COLUMNS = {"bank": cells(0, 40), "shop": cells(59, 9, -1), "biller": cells(20, 45)}


def play(columns=COLUMNS, settings=SETTINGS, rules=None, replace=None, active="bank", judge=None, **recorders):
    """Align; ``settings`` and ``rules`` may be given per party, ``replace`` swaps roles for scripted ones."""
    per_party = settings if isinstance(settings, dict) else dict.fromkeys(columns, settings)

    def party(name):
        prepared = prepare_ids([columns[name]], (rules or {}).get(name, IdRules()), party=name)
        return lambda end: align_party(end, prepared, per_party[name])

    plays = {name: party(name) for name in columns}
    plays["coordinator"] = lambda end: align_coordinator(end, judge or per_party["bank"])
    roles = dict.fromkeys(columns, Passive) | {active: Active, "coordinator": Coordinator}
    return run_local(plays | (replace or {}), roles=roles, **recorders)


def every_error(**arguments):
    """What each role raises, every role run to its own end."""
    errors = {}

    def kept(name, action):
        def run(end):
            try:
                return action(end)
            except (ConfigError, DataError, RemoteProtocolError) as error:
                errors[name] = (type(error), str(error))

        return run

    settings = arguments.pop("settings", SETTINGS)
    per_party = settings if isinstance(settings, dict) else dict.fromkeys(COLUMNS, settings)
    rules = arguments.get("rules", {})
    columns = arguments.get("columns", COLUMNS)
    prepared = {name: prepare_ids([cells], rules.get(name, IdRules()), party=name) for name, cells in columns.items()}
    replace = {
        name: kept(name, lambda end, name=name: align_party(end, prepared[name], per_party[name])) for name in columns
    }
    replace["coordinator"] = kept("coordinator", lambda end: align_coordinator(end, per_party["bank"]))
    play(settings=settings, replace=replace, **arguments)
    return errors


@pytest.fixture(scope="module")
def recorded():
    seen, frames = [], []
    found = play(observe=seen.append, frames=frames)
    return found, [d for d in seen if not d.message.startswith("greeting.")], frames


def test_all_end_with_the_same_rows_in_the_same_order(recorded):
    found, _, _ = recorded
    names = {party: [COLUMNS[party][row] for row in found[party].rows] for party in COLUMNS}
    assert names["bank"] == names["shop"] == names["biller"]
    assert sorted(names["bank"]) == sorted(cells(20, 40))
    assert names["bank"] != cells(20, 40)


def test_sizes_and_digest(recorded):
    found, _, _ = recorded
    assert {result.intersection for result in found.values()} == {20}
    assert {result.protocol for result in found.values()} == {"ecdh"}
    for result in found.values():
        assert result.sizes == {"bank": 40, "shop": 50, "biller": 25}
    assert len({found[name].digest for name in COLUMNS}) == 1


def test_order_follows_the_seed_and_the_digest_does_not(recorded):
    found, _, _ = recorded
    again, other = play(), play(settings=AlignmentSettings(seed=8, min_intersection=5))
    assert (again["bank"].rows == found["bank"].rows).all()
    assert (other["bank"].rows != found["bank"].rows).any()
    assert again["bank"].digest == found["bank"].digest == other["bank"].digest
    fewer = play(columns=COLUMNS | {"biller": cells(21, 45)})
    assert fewer["bank"].digest != found["bank"].digest


def test_order_is_sha256_of_seed_and_id():
    names = [b"a", b"b", b"c", b"d"]
    assert row_order(names, 7).tolist() == [2, 3, 0, 1]
    assert row_order(names[::-1], 7).tolist() == [1, 0, 3, 2]
    assert sorted(range(4), key=lambda i: hashlib.sha256(b"rows|7|" + names[i]).digest()) == [2, 3, 0, 1]


def test_transcript_is_the_wire_tables(recorded):
    _, seen, _ = recorded
    steps = [(d.message, d.sender, d.receiver) for d in seen if d.message.startswith("align.")]
    expected = [("align.terms", name, "coordinator") for name in COLUMNS]
    expected += [("align.plan", "coordinator", name) for name in COLUMNS]
    expected += [("align.proof", name, "bank") for name in ("shop", "biller")]
    expected += [("align.agreed", "bank", name) for name in ("shop", "biller")]
    assert sorted(steps) == sorted(expected)
    tables = [*vars(Wire).values(), *vars(ecdh.Wire).values(), *vars(verdict.Wire).values()]
    kinds = {message.name: message.payload for message in tables if isinstance(message, Message)}
    del kinds["verdict.members"], kinds["verdict.enough"]  # of one-sided alignments
    refused = []
    every_error(columns=COLUMNS | {"biller": cells(100, 130)}, observe=refused.append)
    partings = {d.message for d in refused} - {d.message for d in seen}
    assert partings - {"greeting.hello", "greeting.roster", "greeting.verdict"} == {"align.noted", "align.parted"}
    seen = [*seen, *(d for d in refused if d.message in ("align.noted", "align.parted"))]
    assert {d.message: type(d.payload) for d in seen} == kinds


def test_docstring_lists_what_is_disclosed():
    leakage = " ".join(align.__doc__.partition("*Leakage*")[2].split())
    listed = dict(re.findall(r"- ``(\w+)``, to [\w ]+: ([^.]+)\.", leakage))
    declared = {key: m.discloses for key, m in vars(Wire).items() if isinstance(m, Message) and m.discloses}
    assert listed == declared


def test_no_id_and_no_digest_of_the_rows_passes_the_coordinator(recorded):
    found, seen, frames = recorded
    relayed = b"|".join(bytes(frame.body) for frame in frames)
    assert b"client-" not in relayed
    for hidden in (found["bank"].digest.encode(), bytes.fromhex(found["bank"].digest)):
        assert hidden not in relayed
    assert not any(d.receiver == "coordinator" for d in seen if isinstance(d.payload, Control))


def test_the_active_party_may_stand_anywhere():
    found = play(active="biller")
    assert found["shop"].intersection == 20


@pytest.mark.parametrize(
    ("odd", "text"),
    [
        (IdRules(casefold=True), "casefold: got True, expected False"),
        (IdRules(digits_only=True), "digits_only: got True, expected False"),
    ],
)
def test_different_rules_are_named_to_all(odd, text):
    errors = every_error(rules={"biller": odd})
    assert set(errors) == {*COLUMNS, "coordinator"}
    (verdict,) = set(errors.values())
    assert verdict[0] is ConfigError
    assert f"party 'biller', {text}" in verdict[1]


@pytest.mark.parametrize(
    ("odd", "text"),
    [
        (AlignmentSettings(seed=8, min_intersection=5), "seed: got 8, expected 7"),
        (AlignmentSettings(seed=7, min_intersection=1), "min_intersection: got 1, expected 5"),
        (AlignmentSettings(seed=7, min_intersection=5, tell_small_count=True), "tell_small_count: got True"),
        (AlignmentSettings(seed=7, min_intersection=5, protocol="ecdh"), "protocol: got ecdh, expected auto"),
        (AlignmentSettings(seed=7, min_intersection=5, pad_to=90), "pad_to: got 90, expected None"),
        (AlignmentSettings(seed=7, min_intersection=5, one_sided=True), "one_sided: got True, expected False"),
        (AlignmentSettings(seed=7, min_intersection=5, cardinality=True), "cardinality: got True, expected False"),
        (AlignmentSettings(seed=7, min_intersection=5, bucket_ids=9), "bucket_ids: got 9, expected 2000000"),
    ],
)
def test_different_settings_are_named_to_all(odd, text):
    errors = every_error(settings=dict.fromkeys(COLUMNS, SETTINGS) | {"shop": odd})
    (verdict,) = set(errors.values())
    assert verdict[0] is ConfigError
    assert f"party 'shop', {text}" in verdict[1]


def test_a_list_shorter_than_the_limit_is_refused_before_any_point():
    seen = []
    errors = every_error(columns=COLUMNS | {"biller": cells(20, 24)}, observe=seen.append)
    (verdict,) = set(errors.values())
    assert len(errors) == 4
    assert verdict == (
        DataError,
        "alignment: fewer than min_intersection ids: party 'biller' got 4 valid ids, "
        "expected at least min_intersection = 5",
    )
    assert not any(d.message.startswith("ecdh.") for d in seen)


def test_no_common_ids_ends_all_roles():
    errors = every_error(columns=COLUMNS | {"biller": cells(100, 130)})
    assert set(errors) == {*COLUMNS, "coordinator"}
    (verdict,) = set(errors.values())
    assert "no common ids" in verdict[1]


def test_a_coordinator_that_swaps_rows_is_found_out(monkeypatch):
    honest = ecdh.join

    def shifted(lists):
        positions = honest(lists)
        others = np.setdiff1d(np.arange(len(lists["biller"])), positions["biller"])
        return positions | {"biller": np.sort(np.append(positions["biller"][1:], others[0]))}

    monkeypatch.setattr(ecdh, "join", shifted)
    errors = every_error()
    assert set(errors) == set(COLUMNS)
    (verdict,) = set(errors.values())
    assert verdict[0] is RemoteProtocolError
    assert "'biller'" in verdict[1]


def test_no_proof_serves_for_another_party_or_run(recorded):
    _, seen, _ = recorded
    again = []
    play(observe=again.append)
    proofs = [d.payload.facts["proof"] for d in [*seen, *again] if d.message == "align.proof"]
    assert len(proofs) == len(set(proofs)) == 4


def test_on_one_machine_a_short_list_is_no_obstacle_to_the_count():
    told = AlignmentSettings(min_intersection=5, tell_small_count=True)
    with pytest.raises(DataError, match="got 3, expected at least min_intersection = 5"):
        play(columns=COLUMNS | {"biller": cells(37, 41)}, settings=told)


def scripted_coordinator(facts, values):
    def judge(end):
        links = [end.link(Coordinator, DataParty, name) for name in COLUMNS]
        for link in links:
            link.recv(Wire.terms)
        for link in links:
            link.send(Wire.plan, Revealed(facts, np.array(values, np.float64)))

    return judge


PLANS = {
    "a size too few": ({}, [40, 50]),
    "own size changed": ({}, [41, 50, 25]),
    "not whole": ({}, [40, 50.5, 25]),
    "nan": ({}, [40, float("nan"), 25]),
    "huge": ({}, [40, 1e300, 25]),
    "two dimensions": ({}, [[40], [50], [25]]),
    "unknown party": ({"refused": "size", "party": "x", "got": 3}, []),
    "unknown reason": ({"refused": "mood", "party": "shop", "got": 3}, []),
    "incomplete": ({"refused": "terms", "party": "shop", "got": 3}, []),
}


@pytest.mark.parametrize("case", PLANS)
def test_malformed_plans_name_the_coordinator(case):
    with pytest.raises(RemoteProtocolError, match="coordinator sent a plan"):
        play(replace={"coordinator": scripted_coordinator(*PLANS[case])})


TERMS = {
    "no size": ({}, []),
    "two sizes": ({}, [1, 2]),
    "negative": ({}, [-1]),
    "fraction": ({}, [0.5]),
    "nan": ({}, [float("nan")]),
    "zero": ({}, [0]),
    "nested": ({}, [[3]]),
    "other names": ({"mood": 1}, [25]),
}


@pytest.mark.parametrize("case", TERMS)
def test_malformed_terms_name_their_sender(case):
    facts, values = TERMS[case]

    def biller(end):
        judge = end.link(DataParty, Coordinator, "coordinator")
        judge.send(Wire.terms, Revealed(facts, np.array(values, np.float64)))

    with pytest.raises(RemoteProtocolError, match="biller sent"):
        play(replace={"biller": biller})


@pytest.mark.parametrize("facts", [{}, {"differs": "nobody"}, {"differs": 3}, {"differs": None, "more": 1}])
def test_malformed_agreement_names_the_active_party(facts):
    def bank(end):
        prepared = prepare_ids([COLUMNS["bank"]], IdRules(), party="bank")
        judge = end.link(DataParty, Coordinator, "coordinator")
        judge.send(Wire.terms, Revealed(align._terms(prepared, SETTINGS), np.array([40.0])))
        judge.recv(Wire.plan)
        exchange_as_party(end, ListedIds.of(prepared), {"bank": 40, "shop": 50, "biller": 25}, SETTINGS)
        for name in ("shop", "biller"):
            link = end.link(Active, Passive, name)
            link.recv(Wire.proof)
            link.send(Wire.agreed, Control(facts))

    with pytest.raises(RemoteProtocolError, match="bank sent no proper verdict"):
        play(replace={"bank": bank})


@pytest.mark.parametrize("facts", [{}, {"proof": 3}, {"proof": "00"}, {"proof": "\u00e9"}])
def test_malformed_proofs_name_their_sender(facts, monkeypatch):
    monkeypatch.setattr(align, "Control", lambda told: Control(facts if "proof" in told else told))
    with pytest.raises(RemoteProtocolError, match="the rows of 'shop'"):
        play()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"protocol": "hashes"}, "protocol: got 'hashes', expected 'auto', 'ecdh', 'kkrt', 'mpsi', 'server-aided'"),
        ({"min_intersection": 0}, "min_intersection: got 0, expected 1 or more"),
        ({"bucket_ids": 0}, "bucket_ids: got 0, expected 1 or more"),
        ({"pad_to": 0}, "pad_to: got 0, expected 1 or more"),
    ],
    ids=["protocol", "min_intersection", "bucket_ids", "pad_to"],
)
def test_settings_are_checked(arguments, text):
    with pytest.raises(ConfigError, match=text):
        AlignmentSettings(**arguments)


def test_dropped_rows_are_left_out_of_the_positions():
    prepared = prepare_ids([["", *cells(0, 10), "x", "x"]], IdRules(), party="bank", duplicates="drop", missing="drop")
    other = prepare_ids([cells(0, 10)], IdRules(), party="shop")
    plays = {
        "bank": lambda end: align_party(end, prepared, SETTINGS),
        "shop": lambda end: align_party(end, other, SETTINGS),
        "coordinator": lambda end: align_coordinator(end, SETTINGS),
    }
    found = run_local(plays, roles={"bank": Active, "shop": Passive, "coordinator": Coordinator})
    assert (found["bank"].rows == found["shop"].rows + 1).all()
    assert found["bank"].sizes == {"bank": 10, "shop": 10}


def test_padded_lists_have_one_size_and_the_same_result():
    found = play(settings=AlignmentSettings(seed=7, min_intersection=5, pad_to=60))
    assert {name: found[name].rows.tolist() for name in COLUMNS} == {
        name: result.rows.tolist() for name, result in play().items() if name in COLUMNS
    }
    assert {tuple(result.sizes.items()) for result in found.values()} == {(("bank", 60), ("shop", 60), ("biller", 60))}


def test_cardinality_tells_a_number_and_no_rows():
    seen = []
    found = play(settings=AlignmentSettings(seed=7, min_intersection=5, cardinality=True), observe=seen.append)
    assert {result.intersection for result in found.values()} == {20}
    assert all(len(found[name].rows) == 0 for name in COLUMNS)
    assert not {d.message for d in seen} & {"verdict.matches", "verdict.members", "align.proof", "align.agreed"}


def test_one_sided_the_active_party_alone_has_the_common_rows():
    columns = {"shop": COLUMNS["shop"], "bank": COLUMNS["bank"]}
    seen = []
    sided = AlignmentSettings(seed=7, min_intersection=5, one_sided=True)
    found = play(columns, sided, observe=seen.append)
    both = play(columns)
    bank, shop = found["bank"], found["shop"]
    assert bank.rows.tolist() == both["bank"].rows.tolist()
    assert shop.rows[bank.places].tolist() == both["shop"].rows.tolist()
    assert sorted(shop.rows.tolist()) == list(range(50)) != shop.rows.tolist()
    assert (bank.intersection, shop.intersection) == (30, 0)
    told = {d.message: d.payload for d in seen if d.receiver == "shop" and d.message.startswith("verdict.")}
    assert {message: payload.facts for message, payload in told.items()} == {"verdict.enough": {"enough": True}}
    assert not {d.message for d in seen} & {"verdict.matches", "align.proof", "align.agreed"}
