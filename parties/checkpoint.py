"""Checkpoints of one role: what it needs to go on after a crash, one file per step.

Step 0 is the beginning, step 1 the alignment, step 1 + r the state after r rounds of training. A long alignment goes
bucket by bucket (`psi.progress`); each has a file of its own until the first round of training is kept.

All roles go on from the newest step that all of them hold. They work in lockstep, none more than a round ahead of
another, so that each keeps the newest three rounds and asks nobody before it drops an older one:
``docs/decisions/checkpoints.md`` has the argument, and ``parties.checkpoint_file`` the format.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from parties.checkpoint_file import Arrays as Arrays
from parties.checkpoint_file import Fact as Fact
from parties.checkpoint_file import Header, entries, read_arrays, read_header, write_checkpoint
from parties.durable import sync_folder
from parties.errors import DataError, LocalProtocolError

ALIGNED = 1
ROUNDS_KEPT = 3

T = TypeVar("T")


@dataclass(frozen=True)
class Snapshot:
    """What a role kept at one step: plain facts, and arrays by name."""

    step: int
    facts: dict[str, Fact] = field(repr=False)
    arrays: Arrays = field(repr=False)

    def floats(self, name: str) -> NDArray[np.float64]:
        """An array of float64; raises ``DataError`` if there is no such one."""
        array = self.arrays.get(name)
        if array is None or array.dtype != np.float64:
            raise DataError(f"a checkpoint of step {self.step} without {name}; was it kept by another version of vfl?")
        return np.asarray(array, dtype=np.float64)

    def integers(self, name: str) -> NDArray[np.int64]:
        """An array of int64; raises ``DataError`` if there is no such one."""
        array = self.arrays.get(name)
        if array is None or array.dtype != np.int64:
            raise DataError(f"a checkpoint of step {self.step} without {name}; was it kept by another version of vfl?")
        return np.asarray(array, dtype=np.int64)

    def fact(self, name: str, kind: type[T]) -> T:
        """A fact of the type given, which may be a dataclass; raises ``DataError`` if there is no such one."""
        try:
            return msgspec.convert(self.facts.get(name), kind)
        except msgspec.ValidationError:
            raise DataError(
                f"a checkpoint of step {self.step} without {name}; was it kept by another version of vfl?"
            ) from None


@dataclass
class Keeper:
    """Keeps a role's snapshots; this one, without a folder, keeps none and goes on from nowhere.

    Parameters
    ----------
    warnings : list of str
        What could not be read or kept, once each.
    """

    warnings: list[str] = field(default_factory=list)

    def steps(self) -> list[int]:
        """Steps of which a whole snapshot is held, ascending."""
        return []

    def resume_from(self, step: int) -> None:
        """Settle the step that all roles go on from (0: the beginning); later ones are forgotten."""

    @property
    def rounds(self) -> int:
        """Rounds of training that are done already."""
        return 0

    def aligned(self) -> Snapshot | None:
        """The alignment, if the run goes on from a step behind it."""
        return None

    def trained(self) -> Snapshot | None:
        """The training's state after `rounds` rounds; None if it begins."""
        return None

    def buckets(self) -> list[dict[str, Fact]]:
        """Facts of the buckets of the alignment that are held whole, from the first on without a gap."""
        return []

    def bucket(self, number: int) -> Snapshot:
        """One of `buckets`."""
        raise LocalProtocolError(f"no bucket {number} of the alignment is kept")

    def save_bucket(self, number: int, facts: Mapping[str, Fact], arrays: Arrays) -> None:
        """Keep one bucket of the alignment."""

    def forget_buckets(self, begin: int = 0) -> None:
        """Remove the buckets from this one on."""

    def save_aligned(self, facts: Mapping[str, Fact], arrays: Arrays) -> None:
        """Keep the alignment."""

    def save_round(self, rounds: int, facts: Mapping[str, Fact], arrays: Arrays) -> None:
        """Keep the state after so many rounds."""

    def once(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """Arrays that a run draws once: those kept under the name, else what ``make`` returns, kept before it is used.

        They stay whatever step the run goes on from.
        """
        return make()

    def forget(self) -> None:
        """Remove everything, once the run has ended everywhere."""


@dataclass
class FolderKeeper(Keeper):
    """Keeps a role's snapshots in a folder of its own: the alignment always, and the newest three rounds.

    A snapshot that cannot be written is given up with a warning, and the run goes on: a crash then costs more rounds.

    Parameters
    ----------
    folder : Path
        Made when something is first kept.
    run, job, party : str
        Run id, digest of the job, and the role; files of others are not used.
    kept, told : callable
        Told the step of every snapshot that is on disk, and every warning, as it happens.
    """

    folder: Path = field(kw_only=True)
    run: str = field(kw_only=True)
    job: str = field(kw_only=True)
    party: str = field(kw_only=True)
    kept: Callable[[int], None] = field(default=lambda step: None, kw_only=True, repr=False)
    told: Callable[[str], None] = field(default=lambda line: None, kw_only=True, repr=False)
    _step: int = field(default=0, init=False)

    def steps(self) -> list[int]:
        """Steps of which a whole snapshot is held, ascending; without the alignment none of the others is any use."""
        held = [step for step in self._found() if self._verified(self._path(step), step) is not None]
        return held if ALIGNED in held else []

    def resume_from(self, step: int) -> None:
        """Settle the step that all roles go on from (0: the beginning); later ones are forgotten.

        Raises
        ------
        LocalProtocolError
            If there is no whole snapshot of that step.
        """
        if step != 0 and step not in self.steps():
            raise LocalProtocolError(f"{self.party} holds no whole checkpoint of step {step} and cannot go on from it")
        self._step = step
        self._remove([*map(self._path, self._found(after=step)), *self.folder.glob("*.ckpt.new")])
        if step >= ALIGNED:
            self.forget_buckets()

    @property
    def rounds(self) -> int:
        """Rounds of training that are done already."""
        return max(self._step - ALIGNED, 0)

    def aligned(self) -> Snapshot | None:
        """The alignment, if the run goes on from a step behind it."""
        return self._read(self._path(ALIGNED), ALIGNED) if self._step >= ALIGNED else None

    def trained(self) -> Snapshot | None:
        """The training's state after `rounds` rounds; None if it begins."""
        return self._read(self._path(self._step), self._step) if self._step > ALIGNED else None

    def buckets(self) -> list[dict[str, Fact]]:
        """Facts of the buckets of the alignment that are held whole, from the first on without a gap."""
        held: list[dict[str, Fact]] = []
        while (path := self._bucket_path(len(held))).exists():
            header = self._verified(path, 0, path.stem)
            if header is None:
                break
            held.append(header.facts)
        return held

    def bucket(self, number: int) -> Snapshot:
        """One of `buckets`."""
        path = self._bucket_path(number)
        return self._read(path, 0, path.stem)

    def save_bucket(self, number: int, facts: Mapping[str, Fact], arrays: Arrays) -> None:
        """Keep one bucket of the alignment."""
        path = self._bucket_path(number)
        self._save(path, 0, facts, arrays, path.stem)

    def forget_buckets(self, begin: int = 0) -> None:
        """Remove the buckets from this one on."""
        kept = {self._bucket_path(number) for number in range(begin)}
        self._remove([path for path in self.folder.glob("bucket *.ckpt") if path not in kept])

    def save_aligned(self, facts: Mapping[str, Fact], arrays: Arrays) -> None:
        """Keep the alignment."""
        if self._save(self._path(ALIGNED), ALIGNED, facts, arrays):
            self.kept(ALIGNED)

    def save_round(self, rounds: int, facts: Mapping[str, Fact], arrays: Arrays) -> None:
        """Keep the state after so many rounds, and drop what no role can go back to any more."""
        if rounds < 1:
            raise LocalProtocolError(f"a checkpoint after {rounds} rounds; the first is kept after one")
        step = ALIGNED + rounds
        if self._save(self._path(step), step, facts, arrays):
            self.kept(step)
            self.forget_buckets()
            self._remove([self._path(step) for step in self._found(after=ALIGNED)[:-ROUNDS_KEPT]])

    def once(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """Arrays that a run draws once: those kept under the name, else what ``make`` returns, kept before it is used.

        They stay whatever step the run goes on from.

        Raises
        ------
        DataError
            If they cannot be kept, or no longer be read: nothing is drawn twice.
        """
        path = self.folder / f"once {name}.ckpt"
        try:
            with path.open("rb") as file:
                return read_arrays(file, self._checked(file, 0, name))
        except FileNotFoundError:
            arrays = make()
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path}: cannot be read ({_reason(error)}); it was drawn for this run once and must not be drawn "
                "again: start a new run"
            ) from None
        try:
            self._write(path, 0, name, {}, arrays)
        except OSError as error:
            raise DataError(
                f"{path}: cannot be written ({_reason(error)}); it must be kept before it is used: make room and start "
                "again"
            ) from None
        return arrays

    def forget(self) -> None:
        """Remove everything, once the run has ended everywhere."""
        self._remove([*self.folder.glob("*.ckpt"), *self.folder.glob("*.ckpt.new")])
        with suppress(OSError):  # there never was a folder, or it holds what is not ours
            self.folder.rmdir()

    def _path(self, step: int) -> Path:
        return self.folder / f"step {step}.ckpt"

    def _found(self, after: int = 0) -> list[int]:
        """Later steps that have a file, whatever it holds, ascending."""
        texts = [path.stem.removeprefix("step ") for path in self.folder.glob("step *.ckpt")]
        numbers = [int(text) for text in texts if text.isascii() and text.isdecimal() and text == str(int(text))]
        return sorted(number for number in numbers if number > after)

    def _bucket_path(self, number: int) -> Path:
        return self.folder / f"bucket {number}.ckpt"

    def _verified(self, path: Path, step: int, name: str = "") -> Header | None:
        """Header of a file that is whole and this role's; else None, and a warning."""
        try:
            with path.open("rb") as file:
                return self._checked(file, step, name)
        except (OSError, ValueError) as error:
            self._warn(f"{path}: not used as a checkpoint: {_reason(error)}")
            return None

    def _read(self, path: Path, step: int, name: str = "") -> Snapshot:
        try:
            with path.open("rb") as file:
                header = self._checked(file, step, name)
                return Snapshot(step, header.facts, read_arrays(file, header))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: was whole before and now is not ({_reason(error)}); start again") from None

    def _checked(self, file: BinaryIO, step: int, name: str = "") -> Header:
        """Header of a file that is whole and this role's; the file then stands before its arrays."""
        header = read_header(file)
        mine = {"run": self.run, "job": self.job, "party": self.party, "step": step, "name": name}
        foreign = [what for what, value in mine.items() if getattr(header, what) != value]
        if foreign:
            raise ValueError(f"it is of another {foreign[0]}")
        return header

    def _save(self, path: Path, step: int, facts: Mapping[str, Fact], arrays: Arrays, name: str = "") -> bool:
        """Write a snapshot; False, and one warning, if the disk does not take it."""
        try:
            self._write(path, step, name, facts, arrays)
        except OSError as error:
            self._warn(
                f"{self.folder}: checkpoints cannot be written ({_reason(error)}); the run goes on, and once "
                "interrupted it starts again from an older one"
            )
            return False
        return True

    def _write(self, path: Path, step: int, name: str, facts: Mapping[str, Fact], arrays: Arrays) -> None:
        header = Header(self.run, self.job, self.party, step, name, dict(facts), entries(arrays))
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_checkpoint(path, header, arrays)

    def _remove(self, paths: list[Path]) -> None:
        """Remove files; one that stays does no harm."""
        for path in paths:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        if paths:
            with suppress(OSError):
                sync_folder(self.folder)

    def _warn(self, line: str) -> None:
        if line not in self.warnings:
            self.warnings.append(line)
            self.told(line)


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
