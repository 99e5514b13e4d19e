"""Who learnt what, from the ledger, in plain words; and what crossed that nobody but the addressee can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from parties.ledger import Entry
from parties.link import COORDINATOR
from vfl import audit
from vfl.report.run_directory import RunDirectory
from vfl.report.summary import PartyPart
from vfl.report.words import listed, plural

_HIDDEN = {
    "Encrypted": "Encrypted with Paillier",
    "EncryptedSums": "Encrypted with Paillier",
    "Masked": "Masked with random numbers",
    "Opened": "Masked by whoever gets it",
    "Points": "Ids as points of a curve, masked with secret keys",
    "Tags": "Ids as masked tags",
    "Blinded": "Ids under one-time pads",
}
"""Per kind of payload that hides what it holds: how."""
_OTHERWISE = {
    "secure_sum.keys": ("Public keys, as points of a curve", "Everybody: they open nothing by themselves"),
    "secure_sum.boxes": ("Sealed from silo to silo", "The silo that it is for; the coordinator passes it on"),
    "secure_sum.shares": (
        "Shares of secrets behind masks",
        "The coordinator: enough of them take the masks off the sum over silos, and off nothing else",
    ),
    "secure_sum.masked": ("Masked with random numbers", "Nobody: the coordinator finds the sum over silos only"),
    "siblings.part": ("Masked with random numbers", "The first silo of the party: in the sum the masks cancel"),
    "siblings.secret": ("Secrets under one-time pads", "The silo that it is for"),
    "silo_rows.key": ("Secrets under one-time pads", "The silo that it is for"),
    "row_masks.lifted": (
        "Masks among random numbers",
        "The silo that it is for: at its own rows, and it cannot tell masks from random numbers elsewhere",
    ),
}
"""Per message that silos send: how it is hidden and who can open it, where its kind of payload does not say it."""
_SAME = {"secure_sum.keys_of_all": "secure_sum.keys", "secure_sum.boxes_for": "secure_sum.boxes"}
_MASKED_BELOW = ("products", "all_products", "updates")
"""Messages of networks that are masked under their encryption."""


@dataclass(frozen=True, slots=True)
class Line:
    """One kind of thing that a role learnt."""

    what: str
    sources: str
    values: str
    messages: str


@dataclass(frozen=True, slots=True)
class Learnt:
    """All that one role learnt."""

    receiver: str
    role: str
    lines: list[Line]


@dataclass(frozen=True, slots=True)
class Hidden:
    """Messages that were hidden in the same way and that the same role can open."""

    how: str
    opens: str
    names: str
    messages: str
    size: str


def learnt(run: RunDirectory) -> list[Learnt]:
    """Disclosures by receiver, in the order of the job, the coordinator last; a role's own page begins with its own."""
    roles = {party.name: _what(party) for party in run.report.parties} | {COORDINATOR: "no data of its own"}
    groups: dict[str, list[audit.Sent]] = {}
    for line in audit.learnt(run.entries):
        groups.setdefault(line.receivers[0], []).append(line)
    place = {name: number for number, name in enumerate(roles)}
    order = sorted(groups, key=lambda name: (name != run.role, place.get(name, len(place))))
    return [Learnt(name, roles.get(name, ""), [_line(line) for line in groups[name]]) for name in order]


def _what(party: PartyPart) -> str:
    return f"silo of {party.holder}, {party.role} party" if party.holder else f"{party.role} party"


def nothing_learnt(run: RunDirectory) -> list[str]:
    """Roles that the ledger has learning nothing, where it is everybody's ledger."""
    if run.role is not None:
        return []
    receivers = {entry.receiver for entry in run.entries if entry.discloses}
    return [name for name in (*(party.name for party in run.report.parties), COORDINATOR) if name not in receivers]


def hidden(run: RunDirectory) -> list[Hidden]:
    """Encrypted and masked messages: how they were hidden, and who can open them."""
    holder = run.active.name if run.report.training.key_holder == "active" else COORDINATOR
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in run.entries:
        if entry.kind in _HIDDEN:
            told = _OTHERWISE.get(_SAME.get(entry.message, entry.message))
            groups.setdefault(told or (_HIDDEN[entry.kind], _opens(entry, holder)), []).append(entry)
    return [
        Hidden(how, opens, _names(group), f"{len(group):,}", audit.size_text(sum(entry.bytes for entry in group)))
        for (how, opens), group in groups.items()
    ]


def _opens(entry: Entry, holder: str) -> str:
    """Who can take off what hides a message."""
    protocol, _, name = entry.message.partition(".")
    if entry.kind in ("Encrypted", "EncryptedSums"):
        below = ", and finds masked numbers" if protocol.startswith("splitnn") and name in _MASKED_BELOW else ""
        return f"{holder}, who holds the key{below}"
    if entry.message == "splitnn.share":
        return "Nobody: it is one half of a sum, random without the other"
    if entry.kind == "Masked":
        return (
            "The receiver: in the sum the masks cancel" if entry.discloses else "Nobody: masks cancel only in the sum"
        )
    if entry.kind == "Opened":
        return "The receiver, who knows the mask"
    if entry.kind == "Tags":
        return "Nobody: they can be compared, not read"
    if entry.kind == "Blinded":
        return "The receiver, each only for the ids that it holds itself, and what comes out looks random to it"
    return "Nobody: it would take all parties' keys"


def _names(entries: Sequence[Entry]) -> str:
    """Names of messages in words: ``glm_exact.score_sums`` is "score sums"."""
    return ", ".join(dict.fromkeys(entry.message.partition(".")[2].replace("_", " ") for entry in entries))


def _line(line: audit.Sent) -> Line:
    return Line(
        line.what[:1].upper() + line.what[1:],
        listed(line.senders),
        plural(line.values, "value"),
        f"{plural(line.count, 'message')}, {audit.size_text(line.bytes)}",
    )
