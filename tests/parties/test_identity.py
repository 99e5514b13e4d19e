"""Identity files: written once and privately, read back the same, and refused in one line when anything is wrong."""

from __future__ import annotations

import base64
import os
import re
import socket
import stat
import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parties.errors import ConfigError
from parties.identity import (
    MAX_BYTES,
    Identity,
    _private_text,
    _public_text,
    _read_certificate,
    make_identity,
    read_identity,
    read_public,
    write_identity,
)
from parties.sealing import KeyPair

BANK, SHOP = make_identity("bank"), make_identity("shop")
NOW = datetime.now(UTC)


def secrets_of(identity: Identity) -> list[str]:
    """Every private key as its file writes it, line by line."""
    raw = [identity.signing.private_bytes_raw(), identity.sealing.private.private_bytes_raw()]
    lines = [line for line in identity.tls_key.decode().splitlines() if "-----" not in line]
    return [base64.b64encode(key).decode() for key in raw] + lines


def refusal(path: Path, name: str | None = None) -> str:
    """What reading the file says: one line without anything private; ``name``: it is read as that one's public file."""
    with pytest.raises(ConfigError) as caught:
        read_identity(path) if name is None else read_public(path, name)
    text = str(caught.value)
    assert "\n" not in text and str(path) in text and len(text) < 600
    assert not [secret for identity in (BANK, SHOP) for secret in secrets_of(identity) if secret in text]
    return text


def put(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    path.chmod(0o600)
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return write_identity(BANK, tmp_path)


def test_both_files_read_back_the_same(files: tuple[Path, Path]) -> None:
    private, public = files
    assert (private.name, public.name) == ("bank.key", "bank.pub")
    read = read_identity(private)
    assert read.public == read_public(public, "bank") == BANK.public
    assert secrets_of(read) == secrets_of(BANK)
    assert read.sealing.public == BANK.public.sealing


def test_modes_hold_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        private, public = write_identity(BANK, tmp_path / "made" / "here")
    finally:
        os.umask(before)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644


def test_the_private_file_is_private_from_its_creation_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: dict[str, tuple[int, int]] = {}
    real = os.open

    def spy(path: str, flags: int, mode: int = 0o777) -> int:
        opened[Path(path).name] = (flags, mode)
        return real(path, flags, mode)

    monkeypatch.setattr("parties.identity.os.open", spy)
    write_identity(BANK, tmp_path)
    assert opened["bank.key"] == (os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)


@pytest.mark.parametrize("suffix", ["key", "pub"])
@pytest.mark.parametrize("dangling", [False, True])
def test_nothing_is_replaced(tmp_path: Path, suffix: str, dangling: bool) -> None:
    path = tmp_path / f"bank.{suffix}"
    path.symlink_to("nowhere") if dangling else path.write_text("mine")
    with pytest.raises(ConfigError, match=rf"bank\.{suffix}' exists, expected no such file") as caught:
        write_identity(BANK, tmp_path)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert dangling or path.read_text() == "mine"


def test_a_file_that_appears_in_between_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check beforehand is for the message; what protects is exclusive creation."""
    (tmp_path / "bank.pub").write_text("mine")
    monkeypatch.setattr("parties.identity.os.path.lexists", lambda _: False)
    with pytest.raises(ConfigError, match="exists"):
        write_identity(BANK, tmp_path)
    assert (tmp_path / "bank.pub").read_text() == "mine"
    assert not (tmp_path / "bank.key").exists()


def test_directories_that_cannot_be_made_or_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(ConfigError, match="cannot be") as caught:
            write_identity(BANK, out)
        assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_is_full_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("parties.identity.os.fsync", full)
    with pytest.raises(ConfigError, match="cannot be written, got: No space left"):
        write_identity(BANK, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_say_what_they_are(files: tuple[Path, Path]) -> None:
    private, public = (file.read_text() for file in files)
    assert private.startswith("# PRIVATE keys of 'bank'") and "never share" in private.splitlines()[0]
    assert public.startswith("# Public identity of 'bank'") and "share this file" in public.splitlines()[0]
    assert BANK.public.fingerprint in public.splitlines()[1]
    assert not [secret for secret in secrets_of(BANK) if secret in public]
    assert all(isinstance(value, str) for text in (private, public) for value in tomllib.loads(text).values())


def test_repr_shows_no_secret() -> None:
    shown = repr(BANK) + repr(BANK.public) + str(BANK)
    assert shown.count("bank") == 3
    assert not [secret for secret in secrets_of(BANK) if secret in shown]
    assert "PRIVATE" not in shown


@pytest.mark.parametrize("name", ["coordinator", "a", "0", "x" * 64, "a_b-c"])
def test_names_that_are_fine(tmp_path: Path, name: str) -> None:
    private, public = write_identity(make_identity(name), tmp_path)
    assert read_identity(private).public == read_public(public, name)


@pytest.mark.parametrize("name", ["", "Bank", "a b", "../up", "x" * 65, "bank\n", "-a", "ä", "x" * 500, "a\0b"])
def test_names_that_are_not(name: str) -> None:
    with pytest.raises(ConfigError, match="name of an identity, got") as caught:
        make_identity(name)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize("days", [0, -1, 3651])
def test_spans_that_are_not(days: int) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 3650"):
        make_identity("bank", days)


def test_the_certificate_names_its_owner_serves_both_ends_and_signs_no_other() -> None:
    certificate = x509.load_pem_x509_certificate(BANK.certificate)
    extensions = certificate.extensions
    assert extensions.get_extension_for_class(x509.BasicConstraints).value == x509.BasicConstraints(False, None)
    assert list(extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == [x509.DNSName("bank")]
    uses = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert uses == {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=730)
    assert BANK.public.expires == certificate.not_valid_after_utc > NOW + timedelta(days=728)
    certificate.verify_directly_issued_by(certificate)
    assert BANK.public.certificate_der == certificate.public_bytes(Encoding.DER)


def test_every_field_is_in_the_fingerprint() -> None:
    public = BANK.public
    others = [
        replace(public, name="bark"),
        replace(public, signing=bytes(32)),
        replace(public, sealing=bytes(32)),
        replace(public, certificate=SHOP.certificate),
        replace(public, signing=public.sealing, sealing=public.signing),
    ]
    prints = [one.fingerprint for one in (public, *others)]
    assert len(set(prints)) == len(prints)
    assert all(re.fullmatch(r"SHA256:[A-Za-z0-9_-]{43}", one) for one in prints)
    assert replace(public, signature=bytes(64)).fingerprint == public.fingerprint


def test_two_identities_of_one_name_have_nothing_in_common() -> None:
    one, other = make_identity("bank"), make_identity("bank")
    assert not set(secrets_of(one)) & set(secrets_of(other))
    assert one.public.fingerprint != other.public.fingerprint


# The private file


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o700 | 0o001, 0o620])
def test_a_private_file_that_others_may_touch(files: tuple[Path, Path], mode: int) -> None:
    files[0].chmod(mode)
    told = refusal(files[0])
    assert f"got mode {mode:o}" in told and f"chmod 600 {files[0]}" in told


def test_a_stricter_mode_is_fine(files: tuple[Path, Path]) -> None:
    files[0].chmod(0o400)
    assert read_identity(files[0]).name == "bank"


def test_a_public_file_in_the_place_of_a_private_one(files: tuple[Path, Path]) -> None:
    assert "got a public identity, expected the private file bank.key" in refusal(files[1])


def test_a_key_that_is_not_the_certificates(tmp_path: Path) -> None:
    mixed = replace(BANK, tls_key=SHOP.tls_key)
    assert "tls_key is not the key of its certificate" in refusal(put(tmp_path / "bank.key", _private_text(mixed)))


def test_a_certificate_of_somebody_else_in_a_private_file(tmp_path: Path) -> None:
    mixed = replace(BANK, tls_key=SHOP.tls_key, certificate=SHOP.certificate)
    assert "no self-signed certificate of 'bank'" in refusal(put(tmp_path / "bank.key", _private_text(mixed)))


@pytest.mark.parametrize("kind", ["rsa", "p384", "ed25519", "nothing"])
def test_tls_keys_of_other_kinds(tmp_path: Path, kind: str) -> None:
    key = {
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "ed25519": Ed25519PrivateKey.generate,
        "nothing": lambda: None,
    }[kind]()
    pem = b"x\n" if key is None else key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    told = refusal(put(tmp_path / "bank.key", _private_text(replace(BANK, tls_key=pem))))
    assert "tls_key is" in told


# Dates


@pytest.mark.parametrize(
    ("start", "told"),
    [(NOW - timedelta(days=800), "expired on"), (NOW + timedelta(days=2), "valid from")],
)
def test_certificates_out_of_their_time(tmp_path: Path, start: datetime, told: str) -> None:
    private, public = write_identity(make_identity("bank", start=start), tmp_path)
    assert told in refusal(private)
    assert told in refusal(public, "bank")


# The public file


def test_a_private_file_in_the_place_of_a_public_one(files: tuple[Path, Path]) -> None:
    told = refusal(files[0], "bank")
    assert "got a PRIVATE identity, expected bank.pub" in told and "never leave" in told


def test_a_private_file_is_known_whatever_was_done_to_it(tmp_path: Path) -> None:
    text = _private_text(BANK).replace("vfl private identity 1", "vfl public identity 1")
    assert "got a PRIVATE identity" in refusal(put(tmp_path / "bank.pub", text + "\n= broken"), "bank")
    assert "got a PRIVATE identity" in refusal(put(tmp_path / "pem", SHOP.tls_key.decode()), "shop")


def test_anothers_public_file(files: tuple[Path, Path]) -> None:
    assert "got the identity of 'bank', expected that of 'shop'" in refusal(files[1], "shop")


@pytest.mark.parametrize("field", ["name", "signing", "sealing", "certificate", "signature"])
def test_a_public_file_with_a_field_of_another(tmp_path: Path, field: str) -> None:
    mixed = replace(BANK.public, **{field: getattr(SHOP.public, field)})
    told = refusal(put(tmp_path / "mixed.pub", _public_text(mixed)), mixed.name)
    expected = "certificate of" if field in ("name", "certificate") else "altered or mixed up"
    assert expected in told


def test_a_public_file_with_a_newer_certificate_of_the_same_name(tmp_path: Path) -> None:
    mixed = replace(BANK.public, certificate=make_identity("bank").certificate)
    assert "altered or mixed up" in refusal(put(tmp_path / "bank.pub", _public_text(mixed)), "bank")


@pytest.mark.parametrize("field", ["signing", "sealing", "signature"])
@pytest.mark.parametrize("value", ["", "AAAA", "no base64!", "A" * 43, base64.b64encode(bytes(33)).decode(), "é"])
def test_keys_of_wrong_sizes(tmp_path: Path, field: str, value: str) -> None:
    text = re.sub(rf'(?m)^{field} = ".*"$', f'{field} = "{value}"', _public_text(BANK.public))
    assert f"a {field} that is not" in refusal(put(tmp_path / "bank.pub", text), "bank")


def certify(name: str = "bank", *, authority: bool = False, uses: int = 2, issuer: str | None = None) -> Identity:
    """An identity whose certificate is of another kind, rightly signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issued = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer or name)])
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH][:uses]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issued)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=9))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key if issuer is None else ec.generate_private_key(ec.SECP256R1()), SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Identity("bank", Ed25519PrivateKey.generate(), KeyPair.fresh(), pem, certificate.public_bytes(Encoding.PEM))


def test_the_usual_kind_passes(tmp_path: Path) -> None:
    write_identity(certify(), tmp_path)
    assert read_public(tmp_path / "bank.pub", "bank").name == read_identity(tmp_path / "bank.key").name


@pytest.mark.parametrize(
    "odd", [{"authority": True}, {"uses": 1}, {"name": "shop"}, {"issuer": "bank"}, {"issuer": "ca"}], ids=str
)
def test_certificates_of_other_kinds(tmp_path: Path, odd: dict[str, object]) -> None:
    """One that may sign others, serves one end only, names somebody else, or is not signed by itself."""
    private, public = write_identity(certify(**odd), tmp_path)
    assert "no self-signed certificate of 'bank'" in refusal(public, "bank")
    assert "no self-signed certificate of 'bank'" in refusal(private)


def test_what_stands_around_a_certificate_is_dropped(tmp_path: Path) -> None:
    text = _public_text(BANK.public).replace('certificate = """\n', 'certificate = """\nnotes\n')
    assert read_public(put(tmp_path / "bank.pub", text), "bank") == BANK.public


# Both


@pytest.mark.parametrize("name", [None, "bank"], ids=["private", "public"])
def test_files_that_are_none(tmp_path: Path, name: str | None) -> None:
    suffix = "key" if name is None else "pub"
    good = (_private_text(BANK) if name is None else _public_text(BANK.public)).encode()
    path = tmp_path / f"bank.{suffix}"
    assert "no such file" in refusal(path, name)
    for content, told in [
        (b"", "other lines"),
        (b"= 3", "malformed TOML"),
        (b"a = " + b"[" * 60_000, "malformed TOML"),
        (b"a = " + b"1" * 60_000, "malformed TOML"),
        (good + b"extra = 1\n", "other lines"),
        (good.replace(b"sealing", b"sailing"), "other lines"),
        (good.replace(b' 1"\nname', b' 2"\nname'), "other lines"),
        (re.sub(rb"(?m)^sealing = .*$", b"sealing = 3", good), "other lines"),
        (re.sub(rb"(?m)^name = .*$", b'name = "../up"', good), "name of an identity"),
        (
            re.sub(rb"(?s)-----BEGIN CERTIFICATE-----.*?-----END", b"-----BEGIN CERTIFICATE-----\n-----END", good),
            "cert",
        ),
        (good + b" " * MAX_BYTES, "more than 64 KiB"),
        (b"\xff\xfe" + good, "malformed TOML"),
    ]:
        path.write_bytes(content)
        path.chmod(0o600)
        if "name of an identity" in told:
            with pytest.raises(ConfigError, match=told):
                read_identity(path) if name is None else read_public(path, name)
        else:
            assert told in refusal(path, name), content[:80]


@pytest.mark.parametrize("name", [None, "bank"], ids=["private", "public"])
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path, name: str | None) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "no file" in refusal(tmp_path / "pipe", name)
    assert "Is a directory" in refusal(tmp_path, name)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be read" in refusal(tmp_path / "loop", name)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
        assert "cannot be read" in refusal(tmp_path / "socket", name)
    with pytest.raises(ConfigError, match="not a path"):
        read_identity(Path("a\0b"))


def test_windows_line_ends_are_fine(files: tuple[Path, Path]) -> None:
    for file in files:
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    assert read_identity(files[0]).public == read_public(files[1], "bank") == BANK.public


def test_a_certificate_that_only_warns_is_refused() -> None:
    """A serial number below zero, which cryptography reads with a warning."""
    certificate = x509.load_pem_x509_certificate(BANK.certificate)
    whole = certificate.public_bytes(Encoding.DER)
    serial = certificate.serial_number
    encoded = serial.to_bytes(serial.bit_length() // 8 + 1)
    der = whole.replace(encoded, bytes([encoded[0] | 0x80]) + encoded[1:], 1)
    assert der != whole
    pem = "-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der).decode() + "-----END CERTIFICATE-----\n"
    with pytest.raises(ConfigError, match="no self-signed certificate of 'bank'"):
        _read_certificate(pem, "bank", "bank.pub")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(at=st.integers(0, 2000), byte=st.integers(0, 255), private=st.booleans())
def test_any_changed_byte_is_refused_or_harmless(tmp_path: Path, at: int, byte: int, private: bool) -> None:
    content = bytearray((_private_text(BANK) if private else _public_text(BANK.public)).encode())
    content[at % len(content)] = byte
    path = tmp_path / "changed"
    path.write_bytes(content)
    path.chmod(0o600)
    try:
        read = read_identity(path) if private else read_public(path, "bank")
    except ConfigError as error:
        assert "\n" not in str(error)
        assert not [secret for secret in secrets_of(BANK) if secret in str(error)]
    else:
        assert read.name == "bank"
        assert private or read == BANK.public
