"""TLS between one party and the coordinator: version 1.3, both ends pinned, nobody else trusted.

Each end trusts exactly the self-signed certificates that its job names. There is no authority, so no host name is
checked: whoever holds the private key of the pinned certificate is the peer, wherever it runs. No tickets are handed
out: each connection proves both keys anew.

In TLS 1.3 the client is done before the server has judged its certificate. A refused client therefore learns it
only when it first reads, as an alert, and should read before it writes: to a writer the closed connection may show
first. `why_refused` puts either end's error into words.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from parties.errors import RemoteProtocolError
from parties.identity import Identity, PublicIdentity

_EXPIRED, _NOT_YET = 10, 9  # X509_V_ERR_CERT_HAS_EXPIRED, _CERT_NOT_YET_VALID

_THEY_REFUSE = "{peer} does not accept the certificate of {own}"
_REASONS = {
    "TLSV1_ALERT_UNKNOWN_CA": f"{_THEY_REFUSE}: it has another one pinned, exchange the .pub files anew",
    "SSLV3_ALERT_BAD_CERTIFICATE": f"{_THEY_REFUSE}: it has another one pinned, exchange the .pub files anew",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": f"{_THEY_REFUSE}: it has another one pinned, exchange the .pub files anew",
    "TLSV1_ALERT_ACCESS_DENIED": f"{_THEY_REFUSE}: it has another one pinned, exchange the .pub files anew",
    "TLSV1_ALERT_DECRYPT_ERROR": f"{_THEY_REFUSE}: its signature does not verify",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": f"{_THEY_REFUSE}: it is of another kind than vfl keygen makes",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": f"{_THEY_REFUSE}: it has expired, or a clock is wrong",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "{peer} asks for a certificate, and {own} showed none",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "{peer} showed no certificate",
    "HTTP_REQUEST": "{peer} speaks plain HTTP, expected TLS 1.3",
    "HTTPS_PROXY_REQUEST": "{peer} speaks plain HTTP, expected TLS 1.3",
    "WRONG_VERSION_NUMBER": "{peer} speaks no TLS, expected TLS 1.3",
    "PACKET_LENGTH_TOO_LONG": "{peer} speaks no TLS, expected TLS 1.3",
    "RECORD_LAYER_FAILURE": "{peer} speaks no TLS, expected TLS 1.3",
    "UNSUPPORTED_PROTOCOL": "{peer} speaks an older TLS, expected TLS 1.3",
    "WRONG_SSL_VERSION": "{peer} speaks an older TLS, expected TLS 1.3",
    "TLSV1_ALERT_PROTOCOL_VERSION": "{peer} speaks another TLS than {own}, expected TLS 1.3",
}


def server_context(own: Identity, peers: Iterable[PublicIdentity]) -> ssl.SSLContext:
    """TLS settings of the end that listens; only the ``peers`` get in."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, own, peers)
    context.num_tickets = 0
    return context


def client_context(own: Identity, server: PublicIdentity) -> ssl.SSLContext:
    """TLS settings of an end that dials; only ``server`` is an answer."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, own, (server,))


def peer_name(certificate_der: bytes | None, pinned: Mapping[str, PublicIdentity]) -> str:
    """Whose certificate this is.

    Parameters
    ----------
    certificate_der : bytes or None
        What ``SSLObject.getpeercert(binary_form=True)`` returns.
    pinned : mapping of name to identity

    Raises
    ------
    RemoteProtocolError
        Nobody's.
    """
    for name, identity in pinned.items():
        if certificate_der == identity.certificate_der:
            return name
    shown = "no certificate" if certificate_der is None else "a certificate that is nobody's"
    raise RemoteProtocolError(f"a peer showed {shown}, expected that of {' or '.join(pinned) or 'a pinned peer'}")


def why_refused(error: Exception, *, peer: str, own: str) -> str | None:
    """One clause on why two ends did not meet, or None where the error says nothing about that.

    Parameters
    ----------
    error : Exception
        What connecting, the handshake or the first read raised.
    peer, own : str
        Names of the two ends, for the clause.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _why_distrusted(error.verify_code, peer)
    if isinstance(error, ssl.SSLEOFError):
        return f"'{peer}' closed the connection within TLS; it may not accept the certificate of '{own}'"
    if isinstance(error, ssl.SSLError):
        reason = getattr(error, "reason", None)  # OpenSSL's constant, which an error need not have
        words = _REASONS.get(reason, f"TLS with {{peer}} fails, {reason}") if reason else None
        return words and words.format(peer=f"'{peer}'", own=f"'{own}'")
    if isinstance(error, TimeoutError):
        return f"'{peer}' does not answer; check the address, and the firewalls on the way"
    if isinstance(error, ConnectionRefusedError):
        return f"nobody listens at the address of '{peer}'; check the address, and that '{peer}' runs"
    if isinstance(error, socket.gaierror):
        return f"the address of '{peer}' has a host that no name server knows; check the address"
    if isinstance(error, ConnectionError):
        return f"'{peer}' closed the connection"
    if isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"there is no way to the host of '{peer}'; check the address and the network"
    return None


def is_final(error: Exception) -> bool:
    """Whether an end refuses the other's certificate, so that to dial again is of no use."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return True
    return isinstance(error, ssl.SSLError) and _REASONS.get(error.reason or "", "").startswith(_THEY_REFUSE)


def _why_distrusted(code: int, peer: str) -> str:
    """Words for this end's own verdict on the peer's certificate."""
    if code == _EXPIRED:
        return f"the certificate of '{peer}' has expired; it needs a new identity, or a clock is wrong"
    if code == _NOT_YET:
        return f"the certificate of '{peer}' is not valid yet; a clock is wrong"
    return f"the certificate of '{peer}' is not the pinned one; check the address, or exchange the .pub files anew"


def _context(protocol: int, own: Identity, trusted: Iterable[PublicIdentity]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    for identity in trusted:
        context.load_verify_locations(cadata=identity.certificate_der)
    with _as_file(own.tls_key + own.certificate) as path:
        context.load_cert_chain(path)
    return context


@contextmanager
def _as_file(secret: bytes) -> Iterator[str]:
    """Path of a file in memory, for OpenSSL reads keys from files only; elsewhere of a private one, soon gone."""
    if not hasattr(os, "memfd_create") or not os.path.isdir("/proc/self/fd"):
        with tempfile.NamedTemporaryFile() as file:  # 0600
            file.write(secret)
            file.flush()
            yield file.name
        return
    handle = os.memfd_create("vfl")  # closed in children
    try:
        with os.fdopen(os.dup(handle), "wb") as file:
            file.write(secret)
        yield f"/proc/self/fd/{handle}"
    finally:
        os.close(handle)
