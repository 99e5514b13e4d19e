"""The coordinator's end of the network: it alone listens, and passes on what it cannot read.

Party-to-party bodies are sealed (`parties.sealing`); the hub sees who sends how much to whom. Each party has a *seat*
in the present generation. A party that connects with a new session while a generation runs is one that came back after
a crash: the generation ends, everybody enters again, and the next one begins when all are there. A party that has no
connection for ``reconnect_timeout`` ends the run for all; so does the first error of any role. All name the same cause.

Where the coordinator *tolerates* the loss of some parties, the run goes on without one that is lost, fails, or is
dismissed, as long as enough of them are left. Such a party is out for good, and so is from then on one that comes back
after a crash, since a generation begins with everybody.

Strangers get no further than the TLS handshake, which wants a pinned certificate within seconds; of those who hold
connections half open the oldest make room.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import msgspec

from parties.connection import Connection
from parties.dial import GRACE_SECONDS, Greeting, Welcome
from parties.errors import PeerLost, RemoteProtocolError
from parties.frame import (
    ABORT,
    AGAIN,
    BYE,
    HELLO,
    LOST,
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
from parties.tls import is_final, why_refused

MAX_STRANGERS = 256  # connections whose TLS handshake is not done
MAX_REFUSALS = 20  # that are told of
_NEWS_SECONDS = 2.0  # who takes no news by then holds up nobody
_TICK = 0.5


@dataclass(eq=False)
class _Seat:
    """A party's place in a generation."""

    name: str
    session: bytes = field(repr=False)
    hop: Hop = field(repr=False)
    noticed: bool = False


class HubTransport:
    """The network as the coordinator sees it.

    Parameters
    ----------
    listener : socket
        Listening; the hub closes it in the end.
    context : SSLContext
        Of `parties.tls.server_context`.
    identify : callable
        Whose certificate (DER) a connection has; raises ``RemoteProtocolError`` where nobody's.
    parties : sequence of str
    tell : callable
        Told in words what the user should know about the connections; empty: all is well again.
    generation : int
        The last one before the coordinator itself came back after a crash.
    ended : callable
        Called when every party has all it needs, before any party hears so: to note it durably.
    heard : callable
        Called with the name of every party that has confirmed that it knows so, or that the run went on without: to
        note it durably.
    refused : callable
        Told in words of certificates that are nobody's.
    knowing : collection of str
        Parties that had confirmed it before the coordinator itself came back.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        identify: Callable[[bytes | None], str],
        parties: list[str],
        patience: Patience,
        tell: Callable[[str], None],
        *,
        generation: int = 0,
        ended: Callable[[], None] = lambda: None,
        heard: Callable[[str], None] = lambda name: None,
        refused: Callable[[str], None] = lambda text: None,
        knowing: Collection[str] = (),
    ) -> None:
        self._listener = listener
        self._context = context
        self._identify = identify
        self._parties = parties
        self._patience = patience
        self._tell = tell
        self._changed = threading.Condition()
        self._seats: dict[str, _Seat] = {}
        self._inbox = Inbox()
        self._strangers: deque[socket.socket] = deque()
        self._generation = generation
        self._begun = False
        self._note_end, self._note_heard, self._note_refused = ended, heard, refused
        self._refusals: set[str] = set()
        self._knowing = set(knowing)
        self._missing = ""  # who has not joined yet, in words
        self._gathering_since = time.monotonic()
        self._running = self._ended = False
        self._tolerated: frozenset[str] = frozenset()
        self._least = 0
        self._without: dict[str, str] = {}  # parties that the run goes on without, and how each was lost
        self._closed = threading.Event()
        self._stopping = threading.Lock()
        threading.Thread(target=self._accept, name="listener", daemon=True).start()
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def enter(self) -> int:
        """Wait until every party is there, and begin the next generation; returns its number."""
        with self._changed:
            if self._inbox.over:
                self._inbox = Inbox()
                self._gathering_since = time.monotonic()
            inbox, shown = self._inbox, ""
            while missing := [name for name in self._parties if name not in self._seats]:
                inbox.check()
                if shown != (shown := f"waiting for {', '.join(missing)} to join"):
                    self._tell(shown)
                self._missing = shown
                self._changed.wait(_TICK)
            inbox.check()
            self._missing = ""
            self._generation += 1
            self._running = self._begun = True
            seats = list(self._seats.values())
        self._tell("")
        for seat in seats:
            seat.hop.send(Frame(START, Header(COORDINATOR, seat.name), self._generation.to_bytes(4, "little")))
        return self._generation

    def send(self, frame: Frame) -> None:
        """Send a frame to a party; waits while too much is on its way there."""
        with self._changed:  # so that the seat is one of the generation that this frame belongs to
            inbox = self._inbox
            inbox.check()
            seat = self._seats.get(frame.header.receiver)
        if seat is None:
            raise PeerLost(f"{frame.header.receiver} is gone")
        while not seat.hop.lane.wait_for_room(1.0):
            inbox.check()
        seat.hop.send(frame)

    def receive(self, peer: str, waiting_for: str) -> Frame:
        """Wait for the next frame of a party."""
        return self._inbox.take(peer, waiting_for)

    def receive_within(self, peer: str, waiting_for: str, seconds: float) -> Frame | None:
        """Wait so long for the next frame of a party; None where none comes, or can, though the run goes on."""
        frame = self._inbox.take_within(peer, waiting_for, seconds)
        if frame is None and peer not in self._without and self._inbox.has_left(peer):
            self.dismiss(peer, "ended its run too early")
        return frame

    def tolerate(self, peers: Collection[str], least: int) -> None:
        """From now on, and in this generation, none of these ends the run while at least so many of them are left."""
        with self._changed:
            self._tolerated, self._least = frozenset(peers), least

    def dismiss(self, peer: str, why: str) -> None:
        """Go on without a party, which is told, and hung up on once it has heard; ends the run if that cannot be."""
        with self._changed:
            seat = self._seats.get(peer)
        if seat is None or peer in self._without:
            return
        if not self._spares(seat, why, forget=True):
            self._stop_all(LOST, peer, why)
            return
        seat.hop.send(_farewell(peer, why))
        threading.Thread(target=_see_off, args=(seat,), daemon=True).start()
        self._tell_without(seat, why)

    def lost(self) -> dict[str, str]:
        """Parties that the run goes on without, and how each was lost."""
        with self._changed:
            return dict(self._without)

    def finish(self) -> None:
        """Wait until every party has all it needs, note that, and tell everybody."""
        self._inbox.wait_for_farewells(set(self._parties))
        self._note_end()
        self.end()

    def end(self) -> None:
        """Tell every party that the run has ended well, those too that come back to ask, until all confirm it."""
        with self._changed:
            self._ended = True
            seats = list(self._seats.values())
        for name in self.lost():
            self._note_heard(name)
        self._tell_all(Frame(BYE, Header(COORDINATOR, "")), seats, lambda seat: self._hear(seat.name, seat))
        patience = self._patience
        start, shown = time.monotonic(), False
        while missing := [name for name in self._parties if name not in self._knowing | self._without.keys()]:
            away = time.monotonic() - start
            if not patience.reconnect_timeout and not any(seat.hop.connected for seat in seats):
                break
            if away >= max(patience.reconnect_timeout, patience.notice):
                break
            if away >= patience.notice and not shown:
                shown = True
                self._tell(f"the run has ended; waiting for {', '.join(missing)} to hear so")
            with self._changed:
                self._changed.wait(0.02)
        self._release()

    def abort(self, reason: str) -> None:
        """Tell every party that the coordinator stops, unless all know of an earlier cause."""
        self._stop_all(ABORT, COORDINATOR, reason)
        self._release()

    def _hear(self, name: str, seat: _Seat | None = None) -> None:
        """Note that a party knows of the end of the run; it waits for its connection to be closed."""
        with self._changed:
            if name not in self._knowing:
                self._note_heard(name)
            self._knowing.add(name)
            self._changed.notify_all()
        if seat is not None:
            seat.hop.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                raw, _ = self._listener.accept()
            except OSError:
                if self._closed.is_set():
                    return
                time.sleep(0.05)  # out of descriptors: those of strangers are soon given back
                continue
            with self._changed:
                self._strangers.append(raw)
                oldest = self._strangers.popleft() if len(self._strangers) > MAX_STRANGERS else None
            if oldest is not None:
                _hang_up(oldest)
            threading.Thread(target=self._admit, args=(raw,), daemon=True).start()

    def _admit(self, raw: socket.socket) -> None:
        """Shake hands, find out who it is, and serve the connection to its end."""
        connection = None
        try:
            connection = Connection(raw, self._context, server=True, silence=self._patience.silence)
            name = self._identify(connection.certificate)
            greeting = _read_greeting(connection, name)
        except (OSError, EOFError, ValueError, RemoteProtocolError) as error:
            self._refuse(raw, error)
            _drop(raw)
            return
        finally:
            with self._changed, suppress(ValueError):
                self._strangers.remove(raw)
        try:
            seat = self._seat_of(name, greeting, connection)
            if seat is not None:
                self._serve(seat, connection, greeting)
            elif self._ended and connection.read().kind == PING:
                self._hear(name)
        except (OSError, EOFError, ValueError, RemoteProtocolError):
            pass
        finally:
            connection.shut()

    def _refuse(self, raw: socket.socket, error: Exception) -> None:
        """Let the user know of certificates that are nobody's, once per host and reason."""
        if not is_final(error):
            return
        with suppress(OSError):  # it is gone already
            host = str(raw.getpeername()[0])
            text = f"refused a connection from {host}: {why_refused(error, peer=host, own=COORDINATOR)}"
            if text not in self._refusals and len(self._refusals) < MAX_REFUSALS:
                self._refusals.add(text)
                self._note_refused(text)

    def _seat_of(self, name: str, greeting: Greeting, connection: Connection) -> _Seat | None:
        """The seat that a connection belongs to, a new one if need be; None where it has none and was told why."""
        with self._changed:
            seat = self._seats.get(name)
            fresh = seat is None or seat.session != greeting.session
            if seat is not None and not fresh and name not in self._without:
                return seat
            crashed = seat is not None and self._without and name not in self._without
            if seat is not None and crashed and self._spares(seat, "crashed"):
                threading.Thread(target=self._part_from, args=(seat, "crashed"), daemon=True).start()
            if name in self._without:
                answer = write_frame(_farewell(name, self._without[name]))
            elif self._ended:
                answer = write_frame(Frame(BYE, Header(COORDINATOR, name)))
            elif greeting.started or greeting.received:
                answer = _welcome(name, known=False, received=0)
            else:
                if self._running:
                    self._begin_anew(name)
                if seat is not None:
                    seat.hop.close()  # of a process that is no more
                seat = _Seat(name, greeting.session, Hop(COORDINATOR, name, self._patience.heartbeat))
                self._seats[name] = seat
                self._changed.notify_all()
                return seat
        connection.write(answer)
        return None

    def _begin_anew(self, name: str) -> None:
        """End the generation: a party has come back after a crash."""
        self._tell(f"{name} has come back; all go on from the last checkpoint")
        seats, self._seats, self._running = list(self._seats.values()), {}, False
        self._tolerated, self._without = frozenset(), {}
        self._gathering_since = time.monotonic()
        self._inbox.restart()
        for seat in seats:
            threading.Thread(target=_send_away, args=(seat,), daemon=True).start()

    def _serve(self, seat: _Seat, connection: Connection, greeting: Greeting) -> None:
        connection.write(_welcome(seat.name, known=True, received=seat.hop.lane.received))
        if seat.noticed:
            self._note(seat, back=True)
        try:
            seat.hop.serve(connection, greeting.received, lambda frame, size: self._sort(seat, frame, size))
        except RemoteProtocolError:
            self._stop_of(seat, LOST, "sent what is no frame")
        except BaseException:
            self._stop_of(seat, LOST, "could not be read")
            raise
        self._check_lost(seat)

    def _sort(self, seat: _Seat, frame: Frame, size: int) -> bool:
        """Act on one frame of a party; whether more may come."""
        name, receiver = seat.name, frame.header.receiver
        with self._changed:
            if self._seats.get(name) is not seat:
                return False
            to, inbox = self._seats.get(receiver), self._inbox  # both of this generation
            without = name in self._without
        if without:
            seat.hop.deliver(frame.number, size)  # of one that is out, and has not heard so yet
            return True
        if frame.header.sender != name:
            self._stop_of(seat, LOST, "sent a frame under another name")
        elif frame.kind == ABORT:
            self._stop_of(seat, ABORT, frame.header.message)
        elif frame.kind == BYE:
            inbox.leave(name)
            self._tell_all(Frame(BYE, Header(name, "")), self._others(seat))
            seat.hop.deliver(frame.number, size)
            return True
        elif frame.kind == MESSAGE and receiver == COORDINATOR:
            inbox.put(frame)
            seat.hop.deliver(frame.number, size)
            return True
        elif frame.kind == MESSAGE and to is not None and to is not seat:
            number = frame.number
            to.hop.send(frame, lambda: seat.hop.deliver(number, size))
            return True
        else:
            self._stop_of(seat, LOST, "sent a frame to nobody")
        return False

    def _others(self, seat: _Seat) -> list[_Seat]:
        with self._changed:
            return [other for other in self._seats.values() if other is not seat]

    def _watch(self) -> None:
        """Look after seats without a connection."""
        while not self._closed.is_set():
            self._closed.wait(_TICK)
            with self._changed:
                seats = list(self._seats.values())
                gathering = self._begun and not self._running and not self._ended
                missing = [name for name in self._parties if name not in self._seats] if gathering else []
                away, news = time.monotonic() - self._gathering_since, self._missing
            for seat in seats:
                self._check_lost(seat)
                if news and seat.hop.connected:
                    seat.hop.say(NEWS, news)
            if missing and away >= self._patience.reconnect_timeout:
                self._stop_all(LOST, missing[0], f"did not come back for {away:.0f} s")

    def _check_lost(self, seat: _Seat) -> None:
        """End the run if a party has been without a connection for too long; show it before that."""
        served, since = seat.hop.served, seat.hop.lost_since  # in this order: one may just arrive for the first time
        if since is None or self._ended or self._closed.is_set() or seat.name in self._without:
            return
        away = time.monotonic() - since
        if away >= self._patience.reconnect_timeout and (served or self._patience.reconnect_timeout):
            lasting = f": no connection for {away:.0f} s" if self._patience.reconnect_timeout else ""
            self._stop_of(seat, LOST, f"is gone{lasting}")
        elif away >= self._patience.notice and not seat.noticed:
            self._note(seat, back=False)

    def _note(self, seat: _Seat, *, back: bool) -> None:
        """Show everybody that a party has no connection, or has one again."""
        seat.noticed = not back
        others = self._others(seat)
        away = [other.name for other in (seat, *others) if other.noticed]
        text = f"{away[0]} is reconnecting" if away else ""
        self._tell(text)
        for other in others:
            other.hop.say(NEWS, text)

    def _stop_of(self, seat: _Seat, kind: int, how: str) -> None:
        """A party's failure; that of one who has left its seat is nobody's any more."""
        with self._changed:
            mine = self._seats.get(seat.name) is seat and seat.name not in self._without
        if mine and self._spares(seat, how):
            self._part_from(seat, how)
        elif mine:
            self._stop_all(kind, seat.name, how, GRACE_SECONDS if kind == ABORT else 0.0)

    def _spares(self, seat: _Seat, how: str, *, forget: bool = False) -> bool:
        """Whether the run can go on without a party; then it does. ``forget``: what has come from it is dropped."""
        name, how = seat.name, short(how)
        with self._changed:
            left = self._tolerated - self._without.keys() - {name}
            going = self._running and not self._ended and not self._inbox.over
            if not going or name not in self._tolerated or len(left) < self._least:
                return False
            self._without[name] = how
            self._inbox.lose(name, how, forget=forget)
            self._changed.notify_all()
            return True

    def _part_from(self, seat: _Seat, how: str) -> None:
        """Serve a party no more that is lost."""
        seat.hop.close()
        seat.hop.lane.forget()
        self._tell_without(seat, how)

    def _tell_without(self, seat: _Seat, how: str) -> None:
        """Tell everybody that the run goes on without a party."""
        if seat.noticed:
            self._note(seat, back=True)
        self._tell_all(Frame(WITHOUT, Header(seat.name, "", short(how))), self._others(seat))
        self._tell(f"the run goes on without {seat.name}, which {short(how)}")

    def _stop_all(self, kind: int, name: str, how: str, grace: float = 0.0) -> None:
        """Tell everybody the first failure and no later one."""
        with self._stopping:
            inbox = self._inbox
            if not self._ended and not inbox.over and inbox.fail(f"{name} {short(how)}", grace):
                with self._changed:
                    seats = list(self._seats.values())
                self._tell_all(Frame(kind, Header(name, "", short(how))), seats)

    def _tell_all(
        self, frame: Frame, seats: list[_Seat], delivered: Callable[[_Seat], None] = lambda seat: None
    ) -> None:
        """Send to all at once, so that one which takes nothing does not keep the news from the others."""
        tellers = [
            threading.Thread(target=seat.hop.send, args=(frame, partial(delivered, seat)), daemon=True)
            for seat in seats
        ]
        for teller in tellers:
            teller.start()
        end = time.monotonic() + _NEWS_SECONDS
        for teller in tellers:
            teller.join(max(0.0, end - time.monotonic()))

    def _release(self) -> None:
        """Let what was said arrive, then close everything."""
        deadline = time.monotonic() + _NEWS_SECONDS
        seats = list(self._seats.values())
        while time.monotonic() < deadline and any(s.hop.connected and s.hop.lane.in_flight for s in seats):
            time.sleep(0.02)
        self._closed.set()
        _drop(self._listener)
        with self._changed:
            strangers = list(self._strangers)
        for raw in strangers:
            _hang_up(raw)
        for seat in seats:
            seat.hop.close()


def _farewell(name: str, how: str) -> Frame:
    """What a party is told that the run goes on without."""
    return Frame(ABORT, Header(COORDINATOR, name, short(f"goes on without {name}, which {how}")))


def _see_off(seat: _Seat) -> None:
    """Hang up once a party has heard its last word, or does not listen."""
    deadline = time.monotonic() + _NEWS_SECONDS
    while seat.hop.lane.in_flight and time.monotonic() < deadline:
        time.sleep(0.02)
    seat.hop.close()
    seat.hop.lane.forget()


def _send_away(seat: _Seat) -> None:
    seat.hop.say(AGAIN)
    seat.hop.close()


def _drop(raw: socket.socket) -> None:
    _hang_up(raw)
    raw.close()


def _hang_up(raw: socket.socket) -> None:
    """Wake whoever uses a socket; that one closes it, for another may get its number at once."""
    with suppress(OSError):  # it may be gone already
        raw.shutdown(socket.SHUT_RDWR)


def _welcome(name: str, *, known: bool, received: int) -> bytes:
    body = msgspec.msgpack.encode(Welcome(known, received))
    return write_frame(Frame(WELCOME, Header(COORDINATOR, name), body))


def _read_greeting(connection: Connection, name: str) -> Greeting:
    """Read a party's first frame."""
    frame = connection.read()
    if frame.kind != HELLO or frame.header.sender != name:
        raise RemoteProtocolError("a connection began with something else than its party's hello")
    try:
        greeting = msgspec.msgpack.decode(frame.body, type=Greeting)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(f"malformed hello: {error}") from error
    if len(greeting.session) != 16 or greeting.received < 0:
        raise RemoteProtocolError("malformed hello")
    return greeting


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address, IPv4 or IPv6; raises ``OSError`` where that cannot be."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    return socket.create_server(address, family=family, backlog=512)
