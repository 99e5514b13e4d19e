"""A party's end of the network: it dials the coordinator, and dials again when the connection breaks.

A *session* is one stay in one generation of the run: `enter` begins it, and it ends with the run, with a failure, or
because another role came back after a crash and all begin anew (``Restarted``; whoever plays the role enters again).
A connection that breaks and comes back within ``reconnect_timeout`` is invisible: see `parties.lane`.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import msgspec

from parties.connection import Connection
from parties.errors import ConfigError, PeerLost, RemoteProtocolError, VflError
from parties.frame import (
    ABORT,
    AGAIN,
    BYE,
    HELLO,
    MESSAGE,
    NEWS,
    PING,
    START,
    WELCOME,
    WITHOUT,
    Frame,
    Header,
    write_frame,
)
from parties.hop import Hop
from parties.inbox import Inbox, short
from parties.link import COORDINATOR
from parties.patience import Patience
from parties.tls import is_final

GRACE_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0


class Greeting(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a party says when it connects: its session, what it has received, and whether the session has begun."""

    session: bytes
    received: int
    started: bool


class Welcome(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the coordinator answers: whether it knows the session, and what it has received."""

    known: bool
    received: int


class _Session:
    """One stay in one generation."""

    def __init__(self, name: str, heartbeat: float) -> None:
        self.id = secrets.token_bytes(16)
        self.hop = Hop(name, COORDINATOR, heartbeat)
        self.inbox = Inbox()
        self.closed = threading.Event()
        self.thread: threading.Thread | None = None
        self.until = 0.0  # though closed, it connects again until then, for its last word may not have been heard
        self.shown = False  # the user was told that there is no connection
        self.news = ""
        self.last = 0  # number of the coordinator's last word, acknowledged once that is noted

    def goes_on(self) -> bool:
        """Whether a connection is of use."""
        closed = self.closed.is_set() and time.monotonic() >= self.until
        return not closed and not self.inbox.over


class PartyTransport:
    """The network as a party sees it.

    Parameters
    ----------
    dial : callable
        Makes a new connection to the coordinator; raises ``OSError`` or ``EOFError`` where that fails.
    tell : callable
        Told in words what the user should know about the connection; empty: all is well again.
    explain : callable
        Says in words why such an error came about; None where that is not known.
    ended : callable
        Called when the run has ended well for everybody, before this party confirms that it knows: to note it durably.
    heard : callable
        Called when the coordinator has hung up after that.
    """

    def __init__(
        self,
        name: str,
        dial: Callable[[], Connection],
        patience: Patience,
        tell: Callable[[str], None],
        explain: Callable[[Exception], str | None],
        *,
        ended: Callable[[], None] = lambda: None,
        heard: Callable[[], None] = lambda: None,
    ) -> None:
        self._note_end, self._note_heard = ended, heard
        self._name = name
        self._dial = dial
        self._explain = explain
        self._patience = patience
        self._tell = tell
        self._session = _Session(name, patience.heartbeat)

    def enter(self) -> int:
        """Join the run, or its next generation, and wait for the others.

        Returns
        -------
        int
            The generation, from 1 on; 0: the run has ended well.
        """
        self._leave()
        session = self._session = _Session(self._name, self._patience.heartbeat)
        name = f"network of {self._name}"
        session.thread = threading.Thread(target=self._stay, args=(session,), name=name, daemon=True)
        session.thread.start()
        generation = session.inbox.wait_for_start()
        if not generation:
            self._confirm(session)
        return generation

    def send(self, frame: Frame) -> None:
        """Send a frame to its receiver by way of the coordinator; waits while too much is on its way."""
        session = self._session
        session.inbox.check()
        while not session.hop.lane.wait_for_room(1.0):
            session.inbox.check()
        session.hop.send(frame)

    def receive(self, peer: str, waiting_for: str) -> Frame:
        """Wait for the next frame of a peer."""
        return self._session.inbox.take(peer, waiting_for)

    def finish(self) -> None:
        """Say that this party has all it needs, and wait until everybody has."""
        self.send(Frame(BYE, Header(self._name, COORDINATOR)))
        session = self._session
        session.inbox.wait_for_farewells({COORDINATOR})
        self._confirm(session)

    def abort(self, reason: str) -> None:
        """Tell the others that this role stops; ``reason`` follows its name: "stopped (DataError)"."""
        session = self._session
        tells = not session.inbox.over
        if tells:
            session.until = time.monotonic() + GRACE_SECONDS
            session.hop.send(Frame(ABORT, Header(self._name, COORDINATOR, short(reason))))
        self._leave(heard=tells)

    def _confirm(self, session: _Session) -> None:
        """Note that the run has ended well, and only then tell the coordinator that this party knows."""
        self._note_end()
        session.hop.deliver(session.last, 0)
        if self._leave(heard=True):
            self._note_heard()

    def _leave(self, *, heard: bool = False) -> bool:
        """End the present session; what was received is acknowledged.

        ``heard``: the coordinator hangs up once it has heard the last word, and is waited for: a connection that is
        closed with bytes unread loses what was on its way. Returns whether it has.
        """
        session = self._session
        session.closed.set()
        if session.hop.connected:
            session.hop.say(PING)
        if heard and session.thread is not None:
            session.thread.join(GRACE_SECONDS)
        hung_up = session.thread is not None and not session.thread.is_alive()
        session.hop.close()
        return hung_up

    def _stay(self, session: _Session) -> None:
        """Keep a session connected until it is over."""
        pause = _FIRST_PAUSE
        hop, last = session.hop, ""
        lost_since = time.monotonic()
        while session.goes_on():
            try:
                self._meet(session, self._dial())
            except VflError as error:
                session.inbox.fail(str(error), kind=type(error))
            except (OSError, EOFError, ValueError) as error:
                last = self._why(session, error)
            except BaseException:
                session.inbox.fail("the connection to the coordinator could not be read")
                raise
            if not session.goes_on():
                break
            if hop.lost_since is not None and hop.lost_since > lost_since:
                lost_since, pause = hop.lost_since, _FIRST_PAUSE
            away = time.monotonic() - lost_since
            if away >= self._patience.reconnect_timeout:
                session.inbox.fail(self._lost(session, away, last))
            elif away >= self._patience.notice:
                self._show(session, f"reconnecting to the coordinator, {away:.0f} s")
            if session.closed.wait(pause):
                time.sleep(_FIRST_PAUSE)
            pause = min(2 * pause, _LONGEST_PAUSE)
        self._show(session, "")

    def _why(self, session: _Session, error: Exception) -> str:
        """What is wrong with the connection; where a certificate is refused, the session fails."""
        reason = self._explain(error) or ""
        if is_final(error):
            session.inbox.fail(reason, kind=ConfigError)
        if isinstance(error, ConnectionRefusedError):
            session.until = 0.0  # nobody is there to hear it
        return reason

    def _show(self, session: _Session, text: str) -> None:
        """Tell the user, and once that it is over."""
        if text or session.shown:
            session.shown = bool(text)
            self._tell(text)

    def _lost(self, session: _Session, away: float, last: str) -> str:
        if not self._patience.reconnect_timeout:
            return "the coordinator is gone"
        begun = "is gone" if session.inbox.started else "cannot be reached"
        reason = f" ({short(last)})" if last else ""
        return f"the coordinator {begun}: no connection for {away:.0f} s{reason}"

    def _meet(self, session: _Session, connection: Connection) -> None:
        """Say who this is, hear what the coordinator has, and use the connection until it breaks."""
        hop = session.hop
        greeting = Greeting(session.id, hop.lane.received, session.inbox.started)
        try:
            hello = Frame(HELLO, Header(self._name, COORDINATOR), msgspec.msgpack.encode(greeting))
            with suppress(OSError):  # one who refuses this end hangs up; why is there to be read
                connection.write(write_frame(hello))
            welcome = _read_welcome(connection, session.inbox)
            if welcome is None:
                session.closed.wait()  # until the end is noted
                connection.write(write_frame(Frame(PING, Header(self._name, COORDINATOR))))
                connection.read()
                return
            if not welcome.known:
                session.inbox.restart()
                return
            if session.closed.is_set() and not hop.lane.lacking(welcome.received):
                session.until = 0.0  # the last word was heard
                return
            self._show(session, "")
            hop.serve(connection, welcome.received, lambda frame, size: self._sort(session, frame, size))
        except RemoteProtocolError as error:
            raise PeerLost(f"the coordinator's connection broke: {error}") from error
        finally:
            connection.shut()

    def _sort(self, session: _Session, frame: Frame, size: int) -> bool:
        """Act on one frame; whether more may come."""
        inbox, sender, text = session.inbox, frame.header.sender, short(frame.header.message)
        if frame.kind == MESSAGE:
            inbox.put(frame)
        elif frame.kind == START:
            inbox.start(_generation(frame))
        elif frame.kind == BYE:
            session.last = frame.number if sender == COORDINATOR else session.last
            inbox.leave(sender)
            if sender == COORDINATOR and not inbox.started:
                inbox.start(0)
        elif frame.kind == AGAIN:
            inbox.restart()
            return False
        elif frame.kind == WITHOUT:
            inbox.lose(sender, text)
        elif frame.kind == NEWS:
            if text != session.news:
                session.news = text
                self._tell(text)
        else:
            orderly = frame.kind == ABORT and sender != COORDINATOR
            inbox.fail(f"{sender} {text}", GRACE_SECONDS if orderly else 0.0)
        if frame.number and frame.number != session.last:
            session.hop.deliver(frame.number, size)
        return True


def _read_welcome(connection: Connection, inbox: Inbox) -> Welcome | None:
    """Return the coordinator's answer; None where it says how the run has ended.

    Raises
    ------
    PeerLost
        The run goes on without this party.
    """
    frame = connection.read()
    if frame.kind == BYE:
        inbox.leave(COORDINATOR)
        inbox.start(0)
        return None
    if frame.kind == ABORT:
        raise PeerLost(f"{COORDINATOR} {short(frame.header.message)}")
    if frame.kind != WELCOME:
        raise RemoteProtocolError("the coordinator did not say welcome")
    try:
        return msgspec.msgpack.decode(frame.body, type=Welcome)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"malformed welcome: {error}") from error


def _generation(frame: Frame) -> int:
    if len(frame.body) != 4 or not any(frame.body):
        raise RemoteProtocolError("the coordinator began a run without a generation")
    return int.from_bytes(frame.body, "little")
