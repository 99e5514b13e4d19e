"""What lies in the directory of a run, read back and checked: the page is made of this and of nothing else.

On one machine the directory has every party's folder; between companies it is one role's own, and only that role's
folder is looked at, whatever else lies there.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from parties.errors import DataError
from parties.ledger import Entry, read_ledger
from parties.link import COORDINATOR
from vfl import __version__
from vfl.report.summary import PartyPart, RunReport

if TYPE_CHECKING:  # they import pandas, which a coordinator's page does not need
    from vfl.kept_run import KeptRun
    from vfl.report.evidence import Evidence

REPORT, LEDGER, MODEL = "report.json", "ledger.jsonl", "model.json"


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """A run as it lies on disk.

    Parameters
    ----------
    role : str or None
        Whose directory it is; None: all roles ran on this machine.
    entries : list of Entry
        The ledger: every message of the run, or every one that the role sent or received.
    evidence : Evidence or None
        Labels and predictions of the test rows, where the active party's folder is there and has them; where several
        silos hold labels those of all of them, or on a silo's own page its own.
    kept : dict of party to KeptRun
        Of the parties whose folders belong here.
    digests : dict of name to str
        SHA-256 of report.json and of the parties' model.json.
    """

    folder: Path
    role: str | None
    report: RunReport
    entries: list[Entry] = field(repr=False)
    evidence: Evidence | None = field(repr=False)
    kept: dict[str, KeptRun] = field(repr=False)
    digests: dict[str, str] = field(repr=False)

    @property
    def active(self) -> PartyPart:
        """The party with the labels; of several silos that hold them, the first one, which leads."""
        return next(party for party in self.report.parties if party.role == "active")

    @property
    def labelled(self) -> list[str]:
        """Who holds labels: the active party, or all silos of the label holder."""
        return [party.name for party in self.report.parties if party.role == "active"]

    @property
    def holders(self) -> dict[str, list[PartyPart]]:
        """Every holder of columns with its silos, in the order of the job; a party without silos is its own."""
        found: dict[str, list[PartyPart]] = {}
        for party in self.report.parties:
            found.setdefault(party.holder or party.name, []).append(party)
        return found

    @property
    def label_holder(self) -> str:
        """The holder of the labels, silos or not."""
        return self.active.holder or self.active.name

    @property
    def passive(self) -> list[str]:
        """The other holders."""
        return [name for name in self.holders if name != self.label_holder]

    @property
    def has_silos(self) -> bool:
        """Whether any holder is made of silos."""
        return any(party.holder for party in self.report.parties)

    @property
    def horizontal(self) -> bool:
        """Whether all are silos of the label holder, so that nothing was aligned and nobody had a key."""
        return self.has_silos and not self.passive

    @property
    def in_rounds(self) -> bool:
        """Whether a network, too, was trained in rounds of averaging, and not in epochs over all rows."""
        averaged = self.report.training.aggregation
        return averaged is not None and (averaged.rule != "fedsgd" or averaged.dp is not None)

    @property
    def judged(self) -> int | None:
        """Test rows that the figures are of: a silo's own page has its own."""
        return self.report.rows["test"] if self.evidence is None else len(self.evidence.y)

    @property
    def in_the_clear(self) -> bool:
        """Whether a network's outputs and gradients went from party to party unencrypted, in mode split."""
        return self.report.training.mode == "split"

    @property
    def shards(self) -> list[str]:
        """Parties whose part of the model lies here and may be shown."""
        return [party.name for party in self.report.parties if f"{party.name}/{MODEL}" in self.digests]


def read_run_directory(folder: Path, role: str | None = None) -> RunDirectory:
    """Read a run's directory.

    Parameters
    ----------
    role : str, optional
        Whose directory it is; by default the party of which the report knows the rows, if there is but one.

    Raises
    ------
    DataError
        It holds no run, or a file of it is damaged or another version's.
    """
    report = read_report(folder / REPORT)
    whose = role if role is not None else _whose(report)
    names = {party.name for party in report.parties}
    if whose is not None and whose not in {*names, COORDINATOR}:
        raise DataError(
            f"{folder / REPORT}: has no role {whose!r}, expected one of the job's; give the run's directory"
        )
    seen = [name for name in names if whose in (None, name)]
    present = [name for name in seen if (folder / name / MODEL).is_file()]
    files = [REPORT, *(f"{party.name}/{MODEL}" for party in report.parties if party.name in present)]
    return RunDirectory(
        folder=folder,
        role=whose,
        report=report,
        entries=read_ledger(folder / LEDGER),
        evidence=_evidence(folder, report, whose),
        kept=_kept(folder, present),
        digests={name: _sha256(folder / name) for name in files},
    )


def read_report(path: Path) -> RunReport:
    """Read ``report.json``.

    Raises
    ------
    DataError
        It is missing, damaged or another version's, or of an alignment alone.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path.parent}: holds no run (report.json: {error.strerror}), expected the directory that 'vfl run', "
            "'vfl join' or 'vfl coordinator' left in --out; check the path"
        ) from None
    version = "unknown"
    try:
        lines = msgspec.json.decode(content)
        version = str(lines["version"])
        if str(lines.get("purpose", "")).startswith("psi"):
            raise DataError(
                f"{path}: got the report of an alignment alone, expected one of a training; what 'vfl psi' found "
                "stands in it, and 'vfl audit' says who learnt what"
            )
        report = msgspec.convert(_filled(lines), RunReport)
        _check(report)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, TypeError, ValueError):
        other = version not in ("unknown", __version__)
        got = f"a report of vfl {version}" if other else "a damaged report"
        way = "use that version of vfl" if other else "put back the file as the run left it"
        raise DataError(f"{path}: got {got}, expected one that vfl {__version__} wrote; {way}") from None
    return report


def _filled(lines: dict[str, Any]) -> dict[str, Any]:
    """The report with what was left out of the file because there was none of it, and losses that are not finite."""
    training = {"validation_loss": []} | lines["training"]
    for name in ("loss", "validation_loss"):
        training[name] = [math.nan if value is None else value for value in training[name]]
    return lines | {"training": training}


def _check(report: RunReport) -> None:
    """What the page takes for granted."""
    labelled = {party.holder or party.name for party in report.parties if party.role == "active"}
    if len(labelled) != 1 or not {"train", "test"} <= set(report.rows):
        raise ValueError("no report of a federation")


def _whose(report: RunReport) -> str | None:
    """Who wrote the report: all, one party, or the coordinator, which knows no party's rows.

    Where all roles ran here, those of a silo that was lost are unknown.
    """
    known = [party.name for party in report.parties if party.rows is not None]
    if len(known) > 1 or len(known) == len(report.parties):
        return None
    return known[0] if known else COORDINATOR


def _evidence(folder: Path, report: RunReport, whose: str | None) -> Evidence | None:
    """What the page may show: of all test rows, or of the role's own."""
    labelled = [party.name for party in report.parties if party.role == "active"]
    if whose is None:
        place = folder if len(labelled) > 1 else folder / labelled[0]
    elif whose in labelled:
        place = folder / whose
    else:
        return None
    if not place.is_dir():
        return None
    from vfl.report.evidence import load_evidence

    return load_evidence(place)


def _kept(folder: Path, names: list[str]) -> dict[str, KeptRun]:
    """What the parties' folders say of the job; folders of earlier versions have no such file."""
    from vfl.kept_run import FILE, load_kept_run

    return {name: load_kept_run(folder / name) for name in names if (folder / name / FILE).is_file()}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
