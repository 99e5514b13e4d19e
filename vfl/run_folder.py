"""The folder of one role's run between companies: what must outlive the process stands in ``.run``.

``.run/state.json`` says which run it is and how far: *running*, *saved* (this role has all it needs) or *ended*
(everybody has). It is replaced whole and is on disk before anything else happens. A process that starts in a folder
whose run has not ended goes on with it; two processes cannot use one folder at a time. The coordinator tells the end to
the parties that come back to ask for it, until it has heard of all that they know.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from parties.checkpoint import ALIGNED, FolderKeeper, Keeper
from parties.durable import write_durably
from parties.errors import ConfigError, DataError
from parties.greeting import Agreed, Standing
from parties.link import COORDINATOR
from vfl.report.summary import RunReport
from vfl.watch import Began, Kept, Warned, Watch

HIDDEN, STATE, LOCK, CHECKPOINTS = ".run", "state.json", "lock", "checkpoints"
_DIGEST = r"^([0-9a-f]{64})?\Z"


class State(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the state file says.

    ``job`` is the digest of all that was agreed, ``data`` that of the party's CSV; empty at the coordinator.
    ``knowing`` are the parties that know of the end and of which the coordinator has heard so.
    """

    role: str
    job: Annotated[str, msgspec.Meta(pattern=_DIGEST)]
    data: Annotated[str, msgspec.Meta(pattern=_DIGEST)] = ""
    run: Annotated[str, msgspec.Meta(max_length=64)] = ""
    generation: Annotated[int, msgspec.Meta(ge=0)] = 0
    progress: Literal["running", "saved", "ended"] = "running"
    knowing: list[Annotated[str, msgspec.Meta(max_length=64)]] = []


@dataclass
class RunFolder:
    """What a role keeps beyond its process; a `vfl.play.Memory`. ``watch`` is told of generations and checkpoints."""

    out: Path
    state: State
    watch: Watch
    warnings: list[str] = field(default_factory=list)
    report: RunReport | None = None

    @property
    def hidden(self) -> Path:
        """Where it stands."""
        return self.out / HIDDEN

    def standing(self, generation: int) -> Standing:
        """How far this role is: the steps of its run of which it has whole checkpoints."""
        if not self.state.run:
            return Standing(generation)
        keeper = self._keeper(self.state.run)
        return Standing(generation, self.state.run, tuple(keeper.steps()))

    def settle(self, agreed: Agreed, generation: int) -> Keeper:
        """Note which run this is; checkpoints of another one are forgotten."""
        if self.state.run and agreed.run != self.state.run:
            self._keeper(self.state.run).forget()
        self._write(run=agreed.run, generation=generation, progress="running")
        keeper = self._keeper(agreed.run)
        keeper.resume_from(agreed.step)
        self.watch(Began(generation, agreed.step - ALIGNED, 0 if agreed.step else len(keeper.buckets())))
        return keeper

    def saved(self) -> None:
        """Note that this role has all it needs; at the coordinator, that everybody has."""
        self._write(progress="saved")

    def heard(self, party: str) -> None:
        """Note that a party knows of the end."""
        self._write(knowing=sorted({*self.state.knowing, party}))

    def end(self) -> None:
        """Note that everybody has, and drop the checkpoints."""
        self._write(progress="ended")
        self.forget()

    def forget(self) -> None:
        """Drop the checkpoints."""
        if self.state.run:
            self._keeper(self.state.run).forget()

    def _keeper(self, run: str) -> FolderKeeper:
        return FolderKeeper(
            self.warnings,
            folder=self.hidden / CHECKPOINTS,
            run=run,
            job=self.state.job,
            party=self.state.role,
            kept=lambda step: self.watch(Kept(step - ALIGNED)),
            told=lambda line: self.watch(Warned(line)),
        )

    def _write(self, **changes: object) -> None:
        self.state = msgspec.structs.replace(self.state, **changes)
        _write_state(self.hidden, self.state)


@contextmanager
def open_run_folder(out: Path, role: str, job: bytes, data: str, watch: Watch, *, resume: bool) -> Iterator[RunFolder]:
    """Take the folder of a run, a new one or one to go on with; nobody else can until it is given back.

    A run that never began, because nobody agreed to it, binds to no job and to no CSV: all may still be corrected.

    Parameters
    ----------
    job : bytes
        Digest of all that was agreed.
    data : str
        Digest of the CSV, hex; empty at the coordinator.
    resume : bool
        There must be a run to go on with, or one that has ended.

    Raises
    ------
    ConfigError
        The folder cannot be used, holds another run, or files that are none; or another process uses it.
    DataError
        The CSV has changed since the run began.
    """
    hidden = out / HIDDEN
    fresh = State(role=role, job=job.hex(), data=data)
    try:
        found = (hidden / STATE).exists()
        _refuse_strangers(out, found=found, resume=resume)
        out.mkdir(parents=True, exist_ok=True, mode=0o700)  # ids and scores of people lie in it
        hidden.mkdir(exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); choose another directory") from None
    with _locked(out, hidden / LOCK):
        if not found:
            _write_state(hidden, fresh)
            yield RunFolder(out, fresh, watch)
            return
        state = _read_state(out, hidden / STATE)
        if state.role == role and not state.run and state.progress == "running":
            state = fresh
            _write_state(hidden, fresh)
        _refuse_other(out, state, fresh)
        folder = RunFolder(out, state, watch)
        if state.progress == "ended":
            folder.forget()  # of a process that was killed before it came to that
            if not resume and (role == COORDINATOR or role in state.knowing):
                raise ConfigError(f"--out {out}: holds a run that has ended; choose another directory")
        yield folder


def digest_of_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes; empty if it cannot be read (whoever reads it next says why)."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _refuse_strangers(out: Path, *, found: bool, resume: bool) -> None:
    """A new run wants a folder that is new or empty."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: got a file, expected a directory that is new or empty; choose another name")
    if found:
        return
    present = sorted(set(os.listdir(out)) - {HIDDEN}) if out.exists() else []
    if resume:
        raise ConfigError(f"--resume: {out} holds no run to go on with; check --out, or leave --resume out")
    if present:
        raise ConfigError(f"--out {out}: holds files that are no run; choose a directory that is new or empty")


def _refuse_other(out: Path, state: State, fresh: State) -> None:
    if state.role != fresh.role:
        raise ConfigError(f"--out {out}: holds a run of '{state.role}', expected one of '{fresh.role}'; choose another")
    if state.job != fresh.job:
        raise ConfigError(f"--out {out}: holds a run of another job, or of other identities; choose another directory")
    if state.data != fresh.data and state.progress != "ended":
        raise DataError(
            f"--out {out}: the CSV of '{state.role}' has changed since this run began; put the old one back, or begin "
            "anew in another directory"
        )


def _read_state(out: Path, path: Path) -> State:
    try:
        return msgspec.json.decode(path.read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        raise ConfigError(f"--out {out}: the state of its run cannot be read; choose another directory") from None


def _write_state(hidden: Path, state: State) -> None:
    write_durably(hidden / STATE, msgspec.json.encode(state) + b"\n")


@contextmanager
def _locked(out: Path, path: Path) -> Iterator[None]:
    try:
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); choose another directory") from None
    try:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"--out {out}: another process is using it; stop that one first") from None
        yield
    finally:
        os.close(number)
