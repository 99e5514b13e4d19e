"""Ledgers of one run beside each other: they agree, or the first difference is named; a crash may cut one short."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from parties.errors import DataError
from parties.ledger import Entry, merge_sent, write_ledger
from parties.ledger_check import Agreement, check_agreement, read_book
from tests.parties.test_ledger_chain import talk

Ledgers = dict[str, list[Entry]]
Change = Callable[[list[Entry]], None]


@pytest.fixture(scope="module")
def kept() -> Ledgers:
    return talk(1)


def check(folder: Path, ledgers: Ledgers, *, ended: bool = True, merged: list[Entry] | None = None) -> Agreement:
    """Write them as their owners would, with a chain that holds, and compare."""
    files = dict(ledgers) if merged is None else {"all": merged, **ledgers}
    for name, entries in files.items():
        write_ledger(folder / f"{name}.jsonl", entries)
    return check_agreement([read_book(folder / f"{name}.jsonl") for name in files], ended=ended)


def changed(kept: Ledgers, name: str, change: Change) -> Ledgers:
    entries = list(kept[name])
    change(entries)
    return {**kept, name: entries}


def at(entries: list[Entry], message: str, nth: int = 0) -> int:
    return [number for number, entry in enumerate(entries) if entry.message.endswith(message)][nth]


def setting(message: str, /, **fields: object) -> Change:
    def change(entries: list[Entry]) -> None:
        place = at(entries, message)
        entries[place] = msgspec.structs.replace(entries[place], **fields)

    return change


def test_ledgers_of_a_run_agree(tmp_path, kept):
    messages = sum(entry.by == entry.sender for entries in kept.values() for entry in entries)
    agreement = check(tmp_path, kept)
    assert agreement == Agreement(ledgers=3, lines=2 * messages, messages=messages, cut=0, unseen={})


def test_a_merged_ledger_agrees_with_the_senders(tmp_path, kept):
    agreement = check(tmp_path, kept, merged=merge_sent(kept.values()))
    assert agreement.ledgers == 4 and agreement.unseen == {}


def test_what_nobody_handed_over_is_counted(tmp_path, kept):
    agreement = check(tmp_path, {"bank": kept["bank"], "shop": kept["shop"]})
    assert agreement.messages == 2 and agreement.unseen == {"coordinator": 10}


@pytest.mark.parametrize(
    ("name", "message", "fields", "words"),
    [
        ("bank", "across", {"bytes": 1}, "bytes of .*across from bank to shop, got .*, expected 1 as in .*bank.jsonl"),
        ("shop", "across", {"values": 8}, "values of .*across from bank to shop, got 8, expected 200000"),
        ("shop", "across", {"content": "cd" * 32}, "content of .*across .*, got cdcdcdcd\\.\\.\\., expected"),
        ("bank", "up", {"discloses": ""}, "discloses of .*up from bank to coordinator, got 'a count', expected ''"),
        ("coordinator", "up", {"kind": "Masked"}, "kind of .*up from bank to coordinator, got 'Masked'"),
        ("coordinator", "down", {"message": "x.y"}, "message of x.y from coordinator to bank"),
        ("coordinator", "down", {"hops": 2}, "hops of .*down from coordinator to bank, got 1, expected 2"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 12 else "",
)
def test_a_difference_is_named(tmp_path, kept, name, message, fields, words):
    """By whoever: the chain holds, for the owner of a ledger can write all of it anew."""
    with pytest.raises(DataError, match=words) as told:
        check(tmp_path, changed(kept, name, setting(message, **fields)))
    lines = [kept[name][at(kept[name], message)]]
    assert f", line {kept[name].index(lines[0]) + 1}" in str(told.value)


@pytest.mark.parametrize("name", ["bank", "shop"])
@pytest.mark.parametrize("nth", [0, 1])
def test_a_message_left_out_is_named(tmp_path, kept, name, nth):
    with pytest.raises(DataError, match="across from bank to shop"):
        check(tmp_path, changed(kept, name, lambda entries: entries.pop(at(entries, "across", nth)) and None))


@pytest.mark.parametrize("name", ["bank", "shop"])
def test_messages_in_another_order_are_named(tmp_path, kept, name):
    def swap(entries: list[Entry]) -> None:
        first, second = at(entries, "across"), at(entries, "across", 1)
        entries[first], entries[second] = entries[second], entries[first]

    with pytest.raises(DataError, match="content of .*across"):
        check(tmp_path, changed(kept, name, swap))


def test_an_end_that_was_cut_off_is_named(tmp_path, kept):
    with pytest.raises(DataError, match=r"shop.jsonl: got no .*across from bank to shop, expected it as in .*bank"):
        check(tmp_path, changed(kept, "shop", lambda entries: entries.pop() and None))


def test_ledgers_of_other_runs_do_not_agree(tmp_path, kept):
    with pytest.raises(DataError, match="content of greeting.roster from coordinator to shop"):
        check(tmp_path, {**kept, "shop": talk(1)["shop"]})


@pytest.mark.parametrize("changes", [{"bytes": 3}, {"time": 1.0}, {"discloses": "nothing"}], ids=str)
def test_a_merged_ledger_that_differs_is_named(tmp_path, kept, changes):
    merged = merge_sent(kept.values())
    setting("up", **changes)(merged)
    with pytest.raises(DataError, match=f"all.jsonl, line {at(merged, 'up') + 1}: {next(iter(changes))} of"):
        check(tmp_path, kept, merged=merged)


def test_a_merged_ledger_lacks_nothing(tmp_path, kept):
    merged = merge_sent(kept.values())
    with pytest.raises(DataError, match="all.jsonl: got no .*down from coordinator to shop"):
        check(tmp_path, kept, merged=merged[:-1])
    with pytest.raises(DataError, match="messages by shop, whose own ledger is not there"):
        check(tmp_path, {name: kept[name] for name in ("bank", "coordinator")}, merged=merged)


def test_two_copies_of_one_ledger_must_be_the_same(tmp_path, kept):
    for name, entries in (("one", kept["bank"]), ("same", kept["bank"]), ("cut", kept["bank"][:-1])):
        write_ledger(tmp_path / name, entries)
    books = {name: read_book(tmp_path / name) for name in ("one", "same", "cut")}
    assert check_agreement([books["one"], books["same"]], ended=True).messages == 0
    with pytest.raises(DataError, match=f"cut, line {len(kept['bank'])}: differs from .*one, of the same role"):
        check_agreement([books["one"], books["cut"]], ended=True)


def test_a_line_of_somebody_else_is_named(tmp_path, kept):
    strange = setting("across", sender="shop", receiver="coordinator")
    with pytest.raises(DataError, match="bank.jsonl, line .*: by, got bank, expected sender or receiver"):
        check(tmp_path, changed(kept, "bank", strange))


def after_a_crash(kept: Ledgers) -> Ledgers:
    """The same once more as a second generation."""
    again = talk(1)
    return {
        name: [*entries, *(msgspec.structs.replace(entry, generation=2) for entry in again[name])]
        for name, entries in kept.items()
    }


@pytest.mark.parametrize("name", ["bank", "shop"])
def test_a_crash_may_cut_one_side_short(tmp_path, kept, name):
    whole = after_a_crash(kept)
    cut = changed(whole, name, lambda entries: entries.pop(at(entries, "across", 1)) and None)
    agreement = check(tmp_path, cut)
    assert (agreement.cut, agreement.messages) == (1, check(tmp_path, whole).messages - 1)


@pytest.mark.parametrize("nth", [0, 2, 3], ids=["not the last", "of the last generation", "the very last"])
def test_a_crash_cuts_no_hole_and_not_the_last_generation(tmp_path, kept, nth):
    holed = changed(after_a_crash(kept), "shop", lambda entries: entries.pop(at(entries, "across", nth)) and None)
    with pytest.raises(DataError, match="across from bank to shop"):
        check(tmp_path, holed)


def test_the_last_generation_of_a_run_that_has_not_ended_may_be_cut(tmp_path, kept):
    cut = changed(kept, "shop", lambda entries: entries.pop() and None)
    assert check(tmp_path, cut, ended=False).cut == 1


def test_a_hello_that_the_coordinator_died_on_is_no_difference(tmp_path, kept):
    """It takes no number of a generation with it, and the party says hello again."""
    lost = talk(1)["bank"][0]
    assert lost.message == "greeting.hello"
    agreement = check(tmp_path, {**kept, "bank": [lost, *kept["bank"]]})
    assert agreement.cut == 1
    with pytest.raises(DataError, match="greeting.hello from bank to coordinator"):
        check(
            tmp_path, {**kept, "coordinator": [e for e in kept["coordinator"] if e.content != kept["bank"][0].content]}
        )
