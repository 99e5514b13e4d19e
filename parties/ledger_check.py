"""Ledgers as evidence: whether they are as their roles wrote them, and whether those of one run say the same.

A ledger alone shows an edit by its chain, unless somebody wrote all lines anew. Beside a peer's ledger every message
must be in both, with the same digest of what passed; sender and receiver would have to change it together.

Where the coordinator's ledger says that the run went on without a party, one side of it may have less in the end.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from parties.errors import DataError
from parties.ledger import LOST, Entry, chained, read_bytes, read_entry
from parties.link import COORDINATOR

SAME = ("message", "kind", "bytes", "hops", "values", "discloses", "content")
_GREETING = "greeting.hello"
_MEANS = "one of the two files was changed, or they are of different runs; ask both parties for their backups"

Line = tuple[int, Entry]


@dataclass(frozen=True, slots=True)
class Book:
    """A ledger file whose chain holds."""

    path: Path
    entries: list[Entry] = field(repr=False)

    @property
    def roles(self) -> list[str]:
        """Who wrote it: one role, or all where they were merged."""
        return list(dict.fromkeys(entry.by for entry in self.entries))

    def between(self, sender: str, receiver: str) -> dict[int, list[Line]]:
        """Messages of one direction with their line numbers, by generation."""
        found: dict[int, list[Line]] = {}
        for number, entry in enumerate(self.entries, 1):
            if (entry.sender, entry.receiver) == (sender, receiver) and entry.message != LOST:
                found.setdefault(entry.generation, []).append((number, entry))
        return found


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was compared, and agrees.

    Attributes
    ----------
    ledgers, lines : int
        Files, and lines of them, whose chains hold.
    messages : int
        Messages that sender and receiver have alike.
    cut : int
        Messages that one side alone has, because a crash cut their generation short or one of the two was lost.
    unseen : dict of role to int
        Messages to or from roles whose ledgers were not there.
    """

    ledgers: int
    lines: int
    messages: int
    cut: int
    unseen: dict[str, int]


def read_book(path: Path) -> Book:
    """Read a ledger file and check its chain.

    Raises
    ------
    DataError
        The file cannot be read, has no digests or a line that is not as it was written; names the first one.
    """
    *lines, rest = read_bytes(path).split(b"\n")
    if rest:
        raise DataError(f"{path}, line {len(lines) + 1}: got half a line, expected all that was written; it was cut")
    if not lines:
        raise DataError(f"{path}: got no lines, expected every message of the run; it was emptied, or no run began")
    entries, before = [], ""
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        entry = read_entry(where, line)
        if not entry.chain or not entry.content:
            raise DataError(
                f"{where}: got no digests, expected content and chain; an earlier version of vfl wrote it, and it can "
                "be shown but not verified"
            )
        kept, written = chained(before, entry)
        if line + b"\n" != written:
            raise DataError(
                f"{where}: chain, got {entry.chain[:8]}..., expected {kept.chain[:8]}...; this line was changed, or "
                "lines before it were removed, inserted or moved; ask for a backup"
            )
        entries.append(entry)
        before = entry.chain
    return Book(path, entries)


def check_agreement(books: Sequence[Book], *, ended: bool) -> Agreement:
    """Compare ledgers of one run, each with each.

    Parameters
    ----------
    books : sequence of Book
        Of any roles; a merged one must say what the senders' own say. Two of one role must be the same.
    ended : bool
        The run has ended, so that its last generation is whole; earlier ones were cut short by a crash, and one side
        may lack the last messages of the other.

    Raises
    ------
    DataError
        Names the first difference: file, line, field, got and expected.
    """
    own, merged = _by_role(books)
    for top in merged:
        _check_merged(top, own)
    last = max(entry.generation for book in own.values() for entry in book.entries) + (not ended)
    lost = {(entry.generation, entry.sender) for book in own.values() for entry in book.entries if _notes_a_loss(entry)}
    messages = cut = 0
    for one, other in combinations(own, 2):
        for sender, receiver in ((one, other), (other, one)):
            alike, alone = _compare(own[sender], own[receiver], sender, receiver, last, lost)
            messages, cut = messages + alike, cut + alone
    unseen: dict[str, int] = {}
    for role, book in own.items():
        for entry in book.entries:
            peer = entry.receiver if entry.sender == role else entry.sender
            if peer not in own and entry.message != LOST:
                unseen[peer] = unseen.get(peer, 0) + 1
    return Agreement(len(books), sum(len(book.entries) for book in books), messages, cut, unseen)


def _by_role(books: Iterable[Book]) -> tuple[dict[str, Book], list[Book]]:
    """Each role's own ledger, and the merged ones."""
    own: dict[str, Book] = {}
    merged: list[Book] = []
    for book in books:
        if len(book.roles) > 1:
            merged.append(book)
            continue
        for number, entry in enumerate(book.entries, 1):
            if entry.by not in (entry.sender, entry.receiver):
                raise DataError(f"{book.path}, line {number}: by, got {entry.by}, expected sender or receiver")
        first = own.setdefault(book.roles[0], book)
        if first.entries != book.entries:
            raise DataError(
                f"{book.path}, line {_first_other(first, book)}: differs from {first.path}, of the same role"
            )
    return own, merged


def _first_other(first: Book, second: Book) -> int:
    """Number of the first line that two ledgers do not share."""
    both = zip(first.entries, second.entries, strict=False)
    shorter = min(len(first.entries), len(second.entries))
    return next((at for at, (one, other) in enumerate(both, 1) if one != other), shorter + 1)


def _check_merged(top: Book, own: dict[str, Book]) -> None:
    """A merged ledger has every message as its sender's has it."""
    for role in top.roles:
        if role not in own:
            raise DataError(f"{top.path}: has messages by {role}, whose own ledger is not there; expected all roles'")
    for role, book in own.items():
        said = [(at, entry) for at, entry in enumerate(top.entries, 1) if entry.by == role]
        sent = [(at, entry) for at, entry in enumerate(book.entries, 1) if entry.sender == role]
        _check_same(top.path, said, book.path, sent, ("sender", "receiver", "time", "generation", *SAME), whole=True)


def _notes_a_loss(entry: Entry) -> bool:
    return entry.message == LOST and entry.by == entry.receiver == COORDINATOR


def _compare(
    sender_book: Book, receiver_book: Book, sender: str, receiver: str, last: int, lost: Collection[tuple[int, str]]
) -> tuple[int, int]:
    """Compare one direction between two roles: how many messages agree, and how many one side alone has."""
    sent = sender_book.between(sender, receiver)
    received = receiver_book.between(sender, receiver)
    messages = cut = 0
    for generation in sorted(sent.keys() | received.keys()):
        ours, unheard = _of_last_greeting(sent.get(generation, []))
        theirs, _ = _of_last_greeting(received.get(generation, []))
        whole = generation >= last and not {(generation, sender), (generation, receiver)} & {*lost}
        _check_same(receiver_book.path, theirs, sender_book.path, ours, SAME, whole=whole)
        messages += min(len(ours), len(theirs))
        cut += abs(len(ours) - len(theirs)) + unheard
    return messages, cut


def _of_last_greeting(lines: list[Line]) -> tuple[list[Line], int]:
    """Lines from the last greeting on, and how many before: hellos to a coordinator that died before it took one in."""
    start = max((at for at, (_, entry) in enumerate(lines) if entry.message == _GREETING), default=0)
    if any(entry.message != _GREETING for _, entry in lines[:start]):
        return lines, 0
    return lines[start:], start


def _check_same(
    path: Path, got: list[Line], other: Path, expected: list[Line], fields: Sequence[str], *, whole: bool
) -> None:
    """Compare messages in order; where ``whole``, neither side may have more."""
    for (at, entry), (there, its) in zip(got, expected, strict=False):
        for name in fields:
            if getattr(entry, name) != getattr(its, name):
                raise DataError(
                    f"{path}, line {at}: {name} of {its.message} from {its.sender} to {its.receiver}, got "
                    f"{_shown(entry, name)}, expected {_shown(its, name)} as in {other}, line {there}; {_MEANS}"
                )
    if whole and len(got) != len(expected):
        lacking, where, having = (path, other, expected) if len(got) < len(expected) else (other, path, got)
        at, entry = having[min(len(got), len(expected))]
        raise DataError(
            f"{lacking}: got no {entry.message} from {entry.sender} to {entry.receiver}, expected it as in {where}, "
            f"line {at}; {_MEANS}"
        )


def _shown(entry: Entry, name: str) -> str:
    value = getattr(entry, name)
    return f"{value[:8]}..." if name == "content" else repr(value) if isinstance(value, str) else str(value)
