"""Who a company is to the others: long-term keys, and the file that it hands them before they talk.

``NAME.key`` stays at home; ``NAME.pub`` goes to everybody in the job. Both are small TOML texts:

    NAME.key   name, Ed25519 and X25519 private keys, TLS private key (ECDSA P-256), TLS certificate
    NAME.pub   name, Ed25519 and X25519 public keys, TLS certificate, and a signature over these

The certificate is self-signed and may sign no other (CA:FALSE): peers pin it as it is, so that there is no authority
to trust. The signature shows that one hand put the fields together; that the hand is the company's shows its
fingerprint alone, compared over a second channel. Everything random comes from the operating system.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shlex
import stat
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from parties.errors import ConfigError
from parties.sealing import KeyPair
from parties.spec import PartyName

MAX_BYTES = 64 << 10
MAX_DAYS = 3650
_PRIVATE, _PUBLIC = "vfl private identity 1", "vfl public identity 1"
_USES = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)
_MALFORMED = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    InvalidSignature,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What the cryptography package raises on bytes that are no key or no certificate."""


@dataclass(frozen=True)
class PublicIdentity:
    """What everybody may know of one company or of the coordinator, as `read_public` checked it.

    Attributes
    ----------
    name : str
    signing, sealing : bytes
        Ed25519 and X25519 public keys, 32 bytes each.
    certificate : bytes
        TLS certificate, PEM.
    signature : bytes
        Ed25519 over all of the above, 64 bytes.
    """

    name: str
    signing: bytes = field(repr=False)
    sealing: bytes = field(repr=False)
    certificate: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @property
    def certificate_der(self) -> bytes:
        """The certificate as TLS shows it."""
        return x509.load_pem_x509_certificate(self.certificate).public_bytes(Encoding.DER)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over name, keys and certificate, short enough to be compared by phone."""
        signed = _signed(self.name, self.signing, self.sealing, self.certificate_der)
        return fingerprint_text(hashlib.sha256(signed).digest())

    @property
    def expires(self) -> datetime:
        """When the certificate ends, UTC."""
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc


@dataclass(frozen=True, eq=False)
class Identity:
    """One company's private keys; ``repr`` shows the name only.

    Attributes
    ----------
    signing : Ed25519PrivateKey
    sealing : KeyPair
        X25519, for `parties.sealing`.
    tls_key : bytes
        ECDSA P-256 private key, PEM of PKCS8.
    certificate : bytes
        Its self-signed certificate, PEM.
    """

    name: str
    signing: Ed25519PrivateKey = field(repr=False)
    sealing: KeyPair = field(repr=False)
    tls_key: bytes = field(repr=False)
    certificate: bytes = field(repr=False)

    @property
    def public(self) -> PublicIdentity:
        """What the others pin, signed."""
        signing = self.signing.public_key().public_bytes_raw()
        der = x509.load_pem_x509_certificate(self.certificate).public_bytes(Encoding.DER)
        signature = self.signing.sign(_signed(self.name, signing, self.sealing.public, der))
        return PublicIdentity(self.name, signing, self.sealing.public, self.certificate, signature)


def make_identity(name: str, days: int = 730, start: datetime | None = None) -> Identity:
    """Make fresh keys and a certificate for them.

    Parameters
    ----------
    name : str
        A party's name, or "coordinator".
    days : int
        How long the certificate is valid.
    start : datetime, UTC, optional
        From when on; by default from a day ago, for clocks differ.

    Raises
    ------
    ConfigError
        A name that no party can have, or a span that no certificate should have.
    """
    _check_name(name)
    if not 1 <= days <= MAX_DAYS:
        raise ConfigError(f"days of an identity, got {days}, expected 1 to {MAX_DAYS}")
    begin = start or datetime.now(UTC) - timedelta(days=1)
    key = ec.generate_private_key(ec.SECP256R1())
    return Identity(
        name=name,
        signing=Ed25519PrivateKey.generate(),
        sealing=KeyPair.fresh(),
        tls_key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate=_certify(name, key, begin, begin + timedelta(days=days)).public_bytes(Encoding.PEM),
    )


def write_identity(identity: Identity, out: Path) -> tuple[Path, Path]:
    """Write NAME.key, which its owner alone may read from its creation on, and NAME.pub; replaces nothing.

    Raises
    ------
    ConfigError
        One of the files exists, or cannot be written.
    """
    private, public = out / f"{identity.name}.key", out / f"{identity.name}.pub"
    for path in (private, public):
        if os.path.lexists(path):
            raise _exists(path)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"directory {str(out)!r} cannot be made, got: {error.strerror}") from None
    _create(private, _private_text(identity), 0o600)
    try:
        _create(public, _public_text(identity.public), 0o644)
    except BaseException:
        private.unlink()
        raise
    return private, public


def read_identity(path: Path) -> Identity:
    """Read and check a private file.

    Raises
    ------
    ConfigError
        Not there, readable by others, not such a file, its key not that of its certificate, expired.
    """
    where = f"identity {str(path)!r}"
    text, mode = _read(path, where)
    fields = _fields(text, where, _PRIVATE, ("signing", "sealing", "tls_key", "certificate"), f"{path.stem}.key")
    if mode & 0o077:
        way_out = f"600; run chmod 600 {shlex.quote(str(path))}"
        raise _refused(where, f"mode {mode:o}: others may read or change it", way_out)
    name, certificate = fields["name"], _read_certificate(fields["certificate"], fields["name"], where)
    try:
        key = load_pem_private_key(fields["tls_key"].encode(), None)
        tls_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        belongs = _spki(key.public_key()) == _spki(certificate.public_key())
    except _MALFORMED:
        raise _refused(where, "its tls_key is no private key", "the file as 'vfl keygen' wrote it") from None
    if not belongs:
        raise _refused(where, "its tls_key is not the key of its certificate", "the file as 'vfl keygen' wrote it")
    _check_dates(certificate, name, where)
    return Identity(
        name=name,
        signing=Ed25519PrivateKey.from_private_bytes(_decode(fields, "signing", 32, where)),
        sealing=KeyPair.from_private_bytes(_decode(fields, "sealing", 32, where)),
        tls_key=tls_key,
        certificate=certificate.public_bytes(Encoding.PEM),
    )


def read_public(path: Path, name: str) -> PublicIdentity:
    """Read and check the file that ``name`` shares.

    Raises
    ------
    ConfigError
        Not there, another's, a private file, not such a file, altered, expired.
    """
    where = f"identity of '{name}', {str(path)!r}"
    text, _ = _read(path, where)
    fields = _fields(text, where, _PUBLIC, ("signing", "sealing", "certificate", "signature"), f"{name}.pub")
    if fields["name"] != name:
        raise _refused(where, f"the identity of '{fields['name']}'", f"that of '{name}'; correct the path or the name")
    certificate = _read_certificate(fields["certificate"], name, where)
    found = PublicIdentity(
        name=name,
        signing=_decode(fields, "signing", 32, where),
        sealing=_decode(fields, "sealing", 32, where),
        certificate=certificate.public_bytes(Encoding.PEM),
        signature=_decode(fields, "signature", 64, where),
    )
    signed = _signed(name, found.signing, found.sealing, certificate.public_bytes(Encoding.DER))
    try:
        Ed25519PublicKey.from_public_bytes(found.signing).verify(found.signature, signed)
    except _MALFORMED:
        raise _refused(
            where, "a signature that does not fit: the file was altered or mixed up", f"{name}.pub as '{name}' has it"
        ) from None
    _check_dates(certificate, name, where)
    return found


def fingerprint_text(digest: bytes) -> str:
    """How a SHA-256 digest is shown to people.

    >>> fingerprint_text(bytes(32))
    'SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'
    """
    return "SHA256:" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _certify(name: str, key: ec.EllipticCurvePrivateKey, begin: datetime, end: datetime) -> x509.Certificate:
    """Self-signed certificate for both ends of TLS, which cannot sign another."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signs_only = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(signs_only, critical=True)
        .add_extension(x509.ExtendedKeyUsage(_USES), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )


def _read_certificate(pem: str, name: str, where: str) -> x509.Certificate:
    """Read a certificate such as `_certify` makes; dates apart."""
    try:
        with warnings.catch_warnings():  # such as a serial number below zero, which a later cryptography refuses
            warnings.simplefilter("error", CryptographyDeprecationWarning)
            certificate = x509.load_pem_x509_certificate(pem.encode())
        certificate.verify_directly_issued_by(certificate)
        key, extensions = certificate.public_key(), certificate.extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uses = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        authority = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        fits = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
        fits = fits and list(names) == [x509.DNSName(name)] and set(uses) == set(_USES) and not authority
    except (*_MALFORMED, CryptographyDeprecationWarning):
        fits = False
    if not fits:
        raise _refused(where, f"no self-signed certificate of '{name}'", "the file as 'vfl keygen' wrote it")
    return certificate


def _check_dates(certificate: x509.Certificate, name: str, where: str) -> None:
    """Refuse a certificate before and after its time."""
    begin, end, now = certificate.not_valid_before_utc, certificate.not_valid_after_utc, datetime.now(UTC)
    if now > end:
        renew = f"a valid one; '{name}' makes a new identity with vfl keygen and shares its {name}.pub"
        raise _refused(where, f"a certificate that expired on {end:%Y-%m-%d}", renew)
    if now < begin:
        raise _refused(where, f"a certificate that is valid from {begin:%Y-%m-%d} on", "a valid one; check the clock")


def _spki(key: object) -> bytes:
    """Bytes by which two public keys are compared; only P-256 keys have them here."""
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise TypeError
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _signed(name: str, signing: bytes, sealing: bytes, certificate: bytes) -> bytes:
    """What the signature and the fingerprint cover, each field with its length before it."""
    return msgspec.msgpack.encode([_PUBLIC, name, signing, sealing, certificate])


def _check_name(name: str) -> None:
    try:
        msgspec.convert(name, PartyName)
    except msgspec.ValidationError:
        got = repr(name if len(name) <= 60 else name[:57] + "...")
        raise ConfigError(
            f"name of an identity, got {got}, expected up to 64 of a-z, 0-9, '_' and '-', a letter or digit first"
        ) from None


def _refused(where: str, got: str, expected: str) -> ConfigError:
    return ConfigError(f"{where}, got {got}, expected {expected}")


def _private_text(identity: Identity) -> str:
    head = f"# PRIVATE keys of '{identity.name}' for vfl: never share this file, keep it readable by its owner alone."
    return "\n".join(
        [
            head,
            f'kind = "{_PRIVATE}"',
            f'name = "{identity.name}"',
            f'signing = "{_encode(identity.signing.private_bytes_raw())}"',
            f'sealing = "{_encode(identity.sealing.private.private_bytes_raw())}"',
            f'tls_key = """\n{identity.tls_key.decode()}"""',
            f'certificate = """\n{identity.certificate.decode()}"""\n',
        ]
    )


def _public_text(public: PublicIdentity) -> str:
    return "\n".join(
        [
            f"# Public identity of '{public.name}' for vfl: share this file with everybody in the job.",
            f"# Compare by phone: {public.fingerprint}",
            f'kind = "{_PUBLIC}"',
            f'name = "{public.name}"',
            f'signing = "{_encode(public.signing)}"',
            f'sealing = "{_encode(public.sealing)}"',
            f'certificate = """\n{public.certificate.decode()}"""',
            f'signature = "{_encode(public.signature)}"\n',
        ]
    )


def _encode(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _decode(fields: Mapping[str, str], key: str, size: int, where: str) -> bytes:
    """Bytes of one base64 field, which must be ``size`` of them."""
    try:
        found = base64.b64decode(fields[key], validate=True)
    except ValueError:
        found = b""
    if len(found) != size:
        raise _refused(where, f"a {key} that is not {size} bytes of base64", "the file as 'vfl keygen' wrote it")
    return found


def _exists(path: Path) -> ConfigError:
    return ConfigError(
        f"{str(path)!r} exists, expected no such file: an identity is never replaced, choose another directory or "
        "move the file away"
    )


def _create(path: Path, text: str, mode: int) -> None:
    """Write a file that does not exist yet, with its mode from the start."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be written, got: {error.strerror}") from None
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(handle)
    except OSError as error:
        path.unlink()
        raise ConfigError(f"{str(path)!r} cannot be written, got: {error.strerror}") from None


def _read(path: Path, where: str) -> tuple[str, int]:
    """Text and mode of a small regular file."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            regular = stat.S_ISREG(status.st_mode)
            content = file.read(MAX_BYTES + 1) if regular and status.st_size <= MAX_BYTES else b""
    except FileNotFoundError:
        raise ConfigError(f"{where}, got no such file, expected what 'vfl keygen' wrote; correct the path") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ConfigError(f"{where}, cannot be read, got: {reason}") from None
    if not regular:
        raise _refused(where, "something that is no file", "what 'vfl keygen' wrote; correct the path")
    if status.st_size > MAX_BYTES or len(content) > MAX_BYTES:
        raise _refused(where, f"more than {MAX_BYTES >> 10} KiB", "what 'vfl keygen' wrote; correct the path")
    return content.decode("ascii", errors="replace"), stat.S_IMODE(status.st_mode)


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting for whoever writes to a named pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _fields(text: str, where: str, kind: str, keys: tuple[str, ...], file: str) -> dict[str, str]:
    """Fields of a file of one kind; nothing of the text is ever shown, for it may be private."""
    private = _PRIVATE in text or "PRIVATE KEY" in text
    if kind == _PUBLIC and private:
        raise _refused(where, "a PRIVATE identity", f"{file}, the one to share; a .key file must never leave its owner")
    if kind == _PRIVATE and not private and _PUBLIC in text:
        raise _refused(where, "a public identity", f"the private file {file}, which 'vfl keygen' wrote beside it")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError):
        raise _refused(where, "malformed TOML", "the file as 'vfl keygen' wrote it") from None
    fields = {key: value for key, value in document.items() if isinstance(value, str)}
    if document.get("kind") != kind or set(document) != {"kind", "name", *keys} or len(fields) != len(document):
        raise _refused(where, "other lines than such a file has", "the file as 'vfl keygen' wrote it")
    _check_name(fields["name"])
    return fields
