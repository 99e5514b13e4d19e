"""TLS with pinned certificates: only the pinned get in, nobody else is served a byte, and each end can say why."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from parties import tls
from parties.errors import RemoteProtocolError
from parties.identity import Identity, make_identity
from parties.tls import client_context, peer_name, server_context, why_refused

SECRET = b"application data"
NOW = datetime.now(UTC)
COORDINATOR, BANK, SHOP = (make_identity(name) for name in ("coordinator", "bank", "shop"))
OTHER_BANK, OTHER_COORDINATOR = make_identity("bank"), make_identity("coordinator")
EXPIRED = make_identity("bank", start=NOW - timedelta(days=800))
EARLY = make_identity("bank", start=NOW + timedelta(days=3))
PINNED = {"bank": BANK.public, "shop": SHOP.public}


def without_certificate(server: Identity) -> ssl.SSLContext:
    """A client that trusts the server and has nothing to show."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=server.public.certificate_der)
    return context


def of_version(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = version
    return context


# Two ends in memory, as the transport drives them


@dataclass
class End:
    """One end of TLS over memory."""

    context: ssl.SSLContext
    server: bool
    error: ssl.SSLError | None = None
    read: bytes = b""
    shaken: bool = False
    sent: bool = False
    incoming: ssl.MemoryBIO = field(default_factory=ssl.MemoryBIO)
    outgoing: ssl.MemoryBIO = field(default_factory=ssl.MemoryBIO)

    def __post_init__(self) -> None:
        self.tls = self.context.wrap_bio(self.incoming, self.outgoing, server_side=self.server)

    def step(self) -> None:
        """Go as far as the bytes at hand allow: shake hands, send the secret, read."""
        if self.error is not None:
            return
        try:
            if not self.shaken:
                self.tls.do_handshake()
                self.shaken = True
            if not self.sent:
                self.tls.write(SECRET)
                self.sent = True
            self.read += self.tls.read(1000)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.error = error


def meet(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[End, End]:
    """Both ends after everything that they have to say to each other."""
    dialling, listening = End(client, server=False), End(server, server=True)
    for _ in range(6):
        for end, other in ((dialling, listening), (listening, dialling)):
            end.step()
            other.incoming.write(end.outgoing.read())
    return dialling, listening


def test_the_pinned_meet() -> None:
    dialling, listening = meet(client_context(BANK, COORDINATOR.public), server_context(COORDINATOR, PINNED.values()))
    assert dialling.error is listening.error is None
    assert dialling.read == listening.read == SECRET
    assert dialling.tls.version() == listening.tls.version() == "TLSv1.3"
    assert peer_name(listening.tls.getpeercert(binary_form=True), PINNED) == "bank"
    everybody = {"coordinator": COORDINATOR.public, **PINNED}
    assert peer_name(dialling.tls.getpeercert(binary_form=True), everybody) == "coordinator"


def test_each_of_several_peers_is_known_by_its_certificate() -> None:
    for identity in (BANK, SHOP):
        _, listening = meet(client_context(identity, COORDINATOR.public), server_context(COORDINATOR, PINNED.values()))
        assert peer_name(listening.tls.getpeercert(binary_form=True), PINNED) == identity.name


def test_no_tickets_and_no_resumed_session() -> None:
    client = client_context(BANK, COORDINATOR.public)
    dialling, listening = meet(client, server_context(COORDINATOR, PINNED.values()))
    assert listening.context.num_tickets == 0
    assert dialling.tls.session is None or not dialling.tls.session.has_ticket
    assert not dialling.tls.session_reused


def test_contexts_ask_for_a_certificate_and_for_tls_13() -> None:
    for context in (client_context(BANK, COORDINATOR.public), server_context(COORDINATOR, PINNED.values())):
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.cert_store_stats()["crl"] == 0
    assert client_context(BANK, COORDINATOR.public).cert_store_stats()["x509"] == 1
    assert server_context(COORDINATOR, PINNED.values()).cert_store_stats()["x509"] == 2


STRANGERS = {
    "another certificate of that name": (
        lambda: client_context(OTHER_BANK, COORDINATOR.public),
        "'coordinator' does not accept the certificate of 'bank'",
        "the certificate of 'bank' is not the pinned one",
    ),
    "the server's own certificate": (
        lambda: client_context(OTHER_COORDINATOR, COORDINATOR.public),
        "'coordinator' does not accept the certificate of 'bank'",
        "the certificate of 'bank' is not the pinned one",
    ),
    "no certificate": (
        lambda: without_certificate(COORDINATOR),
        "'coordinator' asks for a certificate, and 'bank' showed none",
        "'bank' showed no certificate",
    ),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_is_served_nothing_and_learns_why_at_its_first_read(name: str) -> None:
    make, at_client, at_server = STRANGERS[name]
    dialling, listening = meet(make(), server_context(COORDINATOR, PINNED.values()))
    assert dialling.shaken and dialling.sent  # TLS 1.3: all looks well until it reads
    assert not listening.shaken and not listening.sent
    assert dialling.read == listening.read == b""
    assert at_client in why_refused(dialling.error, peer="coordinator", own="bank")
    assert at_server in why_refused(listening.error, peer="bank", own="coordinator")


@pytest.mark.parametrize(("identity", "at_server"), [(EXPIRED, "has expired"), (EARLY, "is not valid yet")])
def test_a_pinned_certificate_out_of_its_time(identity: Identity, at_server: str) -> None:
    """It was in its time when it was pinned: reading the file would refuse it now."""
    dialling, listening = meet(
        client_context(identity, COORDINATOR.public), server_context(COORDINATOR, [identity.public])
    )
    assert dialling.read == listening.read == b"" and not listening.sent
    assert at_server in why_refused(listening.error, peer="bank", own="coordinator")
    assert "does not accept the certificate of 'bank'" in why_refused(dialling.error, peer="coordinator", own="bank")


def test_the_client_says_that_its_own_certificate_expired() -> None:
    dialling, _ = meet(client_context(EXPIRED, COORDINATOR.public), server_context(COORDINATOR, [EXPIRED.public]))
    assert "it has expired, or a clock is wrong" in why_refused(dialling.error, peer="coordinator", own="bank")


@pytest.mark.parametrize(
    ("server", "pinned", "at_client"),
    [
        (OTHER_COORDINATOR, COORDINATOR, "the certificate of 'coordinator' is not the pinned one"),
        (SHOP, COORDINATOR, "the certificate of 'coordinator' is not the pinned one"),
        (EXPIRED, EXPIRED, "the certificate of 'coordinator' has expired"),
    ],
)
def test_a_server_that_is_not_the_pinned_one(server: Identity, pinned: Identity, at_client: str) -> None:
    dialling, listening = meet(client_context(BANK, pinned.public), server_context(server, [BANK.public]))
    assert not dialling.shaken and not dialling.sent
    assert dialling.read == listening.read == b""
    assert at_client in why_refused(dialling.error, peer="coordinator", own="bank")
    refused = why_refused(listening.error, peer="bank", own="coordinator")
    assert "'bank' does not accept the certificate of 'coordinator'" in refused


def test_a_peer_that_another_job_pins_is_nobody_here() -> None:
    """The right coordinator and a party of its other job."""
    dialling, listening = meet(client_context(SHOP, COORDINATOR.public), server_context(COORDINATOR, [BANK.public]))
    assert dialling.read == listening.read == b"" and not listening.sent
    assert "not the pinned one" in why_refused(listening.error, peer="shop", own="coordinator")


@pytest.mark.parametrize("end", ["client", "server"])
def test_an_older_tls(end: str) -> None:
    client, server = client_context(BANK, COORDINATOR.public), server_context(COORDINATOR, PINNED.values())
    of_version(client if end == "client" else server, ssl.TLSVersion.TLSv1_2)
    dialling, listening = meet(client, server)
    assert dialling.read == listening.read == b"" and not dialling.shaken and not listening.shaken
    reasons = {
        why_refused(dialling.error, peer="coordinator", own="bank"),
        why_refused(listening.error, peer="bank", own="coordinator"),
    }
    assert any("older TLS, expected TLS 1.3" in reason for reason in reasons)
    assert any("speaks another TLS" in reason for reason in reasons)


def test_a_bio_that_ends_within_tls() -> None:
    end = End(client_context(BANK, COORDINATOR.public), server=False)
    end.incoming.write_eof()
    end.step()
    assert why_refused(end.error, peer="coordinator", own="bank").startswith(
        "'coordinator' closed the connection within TLS"
    )


# Real sockets


@contextmanager
def listening(context: ssl.SSLContext) -> Iterator[tuple[int, list[Exception | bytes]]]:
    """A server that greets whoever passes TLS; yields its port, and a list of what it met: bytes read, or an error."""
    met: list[Exception | bytes] = []

    def serve(server: socket.socket) -> None:
        with suppress(OSError):
            connection, _ = server.accept()
            with connection:
                connection.settimeout(5)
                try:
                    with context.wrap_socket(connection, server_side=True) as secured:
                        secured.sendall(SECRET)
                        met.append(secured.recv(1000))
                except OSError as error:
                    met.append(error)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        try:
            yield server.getsockname()[1], met
        finally:
            thread.join(10)
            assert not thread.is_alive()


def dial(port: int, context: ssl.SSLContext, *, listen_first: bool = True) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 5) as raw, context.wrap_socket(raw) as secured:
        got = secured.recv(1000) if listen_first else b""
        secured.sendall(b"hello" * 1000)
        return got or secured.recv(1000)


def test_over_sockets() -> None:
    with listening(server_context(COORDINATOR, PINNED.values())) as (port, met):
        assert dial(port, client_context(BANK, COORDINATOR.public)) == SECRET
    assert len(met) == 1 and met[0].startswith(b"hello")


@pytest.mark.parametrize("name", STRANGERS)
def test_strangers_over_sockets(name: str) -> None:
    make, at_client, at_server = STRANGERS[name]
    with listening(server_context(COORDINATOR, PINNED.values())) as (port, met):
        with pytest.raises(OSError) as caught:
            dial(port, make())
    assert at_client in why_refused(caught.value, peer="coordinator", own="bank")
    assert at_server in why_refused(met[0], peer="bank", own="coordinator")


@pytest.mark.parametrize("name", STRANGERS)
def test_a_stranger_who_writes_first_may_see_no_more_than_a_closed_connection(name: str) -> None:
    make, at_client, at_server = STRANGERS[name]
    with listening(server_context(COORDINATOR, PINNED.values())) as (port, met):
        with pytest.raises(OSError) as caught:
            dial(port, make(), listen_first=False)
    told = why_refused(caught.value, peer="coordinator", own="bank")
    assert at_client in told or told.startswith("'coordinator' closed the connection")
    assert at_server in why_refused(met[0], peer="bank", own="coordinator")


@pytest.mark.parametrize(
    ("spoken", "told"),
    [
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", "'bank' speaks plain HTTP, expected TLS 1.3"),
        (b"CONNECT here:7700 HTTP/1.1\r\n\r\n", "'bank' speaks plain HTTP, expected TLS 1.3"),
        (b"\0" * 64, "'bank' speaks no TLS, expected TLS 1.3"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "'bank' speaks no TLS, expected TLS 1.3"),
        (b"\x16\x03\x01\xff\xff" + b"x" * 100, "'bank' speaks no TLS, expected TLS 1.3"),
        (bytes(range(256)) * 8, "'bank' speaks no TLS, expected TLS 1.3"),
        (b"", "'bank' closed the connection"),
    ],
    ids=["http", "connect", "zeros", "ssh", "a long record", "garbage", "nothing"],
)
def test_clients_without_tls_are_served_nothing(spoken: bytes, told: str) -> None:
    got = b""
    with listening(server_context(COORDINATOR, PINNED.values())) as (port, met):
        with socket.create_connection(("127.0.0.1", port), 5) as raw:
            with suppress(OSError):  # the server may have closed before
                raw.sendall(spoken)
                raw.shutdown(socket.SHUT_WR)
                while chunk := raw.recv(1000):
                    got += chunk
    assert SECRET not in got and len(got) <= 7  # one alert at most
    assert why_refused(met[0], peer="bank", own="coordinator").startswith(told)


@pytest.mark.parametrize(
    ("spoken", "told"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "'coordinator' speaks no TLS, expected TLS 1.3"),
        (b"220 mail.example ESMTP\r\n", "'coordinator' speaks no TLS, expected TLS 1.3"),
        (b"", "'coordinator' closed the connection"),
    ],
)
def test_servers_without_tls(spoken: bytes, told: str) -> None:
    def serve(server: socket.socket) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(5000)
            connection.sendall(spoken)
            with suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
                connection.recv(5000)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        with pytest.raises(OSError) as caught:
            dial(server.getsockname()[1], client_context(BANK, COORDINATOR.public))
        thread.join(10)
    assert why_refused(caught.value, peer="coordinator", own="bank").startswith(told)


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionRefusedError) as caught:
        dial(port, client_context(BANK, COORDINATOR.public))
    assert "nobody listens at the address of 'coordinator'" in why_refused(caught.value, peer="coordinator", own="bank")


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname(), 5) as raw:
            raw.settimeout(0.1)
            with pytest.raises(TimeoutError) as caught:
                client_context(BANK, COORDINATOR.public).wrap_socket(raw)
    assert "'coordinator' does not answer" in why_refused(caught.value, peer="coordinator", own="bank")


# Words


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TimeoutError(), "'c' does not answer; check the address, and the firewalls on the way"),
        (socket.gaierror(-2, "Name or service not known"), "no name server knows"),
        (ConnectionResetError(), "'c' closed the connection"),
        (BrokenPipeError(), "'c' closed the connection"),
        (OSError(errno.EHOSTUNREACH, "x"), "there is no way to the host of 'c'"),
        (OSError(errno.ENETUNREACH, "x"), "there is no way to the host of 'c'"),
        (OSError(errno.ENOSPC, "x"), None),
        (ValueError("x"), None),
        (ssl.SSLError(1, "[SSL] something new"), None),
    ],
)
def test_words_for_other_errors(error: Exception, told: str | None) -> None:
    words = why_refused(error, peer="c", own="b")
    assert words is None if told is None else told in words


def test_a_reason_without_words_is_named() -> None:
    error = ssl.SSLError(1, "text of OpenSSL")
    error.reason = "NO_SUITABLE_GROUPS"
    assert why_refused(error, peer="c", own="b") == "TLS with 'c' fails, NO_SUITABLE_GROUPS"


def test_every_reason_names_the_peer_in_one_clause() -> None:
    for reason in tls._REASONS:
        error = ssl.SSLError(1, "text of OpenSSL")
        error.reason = reason
        words = why_refused(error, peer="pe er", own="ow n")
        assert "'pe er'" in words and "\n" not in words and "OpenSSL" not in words and "{" not in words


# Whose certificate


def test_nobodys_certificate() -> None:
    for shown in (None, b"", OTHER_BANK.public.certificate_der, BANK.public.certificate_der[:-1]):
        with pytest.raises(RemoteProtocolError, match="expected that of bank or shop"):
            peer_name(shown, PINNED)
    with pytest.raises(RemoteProtocolError, match="no certificate"):
        peer_name(None, {})


# The private key and the disk


def test_the_private_key_leaves_no_file_and_no_handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    client_context(BANK, COORDINATOR.public)
    monkeypatch.delattr(os, "memfd_create", raising=False)
    client_context(BANK, COORDINATOR.public)
    assert list(tmp_path.iterdir()) == []
    assert len(before) == len(os.listdir("/proc/self/fd") if before else [])


def test_without_files_in_memory_the_file_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with tls._as_file(b"secret") as path:
        assert Path(path).parent == tmp_path and Path(path).read_bytes() == b"secret"
        assert Path(path).stat().st_mode & 0o077 == 0
    assert not Path(path).exists()


def test_a_key_that_does_not_fit_leaves_nothing_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with pytest.raises(ssl.SSLError):
        client_context(replace(BANK, tls_key=SHOP.tls_key), COORDINATOR.public)
    assert list(tmp_path.iterdir()) == []
