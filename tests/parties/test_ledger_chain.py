"""A ledger's chain: whatever one does to its lines is noticed; the digest of what passed is the same at both ends."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties.errors import DataError
from parties.ledger import Entry, Ledger, chained, last_generation, read_ledger, write_ledger
from parties.ledger_check import read_book
from parties.link import COORDINATOR
from parties.local import run_local
from parties.wire import Active, Coordinator, DataParty, Masked, Message, Passive, Revealed

LINES = 6


def entry(number: int = 1, **changes: object) -> Entry:
    kept = Entry(float(number), "bank", "bank", "shop", f"glm.{number}", "Masked", 120, 2, 7, "sums", 1, "ab" * 32)
    return msgspec.structs.replace(kept, **changes)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    path = tmp_path_factory.mktemp("written") / "ledger.jsonl"
    write_ledger(path, map(entry, range(LINES)))
    return path.read_bytes().splitlines(keepends=True)


@pytest.fixture
def file(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("file") / "ledger.jsonl"

    def write(lines: list[bytes]):
        path.write_bytes(b"".join(lines))
        return path

    return write


def noticed(path, line: int) -> None:
    """The first line that cannot stand is named."""
    with pytest.raises(DataError, match=rf"ledger\.jsonl, line {line}: "):
        read_book(path)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory):
    return tmp_path_factory.mktemp("scratch") / "ledger.jsonl"


def test_an_untouched_ledger_stands(written, file):
    book = read_book(file(written))
    assert book.roles == ["bank"] and [each.message for each in book.entries] == [f"glm.{n}" for n in range(LINES)]


@given(data=st.data())
def test_any_changed_byte_is_noticed(data, written, scratch):
    at = data.draw(st.integers(0, LINES - 1))
    place = data.draw(st.integers(0, len(written[at]) - 2))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value not in (written[at][place], ord("\n"))))
    line = bytearray(written[at])
    line[place] = byte
    scratch.write_bytes(b"".join([*written[:at], bytes(line), *written[at + 1 :]]))
    noticed(scratch, at + 1)


FIELDS = {
    "time": st.floats(0, 1e6),
    "bytes": st.integers(0, 1 << 40),
    "values": st.integers(0, 1 << 40),
    "discloses": st.text(max_size=8),
    "receiver": st.sampled_from(["bank", "telco"]),
    "generation": st.integers(2, 9),
    "content": st.just("cd" * 32),
}


@given(data=st.data())
def test_any_changed_field_is_noticed(data, written, scratch):
    at = data.draw(st.integers(0, LINES - 1))
    name = data.draw(st.sampled_from(sorted(FIELDS)))
    old = msgspec.json.decode(written[at], type=Entry)
    new = msgspec.structs.replace(old, **{name: data.draw(FIELDS[name].filter(lambda v: v != getattr(old, name)))})
    scratch.write_bytes(b"".join([*written[:at], msgspec.json.encode(new) + b"\n", *written[at + 1 :]]))
    noticed(scratch, at + 1)


@pytest.mark.parametrize("at", range(LINES - 1))
def test_a_removed_line_is_noticed(written, file, at):
    noticed(file([*written[:at], *written[at + 1 :]]), at + 1)


@given(first=st.integers(0, LINES - 1), second=st.integers(0, LINES - 1))
def test_swapped_lines_are_noticed(first, second, written, scratch):
    lines = list(written)
    lines[first], lines[second] = lines[second], lines[first]
    scratch.write_bytes(b"".join(lines))
    if first == second:
        read_book(scratch)
    else:
        noticed(scratch, min(first, second) + 1)


@given(at=st.integers(0, LINES), of=st.integers(0, LINES - 1))
def test_a_repeated_line_is_noticed(at, of, written, scratch):
    scratch.write_bytes(b"".join([*written[:at], written[of], *written[at:]]))
    noticed(scratch, of + 2 if at in (of, of + 1) else at + 1)


@given(at=st.integers(0, LINES - 1))
def test_a_line_of_ones_own_is_noticed_where_it_is_put_in(at, written, scratch):
    """Even one that fits what stands before it: what follows does not fit it."""
    before = msgspec.json.decode(written[at - 1], type=Entry).chain if at else ""
    scratch.write_bytes(b"".join([*written[:at], chained(before, entry(9))[1], *written[at:]]))
    noticed(scratch, at + 2)


@pytest.mark.parametrize("line", [b"\n", b"\r\n", b" \n"], ids=["empty", "carriage return", "blank"])
def test_lines_of_nothing_are_noticed(written, file, line):
    noticed(file([written[0], line, *written[1:]]), 2)


def test_other_ways_to_write_the_same_are_noticed(written, file):
    noticed(file([written[0].replace(b'"bytes":120', b'"bytes": 120'), *written[1:]]), 1)
    noticed(file([written[0].replace(b"\n", b"\r\n"), *written[1:]]), 1)


def test_half_a_line_at_the_end_is_named(written, file):
    with pytest.raises(DataError, match=f"line {LINES}: got half a line"):
        read_book(file([*written[:-1], written[-1][:30]]))


def test_an_empty_ledger_is_no_evidence(file):
    with pytest.raises(DataError, match="got no lines"):
        read_book(file([]))


def test_a_ledger_without_digests_is_told_apart(file):
    old = msgspec.to_builtins(entry())
    for name in ("generation", "content", "chain"):
        del old[name]
    path = file([msgspec.json.encode(old) + b"\n"])
    assert read_ledger(path)[0].bytes == 120  # it can be shown
    with pytest.raises(DataError, match="line 1: got no digests, expected content and chain; an earlier version"):
        read_book(path)


@pytest.mark.parametrize("half", [b"", b'{"time":3'], ids=["whole", "half a line"])
def test_a_ledger_that_goes_on_is_one_chain(tmp_path, half):
    path = tmp_path / "ledger.jsonl"
    for generation in (1, 2, 3):
        ledger = Ledger(path)
        for number in range(generation):
            ledger.record(entry(number, generation=generation))
        ledger.close()
        with path.open("ab") as file:
            file.write(half)
        assert last_generation(path) == generation
    ledger = Ledger(path)
    ledger.record(entry(7))
    ledger.close()
    assert [each.generation for each in read_book(path).entries] == [1, 2, 2, 3, 3, 3, 1]


def test_there_is_no_last_generation_without_a_line(tmp_path):
    assert last_generation(tmp_path / "none") == 0
    (tmp_path / "half").write_bytes(b"half a line")
    assert last_generation(tmp_path / "half") == 0


class Wire:
    """A few messages each way."""

    up = Message(DataParty, Coordinator, Revealed, discloses="a count")
    down = Message(Coordinator, DataParty, Revealed, discloses="a count")
    across = Message(Active, Passive, Masked)


def talk(seed: int) -> dict[str, list[Entry]]:
    """Ledgers of a small run; ``seed`` is in what is said across."""
    roles = {COORDINATOR: Coordinator, "bank": Active, "shop": Passive}
    told = Revealed({"rows": 17}, np.zeros(0))

    def coordinator(endpoint) -> None:
        for name in ("bank", "shop"):
            link = endpoint.link(Coordinator, DataParty, name)
            link.recv(Wire.up)
            link.send(Wire.down, told)

    def party(endpoint) -> None:
        link = endpoint.link(DataParty, Coordinator, COORDINATOR)
        link.send(Wire.up, told)
        link.recv(Wire.down)
        for number in range(2):
            if endpoint.name == "bank":
                words = np.full((200_000, 1), seed + number, np.uint64)  # more than one frame
                endpoint.link(Active, Passive, "shop").send(Wire.across, Masked(words))
            else:
                endpoint.link(Passive, Active, "bank").recv(Wire.across)

    ledgers = {name: Ledger() for name in roles}
    run_local({COORDINATOR: coordinator, "bank": party, "shop": party}, roles=roles, ledgers=ledgers)
    return {name: ledger.entries for name, ledger in ledgers.items()}


def contents(entries: list[Entry], sender: str, receiver: str) -> list[str]:
    return [each.content for each in entries if (each.sender, each.receiver) == (sender, receiver)]


def test_sender_and_receiver_have_the_same_digests():
    kept = talk(1)
    seen = set()
    for sender in kept:
        for receiver in kept.keys() - {sender}:
            ours = contents(kept[sender], sender, receiver)
            assert ours == contents(kept[receiver], sender, receiver)
            assert all(len(each) == 64 for each in ours)
            seen.update(ours)
    verdicts = 2
    assert len(seen) == len({id(e) for name, es in kept.items() for e in es if e.sender == name}) - verdicts + 1


def test_no_digest_after_the_verdict_can_be_guessed():
    """The same run twice: what was said is the same, plain messages to the coordinator too, and no digest is."""
    first, second = talk(1), talk(1)
    for name, entries in first.items():
        guessed = {one.message for one, two in zip(entries, second[name], strict=True) if one.content == two.content}
        assert guessed == {"greeting.verdict"}
