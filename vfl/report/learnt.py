"""Who learnt what, from the ledger, in plain words; and what crossed that nobody but the addressee can read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from parties.ledger import Entry
from parties.link import COORDINATOR
from vfl.report.run_directory import RunDirectory
from vfl.report.words import listed, size

KEPT = {
    "Encrypted": ("encrypted with Paillier", "the holder of the Paillier key"),
    "EncryptedSums": ("encrypted with Paillier", "the holder of the Paillier key"),
    "Masked": ("masked with random numbers", "nobody alone: only the sum of all parties' numbers opens"),
    "Opened": ("masked by whoever gets it", "the receiver, who knows the mask"),
    "Points": ("ids as points of a curve, masked with secret keys", "nobody: all keys together would be needed"),
    "Tags": ("ids as masked tags", "nobody: they can be compared, not read"),
}
"""Per kind of payload that hides what it holds: how, and who can take that off again."""


@dataclass(frozen=True, slots=True)
class Line:
    """One kind of thing that a role learnt."""

    what: str
    sources: str
    messages: str
    values: str
    size: str


@dataclass(frozen=True, slots=True)
class Learnt:
    """All that one role learnt."""

    receiver: str
    role: str
    lines: list[Line]


@dataclass(frozen=True, slots=True)
class Hidden:
    """A kind of message whose content was hidden, and from whom."""

    what: str
    way: str
    opens: str
    how: str
    messages: str
    size: str


def learnt(run: RunDirectory) -> list[Learnt]:
    """Disclosures by receiver, in the order of the job, the coordinator last; a role's own page begins with its own."""
    roles = {party.name: f"{party.role} party" for party in run.report.parties} | {COORDINATOR: "no data of its own"}
    disclosing = [entry for entry in run.entries if entry.discloses]
    groups = _grouped(disclosing, lambda entry: entry.receiver)
    order = sorted(
        groups, key=lambda name: (name != run.role, list(roles).index(name) if name in roles else len(roles))
    )
    return [
        Learnt(receiver, roles.get(receiver, ""), [_line(what, lines) for what, lines in _by_what(groups[receiver])])
        for receiver in order
    ]


def nothing_learnt(run: RunDirectory) -> list[str]:
    """Roles that the ledger has learning nothing, where it is everybody's ledger."""
    if run.role is not None:
        return []
    receivers = {entry.receiver for entry in run.entries if entry.discloses}
    return [name for name in (*(party.name for party in run.report.parties), COORDINATOR) if name not in receivers]


def hidden(run: RunDirectory) -> list[Hidden]:
    """Encrypted and masked messages: how they were hidden, and who can open them."""
    holder = run.active.name if run.report.training.key_holder == "active" else COORDINATOR
    lines = []
    for message, group in _grouped((e for e in run.entries if e.kind in KEPT), lambda entry: entry.message).items():
        how, opens = KEPT[group[0].kind]
        sealed = " and sealed end to end" if group[0].hops > 1 else ""
        lines.append(
            Hidden(
                _spaced(message),
                f"{listed(_names(group, 'sender'))} to {listed(_names(group, 'receiver'))}",
                opens.replace("the holder of the Paillier key", f"{holder}, who has the Paillier key"),
                how + sealed,
                f"{len(group):,}",
                size(sum(entry.bytes for entry in group)),
            )
        )
    return lines


def _spaced(message: str) -> str:
    """A message's name in words: ``glm_exact.score_sums`` is "score sums"."""
    return message.partition(".")[2].replace("_", " ")


def _by_what(entries: Sequence[Entry]) -> Iterable[tuple[str, list[Entry]]]:
    return _grouped(entries, lambda entry: entry.discloses).items()


def _line(what: str, entries: Sequence[Entry]) -> Line:
    return Line(
        what[:1].upper() + what[1:],
        listed(_names(entries, "sender")),
        f"{len(entries):,}",
        f"{sum(entry.values for entry in entries):,}",
        size(sum(entry.bytes for entry in entries)),
    )


def _names(entries: Sequence[Entry], end: str) -> list[str]:
    return list(dict.fromkeys(getattr(entry, end) for entry in entries))


def _grouped(entries: Iterable[Entry], key: Callable[[Entry], str]) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(key(entry), []).append(entry)
    return groups
