"""The way of rows and bytes: from CSVs to test rows, from role to role, and where each role's time went."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from parties.ledger import Entry
from parties.link import COORDINATOR
from vfl.audit import size_text
from vfl.report.run_directory import RunDirectory
from vfl.report.words import count, percent, plural, seconds

SPENT = {
    "kernel": ("c1", "encryption kernel", "Paillier arithmetic"),
    "python": ("c2", "Python", "everything else that was computed"),
    "wire": ("c3", "wire", "packing, sealing and sending messages"),
    "waiting": ("c4", "waiting", "for the other roles"),
}
_PHASES = {"alignment": "alignment", "training": "training", "evaluation": "evaluation"}


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of the funnel: its share of the longest in percent."""

    label: str
    note: str
    value: str
    width: float
    colour: str


@dataclass(frozen=True, slots=True)
class Arrow:
    """What goes one way between a party and the coordinator; sealed: through it, unread."""

    way: str
    title: str
    amount: str
    detail: str
    thickness: float
    sealed: bool


@dataclass(frozen=True, slots=True)
class Lane:
    """A party in the picture of the messages, with its arrows."""

    name: str
    role: str
    arrows: list[Arrow]


@dataclass(frozen=True, slots=True)
class Flow:
    """The picture, what it says, and the same as a table of pairs."""

    lanes: list[Lane]
    alt: str
    pairs: list[tuple[str, str, str, str, str]]
    total: str
    sealed: bool


@dataclass(frozen=True, slots=True)
class Slice:
    """A piece of a stacked bar."""

    colour: str
    label: str
    value: str
    width: float


@dataclass(frozen=True, slots=True)
class TimeBar:
    """How one role spent its time."""

    role: str
    total: str
    slices: list[Slice]


def funnel(run: RunDirectory) -> list[Bar]:
    """Rows of CSVs, distinct ids, common rows, and the parts they fell into."""
    report = run.report
    bars: list[tuple[str, str, int, str]] = []
    for party in report.parties:
        ids = report.alignment.rows.get(party.name)
        if party.rows is not None:
            bars.append((party.name, "rows of its CSV", party.rows, "c6"))
        if ids is not None and ids != party.rows:
            bars.append((party.name, "distinct valid ids", ids, "c6"))
    if report.alignment.intersection is not None:
        bars.append(("all parties", "rows in common", report.alignment.intersection, "joint"))
    parts = {"train": "to train on", "validation": "to watch the training", "test": "held out to test"}
    if report.evaluates:
        parts = {"test": "scored and compared with their labels"}
    titles = {"train": "training", "validation": "validation", "test": "new rows" if report.evaluates else "test"}
    rows = [(titles[part], note, report.rows.get(part), "c3") for part, note in parts.items()]
    bars += [(title, note, number, colour) for title, note, number, colour in rows if number]
    most = max(number for _, _, number, _ in bars) or 1
    return [
        Bar(label, note, count(number), round(100 * number / most, 2), colour) for label, note, number, colour in bars
    ]


def messages(run: RunDirectory) -> Flow | None:
    """Who sent how much to whom; None where the ledger is empty."""
    entries = run.entries
    if not entries:
        return None
    most = max(sum(entry.bytes for entry in group) for group in _pairs(entries).values())
    lanes = [_lane(party.name, party.role, run.role, entries, most) for party in run.report.parties]
    pairs = [
        (
            sender,
            receiver,
            "sealed" if COORDINATOR not in (sender, receiver) else "direct",
            f"{len(group):,}",
            size_text(sum(entry.bytes for entry in group)),
        )
        for (sender, receiver), group in sorted(_pairs(entries).items(), key=lambda item: _place(run, *item[0]))
    ]
    total = f"{plural(len(entries), 'message')}, {size_text(sum(entry.bytes for entry in entries))}"
    alt = f"Messages between the roles: {total} in all. " + " ".join(
        f"{lane.name}: {'; '.join(f'{arrow.title} {arrow.amount}' for arrow in lane.arrows)}." for lane in lanes
    )
    sealed = any(arrow.sealed for lane in lanes for arrow in lane.arrows)
    return Flow([lane for lane in lanes if lane.arrows], alt, pairs, total, sealed)


def _pairs(entries: Sequence[Entry]) -> dict[tuple[str, str], list[Entry]]:
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.sender, entry.receiver), []).append(entry)
    return groups


def _place(run: RunDirectory, *roles: str) -> list[int]:
    order = [COORDINATOR, *(party.name for party in run.report.parties)]
    return [order.index(role) if role in order else len(order) for role in roles]


def _lane(name: str, role: str, whose: str | None, entries: Sequence[Entry], most: int) -> Lane:
    """Up to four arrows: to and from the coordinator, and through it to and from other parties."""
    others = "other parties" if whose in (None, name) else whose  # its own ledger has nothing else
    kinds: list[tuple[str, str, bool, Callable[[Entry], bool]]] = [
        ("out", "to the coordinator", False, lambda e: e.sender == name and e.receiver == COORDINATOR),
        ("in", "from the coordinator", False, lambda e: e.receiver == name and e.sender == COORDINATOR),
        ("out", f"to {others}", True, lambda e: e.sender == name and e.receiver != COORDINATOR),
        ("in", f"from {others}", True, lambda e: e.receiver == name and e.sender != COORDINATOR),
    ]
    arrows = []
    for way, title, sealed, belongs in kinds:
        group = [entry for entry in entries if belongs(entry)]
        total = sum(entry.bytes for entry in group)
        thick = round(1.5 + 4.5 * (min(total / most, 1.0)) ** 0.5, 1)
        if group:
            arrows.append(Arrow(way, title, size_text(total), plural(len(group), "message"), thick, sealed))
    return Lane(name, role, arrows)


def time_split(run: RunDirectory) -> list[TimeBar]:
    """Seconds of each role's main thread by what it did then, on a common scale."""
    spent = {role: parts for role, parts in run.report.time.items() if sum(parts.values()) > 0}
    longest = max((sum(parts.values()) for parts in spent.values()), default=1.0)
    return [
        TimeBar(
            role,
            seconds(sum(parts.values())),
            [
                Slice(colour, label, f"{seconds(parts[kind])}, {percent(parts[kind] / sum(parts.values()), 0)}", width)
                for kind, (colour, label, _) in SPENT.items()
                if parts.get(kind, 0.0) > 0
                for width in [round(100 * parts[kind] / longest, 2)]
            ],
        )
        for role, parts in spent.items()
    ]


def time_table(run: RunDirectory) -> list[tuple[str, ...]]:
    """The same in figures: role, then seconds per kind, then all."""
    return [
        (role, *(seconds(parts.get(kind, 0.0)) for kind in SPENT), seconds(sum(parts.values())))
        for role, parts in run.report.time.items()
    ]


def phases(run: RunDirectory) -> TimeBar | None:
    """Seconds of each phase of the run, the rest being start, preparation and saving."""
    known = {name: run.report.seconds.get(name, 0.0) for name in _PHASES}
    total = max(run.report.seconds.get("total", 0.0), sum(known.values()))
    if total <= 0:
        return None
    known["starting, preparing, saving"] = total - sum(known.values())
    colours = ("c5", "c1", "c3", "c4")
    slices = [
        Slice(colour, name, f"{seconds(value)}, {percent(value / total, 0)}", round(100 * value / total, 2))
        for colour, (name, value) in zip(colours, known.items(), strict=True)
        if value > 0
    ]
    return TimeBar("the whole run", seconds(total), slices)
