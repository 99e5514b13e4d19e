"""Frames over one TLS connection: whole in both directions at once, and every way in which it can break."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from parties import connection
from parties.connection import Connection, connect
from parties.errors import RemoteProtocolError
from parties.frame import CHUNK, MAX_BODY, MESSAGE, Frame, Header, write_frame
from parties.identity import make_identity
from parties.tls import client_context, server_context

BANK, COORDINATOR = make_identity("bank"), make_identity("coordinator")
BROKEN = (OSError, EOFError)


def frame(body: bytes, number: int = 0) -> Frame:
    return Frame(MESSAGE, Header("bank", "shop", "m"), body, number)


@dataclass
class Ends:
    """Both ends of a connection."""

    client: Connection
    server: Connection

    def shut(self) -> None:
        self.client.shut()
        self.server.shut()


def shake(near: socket.socket, far: socket.socket, silence: float = 20.0) -> Ends:
    """Shake hands over two sockets that are, or lead to, each other."""
    made: dict[str, Connection] = {}

    def serve() -> None:
        context = server_context(COORDINATOR, [BANK.public])
        made["server"] = Connection(far, context, server=True, silence=silence)

    thread = threading.Thread(target=serve)
    thread.start()
    made["client"] = Connection(near, client_context(BANK, COORDINATOR.public), server=False, silence=silence)
    thread.join(20)
    return Ends(made["client"], made["server"])


def stream_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        return near, server.accept()[0]


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = shake(*stream_pair())
    yield ends
    ends.shut()


def in_thread(action: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BROKEN as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, raised


def test_frames_pass_whole_and_in_order(ends: Ends) -> None:
    frames = [frame(random.Random(size).randbytes(size), size + 1) for size in (0, 1, 100, 16_384, 16_385, 300_000)]
    for sent in frames:
        ends.client.write(write_frame(sent))
        assert ends.server.read() == sent
    thread, raised = in_thread(lambda: [ends.server.write(write_frame(sent)) for sent in frames])
    assert [ends.client.read() for _ in frames] == frames
    thread.join(20)
    assert not raised


def test_each_end_knows_the_certificate_of_the_other(ends: Ends) -> None:
    assert ends.client.certificate == COORDINATOR.public.certificate_der
    assert ends.server.certificate == BANK.public.certificate_der


def test_writers_and_readers_at_once_with_large_frames(ends: Ends) -> None:
    """Two writers and one reader at each end; more than any buffer holds is under way in both directions."""
    bodies = {number: random.Random(number).randbytes(MAX_BODY - number) for number in range(1, 7)}

    def write(end: Connection) -> None:
        for number, body in bodies.items():
            end.write(write_frame(frame(body, number)))

    def read(end: Connection) -> None:
        found = [end.read() for _ in range(2 * len(bodies))]
        assert sorted(each.number for each in found) == sorted([*bodies, *bodies])
        whole.append(all(each.body == bodies[each.number] for each in found))

    whole: list[bool] = []
    running = [
        in_thread(lambda end=end, action=action: action(end))
        for end in (ends.client, ends.server)
        for action in (write, write, read)
    ]
    for thread, _ in running:
        thread.join(60)
    assert whole == [True, True]
    assert not any(raised for _, raised in running)


def test_a_reader_that_waits_does_not_hold_up_a_writer(ends: Ends) -> None:
    thread, raised = in_thread(ends.client.read)
    time.sleep(0.05)
    for number in range(20):
        ends.client.write(write_frame(frame(b"x", number)))
        assert ends.server.read().number == number
    ends.server.write(write_frame(frame(b"there")))
    thread.join(20)
    assert not thread.is_alive() and not raised


def test_silence_breaks_a_connection() -> None:
    ends = shake(*stream_pair(), silence=0.2)
    with pytest.raises(TimeoutError):
        ends.client.read()
    ends.shut()


def test_a_writer_to_one_who_takes_nothing_is_not_held_for_ever() -> None:
    ends = shake(*stream_pair(), silence=0.3)
    with pytest.raises(TimeoutError):
        for _ in range(64):
            ends.client.write(write_frame(frame(bytes(CHUNK))))
    ends.shut()


def test_one_who_is_slow_but_goes_on_is_not_taken_for_silent() -> None:
    """The limit is on progress: the whole takes longer than it."""
    ends = shake(*stream_pair(), silence=1.0)

    def drip() -> None:
        data = write_frame(frame(bytes(40)))
        with ends.server._state:
            ends.server._tls.write(data)
            sealed = ends.server._outgoing.read()
        for at in range(0, len(sealed), 10):
            ends.server._raw.sendall(sealed[at : at + 10])
            time.sleep(0.15)

    thread, raised = in_thread(drip)
    started = time.monotonic()
    assert ends.client.read().body == bytes(40)
    assert time.monotonic() - started > 1.0
    thread.join(20)
    assert not raised
    ends.shut()


def test_a_record_that_signs_of_life_fill_for_ever_breaks_the_connection() -> None:
    """A byte of a record's length was altered on its way: what comes next is taken for the rest of it."""
    ends = shake(*stream_pair(), silence=0.3)
    over = threading.Event()

    def live() -> None:
        with contextlib.suppress(OSError):
            ends.server._raw.sendall(b"\x17\x03\x03\x40\x00")
            while not over.wait(0.1):
                ends.server._raw.sendall(bytes(10))

    thread, raised = in_thread(live)
    with pytest.raises(TimeoutError, match="nothing that TLS can open"):
        ends.client.read()
    over.set()
    thread.join(20)
    assert not raised
    ends.shut()


def test_a_frame_that_signs_of_life_fill_for_ever_breaks_the_connection() -> None:
    """Of a peer that names a length which it does not send."""
    ends = shake(*stream_pair(), silence=0.1)
    over = threading.Event()
    cut = write_frame(frame(bytes(CHUNK)))[:100]

    def live() -> None:
        with contextlib.suppress(OSError):
            ends.server.write(cut)
            while not over.wait(0.02):
                ends.server.write(bytes(10))

    thread, raised = in_thread(live)
    with pytest.raises(TimeoutError, match="does not come to its end"):
        ends.client.read()
    over.set()
    thread.join(20)
    assert not raised
    ends.shut()


def test_the_other_end_closes(ends: Ends) -> None:
    ends.server.write(write_frame(frame(b"last words")))
    ends.server.shut()
    assert ends.client.read().body == b"last words"
    with pytest.raises(BROKEN):
        ends.client.read()


def test_the_other_end_takes_leave_within_tls(ends: Ends) -> None:
    """close_notify, of a peer that ends TLS and keeps its socket."""
    with ends.server._state, contextlib.suppress(ssl.SSLWantReadError):
        ends.server._tls.unwrap()
    ends.server._raw.sendall(ends.server._outgoing.read())
    with pytest.raises(EOFError):
        ends.client.read()


def test_half_closed_still_says_what_it_has_to_say(ends: Ends) -> None:
    ends.client._raw.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        ends.server.read()
    ends.server.write(write_frame(frame(b"still there")))
    assert ends.client.read().body == b"still there"


def test_shut_wakes_everybody() -> None:
    """A reader that waits and a writer that is held up, at this end and at the other."""
    ends = shake(*stream_pair(), silence=60)

    def flood() -> None:
        while True:
            ends.client.write(write_frame(frame(bytes(CHUNK))))

    running = [in_thread(flood), in_thread(ends.client.read)]
    time.sleep(0.2)
    assert all(thread.is_alive() for thread, _ in running)
    ends.client.shut()
    for thread, raised in running:
        thread.join(20)
        assert not thread.is_alive()
        assert len(raised) == 1
    with pytest.raises(BROKEN):
        while True:
            ends.server.read()
    ends.server.shut()


def test_shut_once_and_again_and_then_nothing_passes(ends: Ends) -> None:
    for _ in range(3):
        ends.client.shut()
    with pytest.raises(OSError):
        ends.client.write(write_frame(frame(b"x")))
    with pytest.raises(BROKEN):
        ends.client.read()


class Wire:
    """A wire between two sockets; ``change`` alters what the client says, and None cuts."""

    def __init__(self, change: Callable[[bytes], bytes | None]) -> None:
        self.near, ours = stream_pair()
        other, self.far = stream_pair()
        self.change: Callable[[bytes], bytes | None] = lambda data: data
        self._later = change
        self._sockets = (ours, other)
        self._threads = [
            threading.Thread(target=self._pass, args=(ours, other, True)),
            threading.Thread(target=self._pass, args=(other, ours, False)),
        ]
        for thread in self._threads:
            thread.start()

    def begin(self) -> None:
        self.change = self._later

    def _pass(self, source: socket.socket, target: socket.socket, forth: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                passed = self.change(data) if forth else data
                if passed is None:
                    break
                target.sendall(passed)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for end in self._sockets:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
        for end in self._sockets:
            end.close()


def through(change: Callable[[bytes], bytes | None]) -> tuple[Wire, Ends]:
    """Two ends with a wire between them that is honest until the handshake is done."""
    wire = Wire(change)
    ends = shake(wire.near, wire.far)
    wire.begin()
    return wire, ends


@pytest.mark.parametrize("kept", [0, 1, 4, 5, 6, 50, 100])
def test_cut_within_a_tls_record(kept: int) -> None:
    left = [kept]

    def cut(data: bytes) -> bytes | None:
        passed, left[0] = data[: left[0]], max(0, left[0] - len(data))
        return passed or None

    wire, ends = through(cut)
    ends.client.write(write_frame(frame(bytes(200))))
    ends.client._raw.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        ends.server.read()
    ends.shut()
    wire.close()


@pytest.mark.parametrize("at", [0, 3, 5, 30, 90])
def test_an_altered_byte_is_found_by_tls(at: int) -> None:
    def alter(data: bytes) -> bytes:
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    wire, ends = through(alter)
    ends.client.write(write_frame(frame(bytes(200))))
    ends.client._raw.shutdown(socket.SHUT_WR)  # where the length was altered, no more comes
    with pytest.raises((ssl.SSLError, EOFError)):
        ends.server.read()
    ends.shut()
    wire.close()


def test_a_record_that_comes_twice_is_found_by_tls() -> None:
    wire, ends = through(lambda data: data + data)
    ends.client.write(write_frame(frame(b"once")))
    assert ends.server.read().body == b"once"
    with pytest.raises(ssl.SSLError):
        ends.server.read()
    ends.shut()
    wire.close()


def test_records_in_another_order_are_found_by_tls() -> None:
    held: list[bytes] = []

    def swap(data: bytes) -> bytes:
        held.append(data)
        return b"" if len(held) == 1 else held[1] + held[0]

    wire, ends = through(swap)
    ends.client.write(write_frame(frame(b"first")))
    while not held:
        time.sleep(0.01)
    ends.client.write(write_frame(frame(b"second")))
    with pytest.raises(ssl.SSLError):
        ends.server.read()
    ends.shut()
    wire.close()


def test_what_is_no_frame_is_said_so(ends: Ends) -> None:
    ends.client.write(b"GET / HTTP/1.1\r\n\r\n" * 3)
    with pytest.raises(RemoteProtocolError, match="no frame of this protocol"):
        ends.server.read()


def test_a_length_that_lies_reserves_nothing(ends: Ends) -> None:
    ends.client.write(struct.pack("<2sBBIIQQ", b"VF", 2, MESSAGE, 10, 2**32 - 1, 1, 0))
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        ends.server.read()


# The handshake


def test_a_handshake_has_a_deadline_however_slowly_bytes_drip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte would begin a limit on silence anew."""
    monkeypatch.setattr(connection, "HANDSHAKE_SECONDS", 0.6)
    near, far = stream_pair()
    client = client_context(BANK, COORDINATOR.public)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = client.wrap_bio(incoming, outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    hello, stopped = outgoing.read(), threading.Event()

    def drip() -> None:
        for at in range(len(hello)):
            near.sendall(hello[at : at + 1])
            if stopped.wait(0.1):
                return

    thread, _ = in_thread(drip)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        Connection(far, server_context(COORDINATOR, [BANK.public]), server=True, silence=60)
    assert 0.5 < time.monotonic() - started < 20
    stopped.set()
    thread.join(20)
    near.close()
    far.close()


@pytest.mark.parametrize("server", [True, False])
def test_one_who_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, server: bool) -> None:
    monkeypatch.setattr(connection, "HANDSHAKE_SECONDS", 0.3)
    near, far = stream_pair()
    context = server_context(COORDINATOR, [BANK.public]) if server else client_context(BANK, COORDINATOR.public)
    with pytest.raises(TimeoutError):
        Connection(far, context, server=server, silence=60)
    near.close()
    far.close()


def test_one_who_hangs_up_within_the_handshake() -> None:
    near, far = stream_pair()
    near.close()
    with pytest.raises(BROKEN):
        Connection(far, server_context(COORDINATOR, [BANK.public]), server=True, silence=60)
    far.close()


def test_the_silence_of_a_connection_begins_after_its_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of the handshake does not stay on the socket."""
    monkeypatch.setattr(connection, "HANDSHAKE_SECONDS", 1.0)
    ends = shake(*stream_pair(), silence=30)
    thread, raised = in_thread(ends.client.read)
    thread.join(1.3)
    assert thread.is_alive()
    ends.server.write(write_frame(frame(b"late")))
    thread.join(20)
    assert not raised
    ends.shut()


def test_dialling_closes_its_socket_where_the_handshake_fails() -> None:
    """An unclosed socket would be a warning, which is an error here."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()

        def hang_up() -> None:
            server.accept()[0].close()

        thread, _ = in_thread(hang_up)
        with pytest.raises(BROKEN):
            connect(host, port, client_context(BANK, COORDINATOR.public), 1.0)
        thread.join(20)
    with pytest.raises(ConnectionRefusedError):
        connect(host, port, client_context(BANK, COORDINATOR.public), 1.0)
