"""The way of rows and bytes: from CSVs to test rows, from role to role, and where each role's time went."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
_MOST_LANES = 6  # silos without a passive party, each with a lane of its own
_MOST_LINES = 9  # roles of which the table has every pair; of more, silos count as their party
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
    """A party in the picture of the messages, with its arrows; ``role`` says where it stands, ``what`` what it is."""

    name: str
    role: str
    what: str
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
    if report.alignment.intersection is not None and not run.horizontal:
        bars.append(("all parties", "rows in common", report.alignment.intersection, "joint"))
    used = [report.rows.get(part) for part in ("train", "validation", "test")]
    if run.horizontal and None not in (used[0], used[2]):
        bars.append(("all silos", "rows in all", sum(rows or 0 for rows in used), "joint"))
    parts = {"train": "to train on", "validation": "to watch the training", "test": "held out to test"}
    if report.evaluates:
        parts = {"test": "scored and compared with their labels"}
    titles = {"train": "training", "validation": "validation", "test": "new rows" if report.evaluates else "test"}
    rows = [(titles[part], note, report.rows.get(part), "c3") for part, note in parts.items()]
    bars += [(title, note, number, colour) for title, note, number, colour in rows if number]
    most = max((number for _, _, number, _ in bars), default=1) or 1
    return [
        Bar(label, note, count(number), round(100 * number / most, 2), colour) for label, note, number, colour in bars
    ]


def messages(run: RunDirectory) -> Flow | None:
    """Who sent how much to whom; None where the ledger is empty."""
    entries = run.entries
    if not entries:
        return None
    named = _grouped(run)
    most = max(sum(entry.bytes for entry in group) for group in _pairs(entries, named).values())
    lanes = [_lane(name, run, entries, most, named) for name in dict.fromkeys(named.values()) if name != COORDINATOR]
    exact = {name: name for name in named} if len(named) <= _MOST_LINES else named
    pairs = [
        (
            sender,
            receiver,
            "sealed" if COORDINATOR not in (sender, receiver) else "direct",
            f"{len(group):,}",
            size_text(sum(entry.bytes for entry in group)),
        )
        for (sender, receiver), group in sorted(
            _pairs(entries, exact).items(), key=lambda pair: _place(exact, *pair[0])
        )
    ]
    total = f"{plural(len(entries), 'message')}, {size_text(sum(entry.bytes for entry in entries))}"
    alt = f"Messages between the roles: {total} in all. " + " ".join(
        f"{lane.name}: {'; '.join(f'{arrow.title} {arrow.amount}' for arrow in lane.arrows)}." for lane in lanes
    )
    sealed = any(arrow.sealed for lane in lanes for arrow in lane.arrows)
    return Flow([lane for lane in lanes if lane.arrows], alt, pairs, total, sealed)


def _grouped(run: RunDirectory) -> dict[str, str]:
    """Under which name the picture has each role: silos under their party's, a few of them alone each its own."""
    apart = run.horizontal and len(run.report.parties) <= _MOST_LANES
    return {COORDINATOR: COORDINATOR} | {
        party.name: party.name if apart else party.holder or party.name for party in run.report.parties
    }


def _pairs(entries: Sequence[Entry], named: Mapping[str, str]) -> dict[tuple[str, str], list[Entry]]:
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        sender, receiver = (named.get(role, role) for role in (entry.sender, entry.receiver))
        groups.setdefault((sender, receiver), []).append(entry)
    return groups


def _place(named: Mapping[str, str], *roles: str) -> list[int]:
    order = list(dict.fromkeys(named.values()))
    return [order.index(role) if role in order else len(order) for role in roles]


def _lane(name: str, run: RunDirectory, entries: Sequence[Entry], most: int, named: Mapping[str, str]) -> Lane:
    """Up to five arrows: to and from the coordinator, and through it to and from other parties, and among silos."""
    others = "other parties" if run.role is None or named[run.role] == name else named[run.role]  # no more in a ledger
    others = "other silos" if run.horizontal and others == "other parties" else others
    kinds: list[tuple[str, str, bool, Callable[[str, str], bool]]] = [
        ("out", "to the coordinator", False, lambda a, b: a == name and b == COORDINATOR),
        ("in", "from the coordinator", False, lambda a, b: b == name and a == COORDINATOR),
        ("out", f"to {others}", True, lambda a, b: a == name and b not in (COORDINATOR, name)),
        ("in", f"from {others}", True, lambda a, b: b == name and a not in (COORDINATOR, name)),
        ("in", "between its silos", True, lambda a, b: a == b == name),
    ]
    arrows = []
    for way, title, sealed, belongs in kinds:
        group = [one for pair, held in _pairs(entries, named).items() if belongs(*pair) for one in held]
        total = sum(entry.bytes for entry in group)
        thick = round(1.5 + 4.5 * (min(total / most, 1.0)) ** 0.5, 1)
        if group:
            arrows.append(Arrow(way, title, size_text(total), plural(len(group), "message"), thick, sealed))
    return Lane(name, *_kind(name, run), arrows)


def _kind(name: str, run: RunDirectory) -> tuple[str, str]:
    """Where a lane stands, and what it is, in words."""
    members = run.holders.get(name, [])
    if not members:
        return ("active" if name == run.active.name else "passive"), "silo"
    role, silos = members[0].role, sum(bool(party.holder) for party in members)
    return role, f"{role} party" + (f", {plural(silos, 'silo')}" if silos else "")


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
