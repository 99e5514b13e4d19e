"""What a role of a job between companies tells whoever watches it: the terminal, the log, the metrics.

A watch is a function of one notice; all watches get the same. `Moment` is what they have heard so far in a form to be
shown: what the role does, what it waits for, and whom it cannot reach.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from parties.ledger import Entry
from vfl.events import Event


@dataclass(frozen=True, slots=True)
class Awaited:
    """What the role waits for, such as "glm_exact.products from bank"; empty: it goes on."""

    text: str


@dataclass(frozen=True, slots=True)
class Network:
    """What the user should know about connections; empty: all is well."""

    text: str


@dataclass(frozen=True, slots=True)
class Dialled:
    """The coordinator was dialled: why there is no connection; empty: there is one."""

    trouble: str


@dataclass(frozen=True, slots=True)
class Began:
    """All roles are there, once more after a crash, and go on after so many rounds; -1: from the beginning.

    Then ``buckets`` of a long alignment are kept here.
    """

    generation: int
    rounds: int
    buckets: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """There is a checkpoint after so many rounds; 0: of the alignment."""

    rounds: int


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that the user should know at once, and that does not end the run."""

    text: str


Notice = Event | Entry | Awaited | Network | Dialled | Began | Kept | Warned
Watch = Callable[[Notice], None]
"""Called from several threads; must not raise, must not take long."""

JOINING = re.compile(r"waiting for (.+) to join\Z")
RECONNECTING = re.compile(r"(\S+) is reconnecting\Z")
COME_BACK = re.compile(r"(\S+) has come back; ")
LASTING = re.compile(r", (\d+) s\Z")


def all_of(*watches: Watch) -> Watch:
    """Several that watch as one."""

    def watch(notice: Notice) -> None:
        for one in watches:
            one(notice)

    return watch


@dataclass(frozen=True, slots=True)
class Standstill:
    """What a role waits for, for how many seconds, and why that takes long, where it is known.

    >>> str(Standstill("waiting for residual from bank", 12)), str(Standstill("bank is gone", 5, counted=False))
    ('waiting for residual from bank, 12 s', 'bank is gone')
    """

    text: str
    seconds: float
    why: str = ""
    counted: bool = True

    def __str__(self) -> str:
        lasting = f", {duration(self.seconds)}" if self.counted else ""
        return f"{self.text}{lasting}{f' ({self.why})' if self.why else ''}"


@dataclass
class _Since:
    """A text that stands for a while, and since when on the monotonic clock."""

    text: str = ""
    begun: float = 0.0

    def set(self, text: str, begun: float) -> None:
        """Put another text in its place; the same one stands on."""
        if text != self.text:
            self.text, self.begun = text, begun


@dataclass
class Moment:
    """What a role has told so far; it is a watch itself."""

    phase: str = "starting"
    round: int = 0
    generation: int = 0
    joined: bool = False
    """The coordinator has answered once."""
    _begun: float = field(default_factory=time.monotonic)
    _awaited: _Since = field(default_factory=_Since)
    _trouble: _Since = field(default_factory=_Since)
    _dialling: _Since = field(default_factory=_Since)
    _waited: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __call__(self, notice: Notice) -> None:
        """Hear one notice."""
        now = time.monotonic()
        with self._lock:
            match notice:
                case Event():
                    self.phase, self.round = notice.phase, max(self.round, 0 if notice.parts else notice.round)
                case Awaited(text):
                    self._go_on(now)
                    self._awaited = _Since(text, now)
                case Network(text):
                    lasting = LASTING.search(text)
                    self._trouble.set(LASTING.sub("", text), now - float(lasting[1] if lasting else 0))
                case Dialled(trouble):
                    if not (trouble and self._dialling.text):  # another reason for the same silence
                        self._dialling.begun = now
                    self._dialling.text, self.joined = trouble, self.joined or not trouble
                case Began(generation, rounds, _):
                    self._go_on(now)
                    self._awaited, self._trouble = _Since(), _Since()
                    self.generation, self.round = generation, max(rounds, 0)
                case Kept(rounds):
                    self.round = max(self.round, rounds)
                case Entry() | Warned():
                    pass

    def seconds(self) -> tuple[float, float]:
        """Seconds spent waiting for others, until the first meeting all of them, and seconds spent computing."""
        now = time.monotonic()
        with self._lock:
            waited = self._waited + self._waiting(now)
            return waited, max(0.0, now - self._begun - waited)

    def standstill(self) -> Standstill | None:
        """What keeps this role from going on, gravest first; None: it computes."""
        now = time.monotonic()
        with self._lock:
            why, met = self._dialling.text, self.generation > 0
            if why and not met:
                return Standstill("dialling the coordinator", now - self._dialling.begun, why)
            if text := self._trouble.text:
                counted = not RECONNECTING.match(text) and "; " not in text
                return Standstill(text, now - self._trouble.begun, why, counted)
            if self._awaited.text:
                return Standstill(in_words(self._awaited.text), now - self._awaited.begun)
            if self.joined and not met:
                return Standstill("waiting for the others to join", now - self._dialling.begun)
        return None

    def _waiting(self, now: float) -> float:
        """Seconds of the present wait."""
        if not self.generation:
            return now - self._begun
        return now - self._awaited.begun if self._awaited.text else 0.0

    def _go_on(self, now: float) -> None:
        self._waited = now - self._begun if not self.generation else self._waited + self._waiting(now)


def in_words(awaited: str) -> str:
    """What a role waits for, as people say it.

    >>> in_words("glm_exact.products from bank")
    'waiting for products from bank'
    """
    message, _, peer = awaited.partition(" from ")
    return f"waiting for {message.rpartition('.')[2].replace('_', ' ')} from {peer}"


def duration(seconds: float) -> str:
    """How long something lasts, for people.

    >>> duration(12.3), duration(75), duration(3700)
    ('12 s', '1 min 15 s', '1 h 1 min')
    """
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
