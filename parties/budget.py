"""What a party has let others learn over all its runs on one alignment, counted before each answer.

Two things are counted per alignment (`psi.align.Alignment.digest`): equations on passive columns, one per vector of
summed scores that the active party opens, and rows scored jointly. Every run adds an entry before it answers; an entry
is never taken back. A run that goes on after a crash repeats evaluations: the same number with the very same weights
finds its entry again, with the count that it had then, so that it decides as it did then; the same number with other
weights is another equation.

With a path the entries are kept in a file of the party's own: one line of JSON and one with its SHA-256, replaced whole
and on disk before the answer leaves. Of weights and rows the file holds digests only.

>>> import numpy as np
>>> budget = Budget()
>>> [budget.spend_evaluation(number, np.ones((3, 1)) * number) for number in (1, 2, 2)]
[1, 2, 2]
>>> budget.spend_evaluation(2, np.zeros((3, 1)))
3
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from parties.durable import write_durably
from parties.errors import LocalProtocolError, PolicyError

Kind = Literal["opened", "scored"]
Permit = Callable[[int], None]

Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Count = Annotated[int, Meta(ge=0, lt=2**53)]


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One answer of one run.

    Attributes
    ----------
    number : int
        Which evaluation of its run, or which scoring.
    content : str
        SHA-256 (hex) of what the answer depends on at this party; empty at the active party, which has no own part.
    size : int
        Equations, or rows.
    count : int
        The same over all runs so far, this answer included.
    """

    run: Annotated[str, Meta(min_length=1, max_length=200)]
    number: Annotated[int, Meta(ge=1, lt=2**53)]
    content: Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?\Z")]
    size: _Count
    count: _Count


class Account(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Everything spent on one alignment; ``columns``: equations that the last run could have opened, 0 if unknown."""

    columns: _Count = 0
    opened: list[Entry] = msgspec.field(default_factory=list)
    scored: list[Entry] = msgspec.field(default_factory=list)

    def entries(self, kind: Kind) -> list[Entry]:
        """Entries of one kind in the order in which they were spent."""
        return self.opened if kind == "opened" else self.scored

    def total(self, kind: Kind) -> int:
        """How much is spent."""
        entries = self.entries(kind)
        return entries[-1].count if entries else 0


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1] = 1
    alignments: dict[Digest, Account] = msgspec.field(default_factory=dict)


@dataclass(frozen=True)
class Left:
    """What is left of the budgets of one alignment.

    Attributes
    ----------
    alignment : str
        The digest of its ids (hex).
    runs : int
        Runs that have spent something.
    equations, rows : int
        Spent so far.
    equations_left, rows_left : int or None
        None: unknown, or no limit. Scores stop (or are rounded, with consent) when no equation is left.
    """

    alignment: str
    runs: int
    equations: int
    rows: int
    equations_left: int | None
    rows_left: int | None


@dataclass
class Budget:
    """Counts of one party; without a file (`Budget.open`) those of the present run alone."""

    path: Path | None = None
    run: str = "this run"
    _alignment: str | None = field(default=None, repr=False)
    _account: Account = field(default_factory=Account, repr=False)

    @classmethod
    def open(cls, path: Path, run: str) -> Budget:
        """Budget that is kept in a file; a missing one is made, a damaged one refused.

        Parameters
        ----------
        path : Path
            In a folder of the party's own that all its runs share.
        run : str
            The run's id: another one for every run, the same when a run goes on after a crash.

        Raises
        ------
        PolicyError
            The file is damaged or cannot be written.
        """
        if not 0 < len(run) <= 200:
            raise LocalProtocolError("a run needs an id of 1 to 200 characters to be counted by")
        budget = cls(path, run)
        with budget._locked():
            if path.exists():
                _read(path)
            else:
                _write(path, _File())
        return budget

    def bind(self, digest: str) -> None:
        """Name the alignment that is spent on from here (`psi.align.Alignment.digest`)."""
        self._alignment = digest

    def evaluations(self, of_this_run: int, scores: int = 1) -> int:
        """Vectors of scores opened over all runs on this alignment, one that is still to come included.

        Parameters
        ----------
        of_this_run : int
            Number of that one in the present run, from 1.
        scores : int
            Scores per row; what other runs opened counts in units of these, rounded up.
        """
        with self._open_account() as account:
            return -(-self._foreseen(account, "opened", of_this_run, scores) // scores)

    def rows(self, coming: int, number: int = 1) -> int:
        """Rows scored jointly over all runs on this alignment, ``coming`` ones of this run's scoring included."""
        with self._open_account() as account:
            return self._foreseen(account, "scored", number, coming)

    def spend_evaluation(
        self,
        number: int,
        weights: NDArray[np.float64] | None = None,
        *,
        scores: int = 1,
        columns: int = 0,
        permit: Permit | None = None,
    ) -> int:
        """Count one evaluation, on disk when this returns.

        Parameters
        ----------
        number : int
            Which of the present run, from 1.
        weights : ndarray of shape (d, scores), float64
            A passive party's own; None at the active party.
        scores : int
            Scores per row.
        columns : int
            Passive columns in all, so that `left` can say what is left.
        permit : callable, optional
            Called with what this returns before it is counted; raises to forbid it.

        Returns
        -------
        int
            Vectors of scores opened over all runs on this alignment, this one included; what it was the first time
            where this run has opened the very same before.
        """
        content = "" if weights is None else _sha256([str(weights.shape).encode(), weights.tobytes()])
        judge = None if permit is None else lambda equations: permit(-(-equations // scores))
        return -(-self._spend("opened", number, content, scores, judge, columns) // scores)

    def spend_rows(self, number: int, rows: int, content: Sequence[bytes], permit: Permit | None = None) -> int:
        """Count rows that are scored jointly, on disk when this returns.

        Parameters
        ----------
        number : int
            Which scoring of the present run, from 1.
        content : sequence of bytes
            What the answers depend on at this party.
        permit : callable, optional
            As in `spend_evaluation`.

        Returns
        -------
        int
            Rows over all runs on this alignment, these included.
        """
        return self._spend("scored", number, _sha256(content), rows, permit)

    def _spend(self, kind: Kind, number: int, content: str, size: int, permit: Permit | None, columns: int = 0) -> int:
        with self._locked(), self._open_account(save=True) as account:
            again = [
                entry
                for entry in account.entries(kind)
                if (entry.run, entry.number, entry.content, entry.size) == (self.run, number, content, size)
            ]
            count = again[0].count if again else _next_count(account, kind, number, size)
            if permit is not None:
                permit(count)
            if not again:
                entry = Entry(run=self.run, number=number, content=content, size=size, count=count)
                account.entries(kind).append(entry)
            account.columns = columns or account.columns
        return count

    def _foreseen(self, account: Account, kind: Kind, number: int, size: int) -> int:
        """The count that an answer had, or will have."""
        mine = (self.run, number, size)
        known = [entry.count for entry in account.entries(kind) if (entry.run, entry.number, entry.size) == mine]
        return known[-1] if known else _next_count(account, kind, number, size)

    @contextmanager
    def _open_account(self, *, save: bool = False) -> Iterator[Account]:
        """The account of the alignment, as the file has it now; written back if it ends well."""
        if self.path is None:
            yield self._account
            return
        if self._alignment is None:
            raise LocalProtocolError("the budget is asked before the alignment that it is counted by is known")
        file = _read(self.path)
        account = file.alignments.setdefault(self._alignment, Account())
        before = msgspec.json.encode(account)
        yield account
        if save and msgspec.json.encode(account) != before:
            _write(self.path, file)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with the file, among all processes; the system lets go of the lock when its holder dies."""
        if self.path is None:
            yield
            return
        try:
            lock = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(self.path, error) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def left(path: Path, scored_rows: int | None = None) -> tuple[Left, ...]:
    """What is left of every alignment's budgets.

    Parameters
    ----------
    path : Path
        The file; where there is none nothing is spent.
    scored_rows : int or None
        As the party's policy has it.

    Raises
    ------
    PolicyError
        The file is damaged.
    """
    if not path.exists():
        return ()
    return tuple(_left(digest, account, scored_rows) for digest, account in _read(path).alignments.items())


def _left(digest: str, account: Account, scored_rows: int | None) -> Left:
    equations, rows = account.total("opened"), account.total("scored")
    return Left(
        alignment=digest,
        runs=len({entry.run for entry in (*account.opened, *account.scored)}),
        equations=equations,
        rows=rows,
        equations_left=max(account.columns - 1 - equations, 0) if account.columns else None,
        rows_left=None if scored_rows is None else max(scored_rows - rows, 0),
    )


def _next_count(account: Account, kind: Kind, number: int, size: int) -> int:
    """Count of a new answer; no less than the run itself must have asked for by then."""
    own = number * size if kind == "opened" else size
    return max(account.total(kind) + size, own)


def _sha256(parts: Sequence[bytes]) -> str:
    """SHA-256 over parts, each after its length."""
    digest = hashlib.sha256(b"vfl budget v1|")
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _read(path: Path) -> _File:
    """Read the file, checked line by line."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unusable(path, error) from None
    line, _, seal = content.partition(b"\n")
    if not hmac.compare_digest(seal, hashlib.sha256(line).hexdigest().encode() + b"\n"):
        raise _damaged(path, "its checksum does not fit")
    try:
        file = msgspec.json.decode(line, type=_File)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _damaged(path, "it is no budget of this version") from None
    for account in file.alignments.values():
        for entries in (account.opened, account.scored):
            counts = [0, *(entry.count for entry in entries)]
            if any(now < last + entry.size for last, now, entry in zip(counts, counts[1:], entries, strict=False)):
                raise _damaged(path, "its counts do not add up")
    return file


def _write(path: Path, file: _File) -> None:
    """Replace the file; it is on disk when this returns."""
    line = msgspec.json.encode(file)
    try:
        write_durably(path, line + b"\n" + hashlib.sha256(line).hexdigest().encode() + b"\n")
    except OSError as error:
        raise _unusable(path, error) from None


def _damaged(path: Path, why: str) -> PolicyError:
    return PolicyError(
        f"budget {path}: damaged, {why}; expected the file as the last run left it; it counts what others have learnt "
        "and is not begun anew by itself: restore it, or remove it if you accept that earlier runs are not counted"
    )


def _unusable(path: Path, error: OSError) -> PolicyError:
    reason = error.strerror or type(error).__name__
    return PolicyError(
        f"budget {path}: cannot be used ({reason}), expected a file of this party's own that it may write; nothing was "
        "sent that is not counted"
    )
