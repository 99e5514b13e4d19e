"""An alignment of lists that memory does not hold: what every role takes, from CSV to aligned CSV.

    python -m benchmarks.psi_out_of_core [--ids 50000000] [--bucket-ids 2000000] [--protocol kkrt] [--parties 2]
                                         [--kill SECONDS] [--folder DIR]

Writes a CSV of so many ids for each party, half of them common to all, then starts the roles as companies do:
``vfl coordinator --psi`` and ``vfl psi PARTY``, processes that talk over TLS on the loopback interface. Prints wall
seconds, CPU seconds and peak memory of each, and the bytes that it sent. The aligned files are compared line by line.
``--kill`` kills the first party after so many seconds and starts it again: the alignment then goes on with the first
bucket that not all roles had kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from parties.identity import make_identity, write_identity
from parties.ledger import read_ledger
from parties.link import COORDINATOR

BATCH = 1 << 16


@dataclass(frozen=True)
class Used:
    """What a role's process took."""

    wall: float
    cpu: float
    memory: int
    sent: int


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_lists(folder: Path, names: list[str], ids: int) -> None:
    """A CSV per party in an order of its own; the common ids are scattered among the others."""
    step = next(step for step in range(ids // 3 | 1, 2 * ids, 2) if _coprime(step, ids))
    for number, name in enumerate(names):
        with (folder / f"{name}.csv").open("w") as file:
            file.write("id,amount\n")
            for start in range(0, ids, BATCH):
                rows = range(start, min(start + BATCH, ids))
                places = [(row * step + number) % ids for row in rows]
                file.writelines(f"{_id(number, place)},{place % 997}.5\n" for place in places)


def _coprime(step: int, ids: int) -> bool:
    while ids:
        step, ids = ids, step % ids
    return step == 1


def _id(party: int, place: int) -> str:
    """Even places are everybody's, odd ones the party's own."""
    return f"user{place:010d}" if place % 2 == 0 else f"only{party}{place:09d}"


def write_job(folder: Path, names: list[str], protocol: str, bucket_ids: int, port: int) -> None:
    """Keys, the job, and a file per party."""
    for name in (COORDINATOR, *names):
        write_identity(make_identity(name), folder)
    job = ['name = "out-of-core"', 'model = "logistic"', "[alignment]", f'protocol = "{protocol}"']
    job += [f"bucket_ids = {bucket_ids}", "[coordinator]", f'address = "127.0.0.1:{port}"']
    job += ['identity = "coordinator.pub"']
    for number, name in enumerate(names):
        role = "passive" if number else "active"
        job += ["[[party]]", f'name = "{name}"', f'role = "{role}"', f'identity = "{name}.pub"']
        own = [f'name = "{name}"', 'job = "job.toml"', f'identity = "{name}.key"', f'data = "{name}.csv"', 'id = "id"']
        own += [] if number else ['label = "amount"']
        own += ["[policy]", 'alignment = ["ecdh", "kkrt", "mpsi", "server-aided"]']
        (folder / f"{name}.toml").write_text("\n".join(own) + "\n")
    (folder / "job.toml").write_text("\n".join(job) + "\n")


def command(folder: Path, role: str, port: int) -> list[str]:
    """What a company types."""
    vfl = shutil.which("vfl", path=str(Path(sys.executable).parent)) or "vfl"
    out = ["--out", str(folder / "out" / role), "--json"]
    if role == COORDINATOR:
        listen = ["--listen", f"127.0.0.1:{port}", "--identity", str(folder / "coordinator.key")]
        return [vfl, "coordinator", str(folder / "job.toml"), "--psi", *listen, *out]
    return [vfl, "psi", str(folder / f"{role}.toml"), *out]


def run(folder: Path, names: list[str], port: int, kill: float | None) -> dict[str, Used]:
    """Start all roles and wait for them."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    log = (folder / "log").open("wb")
    start = time.perf_counter()

    def begin(role: str) -> int:
        line = command(folder, role, port)
        return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=log, env=environment).pid

    roles = {begin(role): role for role in (COORDINATOR, *names)}
    victim = next(pid for pid, role in roles.items() if role == names[0])
    used: dict[str, Used] = {}
    if kill is not None:
        time.sleep(kill)
        os.kill(victim, signal.SIGKILL)
    while roles:
        pid, status, usage = os.wait4(-1, 0)
        role = roles.pop(pid)
        if pid == victim and os.WIFSIGNALED(status):
            roles[begin(role)] = role
            continue
        if status:
            last = (folder / "log").read_text(errors="replace").splitlines()[-5:]
            raise SystemExit("\n".join([f"{role} ended with {os.waitstatus_to_exitcode(status)}", *last]))
        ledger = read_ledger(folder / "out" / role / "ledger.jsonl")
        sent = sum(entry.bytes for entry in ledger if entry.sender == role)
        used[role] = Used(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, sent)
    return {role: used[role] for role in (COORDINATOR, *names)}


def ids_of(file: Path) -> Iterator[str]:
    """The first cell of every line."""
    with file.open() as lines:
        for line in lines:
            yield line.partition(",")[0]


def check(folder: Path, names: list[str], ids: int) -> None:
    """All aligned files hold the same ids, line by line, and all that are common."""
    files = [ids_of(folder / "out" / name / name / "aligned.csv") for name in names]
    lines = 0
    for row in zip_longest(*files):
        if len(set(row)) != 1:
            raise SystemExit("the aligned files differ")
        lines += 1
    if lines - 1 != (ids + 1) // 2:
        raise SystemExit(f"found {lines - 1} common ids, planted {(ids + 1) // 2}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ids", type=int, default=50_000_000)
    parser.add_argument("--bucket-ids", type=int, default=2_000_000)
    parser.add_argument("--protocol", default="auto")
    parser.add_argument("--parties", type=int, default=2)
    parser.add_argument("--kill", type=float, metavar="SECONDS")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where files lie, by default a temporary folder")
    options = parser.parse_args()
    names = [f"p{number}" for number in range(options.parties)]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder, port = Path(name), free_port()
        write_lists(folder, names, options.ids)
        write_job(folder, names, options.protocol, options.bucket_ids, port)
        used = run(folder, names, port, options.kill)
        check(folder, names, options.ids)
    print(f"{options.parties} x {options.ids:,} ids, {options.protocol}, buckets of {options.bucket_ids:,}")
    print(f"{'':14}{'wall s':>10}{'CPU s':>10}{'peak MiB':>10}{'sent MiB':>10}{'sent/id':>10}")
    for role, own in used.items():
        print(
            f"{role:14}{own.wall:>10.1f}{own.cpu:>10.1f}{own.memory / 2**20:>10.0f}{own.sent / 2**20:>10.0f}"
            f"{own.sent / options.ids:>10.1f}"
        )


if __name__ == "__main__":
    main()
