"""Every decoder against bytes that were altered or made up: only the errors that it documents, in little memory.

    python -m tests.chaos.fuzz [--count N] [--seconds S] [--seed SEED] [--only NAME]

Inputs are samples with a few alterations, and noise; where a check sum guards a format, half of them bear a right one,
so that what lies behind it is reached. Each process may take 256 MiB beyond what its imports need. A failure names
decoder and seed, and leaves the input in a file.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import io
import multiprocessing
import os
import random
import re
import resource
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from parties import budget as budget_file
from parties import wire
from parties.budget import Budget
from parties.checkpoint_file import Header as CheckpointHeader
from parties.checkpoint_file import entries, read_arrays, read_header, write_checkpoint
from parties.codec import decode, encode
from parties.dial import Greeting, Welcome, _read_welcome
from parties.errors import ConfigError, CryptoError, DataError, PolicyError, RemoteProtocolError
from parties.frame import HELLO, MESSAGE, WELCOME, Frame, Header, read_frame, write_frame
from parties.hub import _read_greeting
from parties.identity import make_identity, read_identity, read_public, write_identity
from parties.inbox import Inbox
from parties.ledger import read_ledger
from parties.wire import Payload
from tests.chaos.between_companies import write_job
from tests.runs.companies import make_boosted, make_companies
from vfl import cli
from vfl.company_file import load_company, load_joining
from vfl.exchange import receive_key, send_ciphers, send_key
from vfl.job_file import load_scenario
from vfl.kept_run import load_kept_run
from vfl.paillier import encrypt, from_bytes, generate_keypair
from vfl.report.evidence import load_evidence
from vfl.report.run_directory import read_report
from vfl.run_folder import State, _read_state
from vfl.shard import load_shard
from vfl.tree_shard import load_tree_shard

MEMORY = 256 << 20  # bytes beyond what the imports took
LEAST = 10_000  # executions of every decoder in the long form
BATCH = 500
HANGS = 60.0  # seconds for a batch
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)


@dataclass(frozen=True)
class Target:
    """A decoder: samples to alter, what it may raise, and how a check sum is made right again."""

    name: str
    samples: Sequence[bytes]
    run: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]
    seal: Callable[[bytes], bytes] | None = None


# What is altered


def alter(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """One to three alterations of a sample, or noise."""
    if rng.random() < 0.02:
        return rng.randbytes(rng.randrange(200))
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = _alter_once(data, rng, others)
    return data


def _alter_once(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    if not data:
        return rng.randbytes(rng.randrange(1, 20))
    # what is near the beginning is altered more often: there the lengths are
    at = int(len(data) * rng.random() ** 2)
    kind = rng.randrange(8)
    if kind == 0:
        return data[:at] + bytes((data[at] ^ 1 << rng.randrange(8),)) + data[at + 1 :]
    if kind == 1:
        return data[:at] + bytes((rng.randrange(256),)) + data[at + 1 :]
    if kind == 2:
        return data[:at]
    if kind == 3:
        size = rng.choice((1, 2, 4, 8))
        number = rng.choice(NUMBERS) & (1 << 8 * size) - 1
        return data[:at] + number.to_bytes(size, rng.choice(("little", "big"))) + data[at + size :]
    if kind == 4:
        return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]
    if kind == 5:
        end = min(len(data), at + rng.randrange(1, 65))
        return data[:end] + data[at:end] * rng.randrange(1, 4) + data[end:]
    if kind == 6:
        return data[:at] + data[at + rng.randrange(1, 17) :]
    other = rng.choice(others)
    return data[:at] + other[int(len(other) * rng.random()) :]


# What decodes


class _Wire:
    """A connection on which one frame has come."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)

    def read(self) -> Frame:
        return read_frame(self._exactly)

    def _exactly(self, count: int) -> bytes:
        if count > 1 << 21:
            raise AssertionError(f"{count} bytes were asked for")
        data = self._stream.read(count)
        if len(data) < count:
            raise EOFError
        return data


def _seal_frame(data: bytes) -> bytes:
    if len(data) < 32:
        return data
    return data[:28] + struct.pack("<I", zlib.crc32(data[32:], zlib.crc32(data[:28]))) + data[32:]


def _frames() -> Target:
    header = Header("bank", "shop", "glm_exact.residual", 7, 2, False)
    samples = [write_frame(Frame(MESSAGE, header, bytes(range(200)), 5, 3)), write_frame(Frame(8, Header("a", "b")))]
    return Target("frames", samples, lambda data: _Wire(data).read(), (RemoteProtocolError, EOFError), _seal_frame)


def _greetings() -> list[Target]:
    hello = Frame(HELLO, Header("bank", "coordinator"), msgspec.msgpack.encode(Greeting(bytes(16), 3, True)))
    welcome = Frame(WELCOME, Header("coordinator", "bank"), msgspec.msgpack.encode(Welcome(True, 3)))
    errors = (RemoteProtocolError, EOFError)
    return [
        Target("hello", [write_frame(hello)], lambda d: _read_greeting(_Wire(d), "bank"), errors, _seal_frame),  # type: ignore[arg-type]
        Target("welcome", [write_frame(welcome)], lambda d: _read_welcome(_Wire(d), Inbox()), errors, _seal_frame),  # type: ignore[arg-type]
    ]


def _payloads() -> list[Payload]:
    """One of every type."""
    rng = np.random.default_rng(1)
    body = rng.integers(0, 256, (3, 40), dtype=np.uint8)
    counts = np.array([[1, 2], [2, 1], [3, 3]], dtype=np.int64)
    facts: dict[str, bool | int | float | str | None] = {"rows": 300, "loss": 0.5, "go": True, "why": None, "x": "é"}
    made = {
        "Hello": wire.Hello(bytes(32), {"training.l2": "0.1"}, "run", (1, 2)),
        "Roster": wire.Roster({"bank": bytes(32)}, "run", 2),
        "PaillierKey": wire.PaillierKey(b"n" * 64, b"h" * 128, 448),
        "Control": wire.Control(facts),
        "Revealed": wire.Revealed(facts, rng.normal(size=5)),
        "Masked": wire.Masked(rng.integers(0, 1 << 63, (4, 2), dtype=np.uint64)),
    }
    payloads: list[Payload] = []
    for kind in _kinds(Payload):
        if kind.__name__ in made:
            payloads.append(made[kind.__name__])
            continue
        fields = {}
        for field in msgspec.structs.fields(kind):
            text = str(field.type)
            fields[field.name] = (
                b"k" * 32 if field.type is bytes else _array(text, body, counts) if "ndarray" in text else facts
            )
        payloads.append(kind(**fields))
    return payloads


def _array(annotation: str, body: object, counts: np.ndarray) -> object:
    """An array of the type that is declared."""
    named = re.search(r"(u?int\d+|float\d+|bool)", annotation.rpartition("dtype")[2])
    kind = np.dtype(named.group(1) if named else "uint8")
    return body if kind == np.uint8 else counts.astype(kind)


def _kinds(parent: type[Payload]) -> list[type[Payload]]:
    return [kind for child in parent.__subclasses__() for kind in (child, *_kinds(child))]


def _messages() -> list[Target]:
    payloads = _payloads()
    samples = [encode(payload) for payload in payloads]

    def decoder(kind: type[Payload]) -> Callable[[bytes], object]:
        return lambda data: decode(kind, data)

    return [
        Target(
            f"message {type(payload).__name__}", [own, own, *samples], decoder(type(payload)), (RemoteProtocolError,)
        )
        for payload, own in zip(payloads, samples, strict=True)
    ]


def _ciphers() -> list[Target]:
    """Ciphertexts as they are read from the wire: payload, key, group membership."""
    private = generate_keypair(512, insecure_test_mode=True)
    key = private.public
    body = send_ciphers(encrypt(key, [1, 2, 3])).body
    n, width = int(key.n), key.ciphertext_bytes
    p, _ = private.primes()
    minus = next(x for x in range(2, 99) if _jacobi(x, n) == -1)
    outside = [0, n * n, n * n + 1, (1 << 8 * width) - 1, p, n, p * p, minus, n * p]
    wrong = [x.to_bytes(width, "big") for x in outside if x >> 8 * width == 0]
    for number in wrong:
        rows = np.frombuffer(number + body.tobytes()[width:], dtype=np.uint8).reshape(3, width)
        try:
            from_bytes(key, rows, count=3)
        except CryptoError:
            continue
        raise AssertionError("a number outside the group was taken for a ciphertext")

    def read(data: bytes) -> None:
        size = len(data) // width
        from_bytes(key, np.frombuffer(data[: size * width], dtype=np.uint8).reshape(size, width), count=3)

    payload = encode(send_key(key))
    return [
        Target("ciphertexts", [body.tobytes()], read, (CryptoError,)),
        Target(
            "public key",
            [payload],
            lambda data: receive_key(decode(wire.PaillierKey, data), "bank", 512),
            (RemoteProtocolError,),
        ),
    ]


def _jacobi(a: int, n: int) -> int:
    sign = 1
    a %= n
    while a:
        while a % 2 == 0:
            a //= 2
            sign = -sign if n % 8 in (3, 5) else sign
        a, n = n, a
        sign = -sign if a % 4 == n % 4 == 3 else sign
        a %= n
    return sign if n == 1 else 0


def _file_reader(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    def run(data: bytes) -> None:
        path.write_bytes(data)
        read(path)

    return run


def _checkpoints(folder: Path) -> Target:
    path = folder / "sample.ckpt"
    arrays = {"z": np.arange(6.0).reshape(2, 3), "rows": np.arange(9), "on": np.asfortranarray(np.ones((2, 2), bool))}
    header = CheckpointHeader("run", "0" * 64, "bank", 3, "", {"newton": 2, "setup": {"bits": [1, 2]}}, entries(arrays))
    write_checkpoint(path, header, arrays)

    def read(path: Path) -> None:
        with path.open("rb") as file:
            read_arrays(file, read_header(file))

    def seal(data: bytes) -> bytes:
        return data[:-32] + hashlib.sha256(data[:-32]).digest()

    return Target("checkpoints", [path.read_bytes()], _file_reader(folder / "c", read), (ValueError, OSError), seal)


def _states(folder: Path) -> list[Target]:
    state = msgspec.json.encode(State(role="bank", job="0" * 64, run="r", generation=3, progress="saved")) + b"\n"
    path = folder / "budgets.json"
    counts = Budget.open(path, "run")
    counts.bind("a" * 64)
    counts.spend_evaluation(1, np.ones((3, 1)))
    counts.spend_rows(1, 40, [b"x"])

    def seal(data: bytes) -> bytes:
        line = data.partition(b"\n")[0]
        return line + b"\n" + hashlib.sha256(line).hexdigest().encode() + b"\n"

    read_state = _file_reader(folder / "s", lambda path: _read_state(folder, path))
    read_budget = _file_reader(folder / "b", budget_file._read)
    return [
        Target("state file", [state], read_state, (ConfigError,)),
        Target("budgets", [path.read_bytes()], read_budget, (PolicyError,), seal),
    ]


def _identities(folder: Path) -> list[Target]:
    private, public = write_identity(make_identity("bank"), folder / "keys")
    own = folder / "i"
    own.touch(0o600)
    own.chmod(0o600)
    read_key = _file_reader(own, read_identity)
    read_pub = _file_reader(own, lambda path: read_public(path, "bank"))
    return [
        Target(".key files", [private.read_bytes()], read_key, (ConfigError,)),
        Target(".pub files", [public.read_bytes()], read_pub, (ConfigError,)),
    ]


def _shards(folder: Path) -> list[Target]:
    targets = []
    for kind, load in (("glm", load_shard), ("trees", load_tree_shard)):
        make = make_companies if kind == "glm" else make_boosted
        companies = make(folder / kind, passive=1, rows=200, columns=2, messy=True)
        companies.write()
        out = folder / f"{kind} run"
        assert cli.execute(["run", str(companies.folder), "--in-process", "--no-baselines", "--out", str(out)]) == 0
        samples = [
            (out / name / "model.json").read_bytes() + b"\0" + (out / name / "model.npz").read_bytes()
            for name in companies.parties
        ]
        targets.append(
            Target(f"shards, {kind}", samples, _shard_reader(folder / f"{kind} m", load), (DataError,), _fit)
        )
    targets.append(_ledgers(folder, (folder / "glm run" / "ledger.jsonl").read_bytes()))
    return [*targets, *_what_runs_leave(folder, folder / "glm run")]


def _what_runs_leave(folder: Path, run: Path) -> list[Target]:
    """Files of a run that later commands read."""
    own = folder / "bank again"
    own.mkdir()
    (own / "model.json").write_bytes((run / "bank" / "model.json").read_bytes())
    kept, evidence, report = (run / name for name in ("bank/run.json", "bank/evidence.npz", "report.json"))
    return [
        Target("run.json", [kept.read_bytes()], _file_reader(own / kept.name, _of_folder(load_kept_run)), (DataError,)),
        Target(
            "evidence.npz",
            [evidence.read_bytes()],
            _file_reader(own / evidence.name, _of_folder(load_evidence)),
            (DataError,),
        ),
        Target("report.json", [report.read_bytes()], _file_reader(own / report.name, read_report), (DataError,)),
    ]


def _of_folder(load: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda file: load(file.parent)


def _shard_reader(folder: Path, load: Callable[[Path], object]) -> Callable[[bytes], None]:
    folder.mkdir()

    def run(data: bytes) -> None:
        text, _, arrays = data.partition(b"\0")
        (folder / "model.json").write_bytes(text)
        (folder / "model.npz").write_bytes(arrays)
        load(folder)

    return run


def _fit(data: bytes) -> bytes:
    """Let model.json name the arrays as they are."""
    text, _, arrays = data.partition(b"\0")
    digest = hashlib.sha256(arrays).hexdigest().encode()
    return re.sub(rb'("arrays_sha256": ")[0-9a-f]*', rb"\g<1>" + digest, text) + b"\0" + arrays


def _ledgers(folder: Path, ledger: bytes) -> Target:
    lines = b"".join(ledger.splitlines(keepends=True)[:4])
    return Target("ledger", [lines], _file_reader(folder / "l", read_ledger), (DataError,))


def _jobs(folder: Path) -> list[Target]:
    companies = make_companies(folder / "job", passive=1, rows=20, columns=1)
    job = write_job(companies)
    scenario = (job.folder / "scenario.toml").read_bytes()
    text, own = (job.folder / "job.toml").read_bytes(), (job.folder / "bank.toml").read_bytes()
    refused = (ConfigError, DataError, PolicyError)
    at = job.folder / "fuzzed.toml"
    return [
        Target("scenario files", [scenario], _file_reader(at, load_scenario), refused),
        Target("job files", [text], _file_reader(at, load_company), refused),
        Target("party files", [own], _file_reader(at, load_joining), refused),
    ]


def all_targets(folder: Path) -> list[Target]:
    """Every decoder; samples and files stand in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = _jobs(folder)
    return [
        _frames(),
        *_greetings(),
        *_messages(),
        *_ciphers(),
        _checkpoints(folder),
        *_states(folder),
        *_identities(folder),
        *_shards(folder),
        *jobs,
    ]


# The runs


def execute(target: Target, seed: str, count: int) -> int:
    """Decode so many inputs; returns how many were accepted, and raises what no decoder may."""
    rng = random.Random(f"{seed} {target.name}")
    samples, accepted = target.samples, 0
    for sample in samples[:1]:
        target.run(sample)
    for done in range(count):
        if done % BATCH == 0:
            faulthandler.dump_traceback_later(HANGS, exit=True)
        data = alter(rng.choice(samples), rng, samples)
        if target.seal is not None and rng.random() < 0.5:
            data = target.seal(data)
        try:
            target.run(data)
            accepted += 1
        except target.allowed:
            pass
        except BaseException as error:
            kept = Path(tempfile.gettempdir()) / f"fuzz-{target.name.replace(' ', '-')}-{done}"
            kept.write_bytes(data)
            raise AssertionError(f"{target.name}, seed {seed!r}, input {done} in {kept}: {error!r}") from error
    faulthandler.cancel_dump_traceback_later()
    return accepted


def limit_memory() -> None:
    """Let this process take ``MEMORY`` more than it has, and no more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def lying_lengths(targets: Sequence[Target]) -> None:
    """Lengths of a terabyte: refused, and nothing is reserved for them."""
    huge = 1 << 40
    frame = struct.pack("<2sBBIIQQI", b"VF", 2, 0, 10, 0xFFFFFFFF, 1, 0, 0)
    header = msgspec.msgpack.encode([["uint64", huge // 8, 1]])
    message = struct.pack("<I", len(header)) + header
    prefix = struct.pack("<8sQ", b"vfl-ckpt", huge)
    ckpt = prefix + bytes(100)
    inputs = {"frames": frame, "message Masked": message, "checkpoints": ckpt}
    for target in targets:
        for data in [inputs[target.name]] if target.name in inputs else []:
            for given in (data, target.seal(data) if target.seal else data):
                try:
                    target.run(given)
                except target.allowed:
                    continue
                raise AssertionError(f"{target.name} took a length of a terabyte")


def _work(order: tuple[str, str, Mapping[str, int], float]) -> dict[str, tuple[int, int, float]]:
    """One process: so many executions of every decoder, or as many as fit into the seconds."""
    folder, seed, counts, seconds = order
    with open(os.devnull, "w") as quiet:  # the samples' runs say much
        os.dup2(quiet.fileno(), 1)
        targets = all_targets(Path(folder))
    limit_memory()
    lying_lengths(targets)
    done = {}
    for target in targets:
        if target.name not in counts:
            continue
        start, number, accepted = time.perf_counter(), 0, 0
        while number < counts[target.name] or time.perf_counter() - start < seconds:
            part = min(BATCH, counts[target.name] - number) if not seconds else BATCH
            accepted += execute(target, f"{seed}/{number}", part)
            number += part
        done[target.name] = (number, accepted, time.perf_counter() - start)
    return done


def run_all(folder: Path, seed: str, counts: Mapping[str, int], seconds: float, workers: int) -> dict[str, list[float]]:
    """Share the executions out among processes; per decoder executions, accepted inputs and seconds."""
    shares = {name: -(-count // workers) for name, count in counts.items()}
    orders = [(str(folder / str(number)), f"{seed}/{number}", shares, seconds) for number in range(workers)]
    total: dict[str, list[float]] = {name: [0, 0, 0.0] for name in counts}
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for done in pool.imap_unordered(_work, orders):
            for name, figures in done.items():
                total[name] = [a + b for a, b in zip(total[name], figures, strict=True)]
    return total


def share_out(rates: Mapping[str, float], count: int) -> dict[str, int]:
    """Executions of every decoder: no fewer than ``LEAST``, and what is left equally among the quick ones."""
    quick = [name for name in rates if rates[name] > max(rates.values()) / 5]
    counts = dict.fromkeys(rates, min(LEAST, count // len(rates)))
    left = count - sum(counts.values())
    return counts | {name: counts[name] + max(0, -(-left // len(quick))) for name in quick}


def main() -> None:
    """Fuzz, and print what came of it."""
    parser = argparse.ArgumentParser(description="Fuzz every decoder.")
    parser.add_argument("--count", type=int, default=0, help="executions in all; the quick decoders take most of them")
    parser.add_argument("--seconds", type=float, default=0.0, help="seconds per decoder and process instead")
    parser.add_argument("--seed", default=time.strftime("%Y%m%d%H%M%S"))
    parser.add_argument("--only", default="", help="decoders whose name contains this")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    start = time.perf_counter()
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - quick, and gone at the end
    with tempfile.TemporaryDirectory(dir=where) as name:
        folder = Path(name)
        with suppress(KeyboardInterrupt):
            names = _names(folder / "names")
            names = [name for name in names if given.only in name]
            counts = dict.fromkeys(names, 0)
            if given.count:
                first = run_all(folder / "rates", f"{given.seed} rates", dict.fromkeys(names, 1000), 0.0, 1)
                rates = {name: figures[0] / figures[2] for name, figures in first.items()}
                counts = share_out(rates, given.count)
            seconds = 0.0 if given.count else given.seconds or 5.0
            total = run_all(folder / "all", given.seed, counts, seconds, given.workers)
            print(f"seed {given.seed}, {given.workers} processes, {MEMORY >> 20} MiB each\n")
            print("| decoder | executions | accepted | per second and process |\n| --- | ---: | ---: | ---: |")
            for decoder, (number, accepted, took) in total.items():
                print(f"| {decoder} | {number:,.0f} | {accepted:,.0f} | {number / took:,.0f} |")
            executions = sum(figures[0] for figures in total.values())
            print(f"\n{executions:,.0f} executions in {time.perf_counter() - start:.0f} s")


def _names(folder: Path) -> list[str]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(target_names, (str(folder),))


def target_names(folder: str) -> list[str]:
    """Names of all decoders, found out in a process of its own."""
    with open(os.devnull, "w") as quiet:
        os.dup2(quiet.fileno(), 1)
        return [target.name for target in all_targets(Path(folder))]


if __name__ == "__main__":
    sys.exit(main())
