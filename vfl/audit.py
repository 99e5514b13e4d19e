"""Who learnt what, in words: the one place that the terminal, ``--json`` and the report's page take it from.

Verifying (`verify_run`) is `parties.ledger_check` on the ledgers that lie in a run's directory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from parties.errors import DataError
from parties.ledger import Entry, read_ledger
from parties.ledger_check import Agreement, check_agreement, read_book

LEDGER, REPORT = "ledger.jsonl", "report.json"
SCHEMES = {
    "Encrypted": "encrypted",
    "EncryptedSums": "encrypted",
    "Masked": "masked",
    "Opened": "masked by the receiver",
    "Points": "masked curve points",
    "Tags": "masked tags",
    "Blinded": "under one-time pads",
    "Revealed": "plain",
    "Bitmaps": "plain",
    "Positions": "plain",
    "Control": "plain, no data",
    "PaillierKey": "public key",
    "Hello": "public key, job",
    "Roster": "public keys",
}
"""How each kind of payload travels; beside it, what goes from party to party is sealed end to end."""


@dataclass(frozen=True, slots=True)
class Sent:
    """Messages of one kind, or that disclose one thing to one role.

    ``what`` is the name of the message, or what it discloses.
    """

    what: str
    senders: tuple[str, ...]
    receivers: tuple[str, ...]
    how: str
    count: int
    values: int
    bytes: int


def learnt(entries: Sequence[Entry], key_owner: str = "") -> list[Sent]:
    """What each role learnt, a line for each thing; roles in order of name, things in order of time."""
    disclosing = [entry for entry in entries if entry.discloses]

    def thing(entry: Entry) -> tuple[str, str, str]:
        return entry.receiver, entry.discloses, how(entry, key_owner)

    lines = [_sum(entry.discloses, group, key_owner) for entry, group in _grouped(disclosing, thing)]
    return sorted(lines, key=lambda line: line.receivers)


def sent(entries: Sequence[Entry], key_owner: str = "") -> list[Sent]:
    """Everything that was sent, a line for each kind of message, in order of time."""
    groups = _grouped(entries, lambda entry: (entry.message, how(entry, key_owner)))
    return [_sum(entry.message, group, key_owner) for entry, group in groups]


def how(entry: Entry, key_owner: str = "") -> str:
    """How a message travelled: plain, masked or encrypted, under whose key, and sealed or not."""
    scheme = SCHEMES.get(entry.kind, entry.kind)
    if scheme == "encrypted":
        scheme = f"encrypted, key of {key_owner}" if key_owner else "encrypted (Paillier)"
    return scheme + (", sealed" if entry.hops > 1 else "")


def whose_key(entries: Iterable[Entry], directory: Path | None = None) -> str:
    """Who holds the private Paillier key: who handed out the public one, else whom the run's report names; or ""."""
    for entry in entries:
        if entry.kind == "PaillierKey":
            return entry.sender
    for folder in () if directory is None else (directory, directory.parent):
        try:
            report = msgspec.json.decode((folder / REPORT).read_bytes(), type=_Report)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            continue
        return report.key_owner
    return ""


class _Training(msgspec.Struct, frozen=True):
    key_holder: str


class _Party(msgspec.Struct, frozen=True):
    name: str
    role: str


class _Report(msgspec.Struct, frozen=True):
    """As much of report.json as it takes to name the holder of the key."""

    training: _Training
    parties: list[_Party]

    @property
    def key_owner(self) -> str:
        """Its name."""
        if self.training.key_holder != "active":
            return self.training.key_holder
        return next((party.name for party in self.parties if party.role == "active"), "")


def size_text(count: int) -> str:
    """Bytes for people.

    >>> size_text(17), size_text(3 << 20)
    ('17 B', '3.0 MiB')
    """
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"


def find_ledgers(path: Path) -> list[Path]:
    """A ledger file, or those of a run's directory: its own, and those of the roles where it has several.

    Raises
    ------
    DataError
        There is none.
    """
    if path.is_file():
        return [path]
    top = path / LEDGER
    if top.is_file():
        roles = sorted({entry.by for entry in read_ledger(top)})
        return [top] if len(roles) < 2 else [top, *(path / role / LEDGER for role in roles)]
    found = [file for file in sorted(path.glob(f"*/{LEDGER}")) if not file.parent.name.startswith(".")]
    if not found:
        raise DataError(f"no ledger in {path}; expected {LEDGER} in the directory of a run, or the file itself")
    return found


def verify_run(directory: Path, against: Sequence[Path] = ()) -> Agreement:
    """Check the chains of a run's ledgers, and compare them with each other and with those that others handed over.

    Parameters
    ----------
    against : sequence of Path
        Ledgers, or directories of runs, of other roles.

    Raises
    ------
    DataError
        Names the first line that is not as it was written, or the first difference.
    """
    own = find_ledgers(directory)
    folder = own[0].parent
    ended = any((place / REPORT).exists() for place in (folder, folder.parent))
    files = dict.fromkeys([*own, *(file for path in against for file in find_ledgers(path))])
    return check_agreement([read_book(file) for file in files], ended=ended)


def agreement_text(agreement: Agreement) -> str:
    """What was compared, in one line."""
    ledgers, lines, messages = agreement.ledgers, agreement.lines, agreement.messages
    unseen = sum(agreement.unseen.values())
    chains = f"{ledgers:,} {_plural('ledger', ledgers)}, {lines:,} {_plural('line', lines)}: chains unbroken"
    if not messages:
        agree = "compared with nobody's"
    elif unseen:
        agree = f"{messages:,} {_plural('message', messages)} agree"
    else:
        agree = f"all {messages:,} messages agree"
    cut = f"; {agreement.cut:,} that a crash or a loss cut short are on one side alone" if agreement.cut else ""
    roles = ", ".join(agreement.unseen)
    rest = f"; {unseen:,} not compared, for the ledger of {roles} is not here (--against)" if unseen else ""
    return f"{chains}, {agree}{cut}{rest}"


def _plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def _grouped(entries: Iterable[Entry], key: Callable[[Entry], object]) -> list[tuple[Entry, list[Entry]]]:
    """Groups of entries with one key, each with its first entry, in order of that."""
    groups: dict[object, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(key(entry), []).append(entry)
    return [(group[0], group) for group in groups.values()]


def _sum(what: str, group: Sequence[Entry], key_owner: str) -> Sent:
    return Sent(
        what=what,
        senders=tuple(dict.fromkeys(entry.sender for entry in group)),
        receivers=tuple(dict.fromkeys(entry.receiver for entry in group)),
        how=how(group[0], key_owner),
        count=len(group),
        values=sum(entry.values for entry in group),
        bytes=sum(entry.bytes for entry in group),
    )
