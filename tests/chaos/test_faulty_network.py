"""Seeded runs over a network that does harm: the same result or an error that names somebody, and never a hang.

Hub and parties are threads over real sockets and TLS. Most runs play a small protocol of check sums with messages of
all sizes over plain and sealed links, some a whole GLM. ``VFL_CHAOS_RUNS`` says how many, ``VFL_CHAOS_SEED`` from which
seed on; a seed that failed is repeated by that.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from parties import connection, tls
from parties.connection import Connection
from parties.data import read_party
from parties.dial import PartyTransport
from parties.errors import VflError
from parties.greeting import Standing, greet_as_coordinator, greet_as_party
from parties.hub import HubTransport, listen
from parties.identity import Identity, make_identity
from parties.ledger import Ledger
from parties.link import COORDINATOR, Endpoint, Link
from parties.patience import Patience
from parties.wire import Active, Coordinator, DataParty, Masked, Message, Passive, Role
from tests.chaos.fault_proxy import FaultProxy
from tests.runs.companies import make_companies
from vfl import cli, play, session
from vfl.job_file import load_scenario

RUNS = int(os.environ.get("VFL_CHAOS_RUNS", "40"))
SEED = int(os.environ.get("VFL_CHAOS_SEED", "1"))
WORKERS = int(os.environ.get("VFL_CHAOS_WORKERS", "6"))  # they mostly wait
LIMIT = 60.0  # seconds that a run may take
WHOLE_JOBS = 20  # one run in so many is a GLM
PATIENCE = Patience(heartbeat=0.2, notice=0.5, reconnect_timeout=6.0)
NAMES = ("bank", "shop", "biller")
ROLES: dict[str, type[Role]] = {COORDINATOR: Coordinator, "bank": Active, "shop": Passive, "biller": Passive}
Play = Callable[[str, "Network"], str]
Network = HubTransport | PartyTransport


class Wire:
    """Check sums."""

    up = Message(DataParty, Coordinator, Masked)
    across = Message(DataParty, DataParty, Masked)
    down = Message(Coordinator, DataParty, Masked)


@dataclass(frozen=True)
class Bad:
    """How bad a network is."""

    faults: int
    reach: int
    within: int = 0  # faults within TLS, as of a peer whose software is broken


def badness(rng: random.Random) -> Bad:
    """Most networks do harm a few times, some all the time, and some peers are broken themselves."""
    kind = rng.choices(["passing", "lasting", "within"], [8, 1, 1])[0]
    reach = 10 ** rng.randint(3, 6)
    if kind == "lasting":
        return Bad(faults=10**6, reach=reach)
    if kind == "within":
        return Bad(faults=0, reach=1, within=rng.randint(1, 3))
    return Bad(faults=rng.randint(1, 6), reach=reach)


class Broken(Connection):
    """A connection whose owner sends frames wrongly."""

    rng = random.Random()
    left = 0

    def write(self, data: bytes) -> None:
        if self.left and self.rng.random() < 0.1:
            type(self).left -= 1
            data = self._harm(data)
        super().write(data)

    def _harm(self, data: bytes) -> bytes:
        at = self.rng.randrange(1, len(data))
        kind = self.rng.choice(["flip", "twice", "cut", "noise", "length"])
        if kind == "flip":
            return data[:at] + bytes([data[at] ^ (1 << self.rng.randrange(8))]) + data[at + 1 :]
        if kind == "length":
            return data[:8] + self.rng.randbytes(4) + data[12:]
        return {"twice": data + data, "cut": data[:at], "noise": self.rng.randbytes(len(data))}[kind]


@dataclass
class Run:
    """What came out of one run, by role: a digest, or the error."""

    bad: Bad
    seconds: float = 0.0
    digests: dict[str, str] = field(default_factory=dict)
    errors: dict[str, BaseException] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def run_badly(seed: int, names: tuple[str, ...], identities: dict[str, Identity], bad: Bad, role: Play) -> Run:
    """Play all roles over one bad network."""
    rng = random.Random(seed)
    run = Run(bad)
    before = set(threading.enumerate())
    pinned = {name: identities[name].public for name in names}
    listener = listen("127.0.0.1", 0)
    port = int(listener.getsockname()[1])
    context = tls.server_context(identities[COORDINATOR], pinned.values())
    stall = rng.choice([0.3, 1.0, 2.0])
    proxies = {
        name: FaultProxy(port, random.Random(f"{seed} {name}"), faults=bad.faults, reach=bad.reach, stall=stall)
        for name in names
    }
    hub = HubTransport(
        listener, context, lambda der: tls.peer_name(der, pinned), list(names), PATIENCE, lambda text: None
    )
    at: dict[str, Network] = {COORDINATOR: hub}
    for name in names:
        broken = type("BrokenHere", (Broken,), {"rng": random.Random(f"{seed} within {name}"), "left": bad.within})
        kind = broken if bad.within and name == rng.choice(names) else Connection
        at[name] = party(identities, name, proxies[name].port, kind)

    def begin(name: str) -> None:
        try:
            run.digests[name] = role(name, at[name])
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test judges it
            run.errors[name] = error

    threads = {name: threading.Thread(target=begin, args=(name,), daemon=True, name=f"role {name}") for name in at}
    start = time.monotonic()
    for thread in threads.values():
        thread.start()
    while any(thread.is_alive() for thread in threads.values()) and time.monotonic() < start + LIMIT:
        if run.errors and not hub._begun:
            hub.abort("waits no longer for all to join")  # as whoever runs it would: it itself waits for days
        time.sleep(0.02)
    run.seconds = time.monotonic() - start
    hanging = [name for name, thread in threads.items() if thread.is_alive()]
    stacks = where_all_stand() if hanging else ""
    for proxy in proxies.values():
        proxy.close()
        run.faults += proxy.done
    assert not hanging, f"seed {seed}: {hanging} hang after {LIMIT:.0f} s, faults {run.faults}\n{stacks}"
    end = time.monotonic() + 15
    while (left := threads_since(before)) and time.monotonic() < end:
        next(iter(left)).join(0.1)
    assert not left, f"seed {seed}: threads are left: {left}\n{where_all_stand()}"
    return run


def threads_since(before: set[threading.Thread]) -> set[threading.Thread]:
    """New threads, but those of the arithmetic, which stay for the next run."""
    return {thread for thread in set(threading.enumerate()) - before if not thread.name.startswith("kernel")}


def party(identities: dict[str, Identity], name: str, port: int, kind: type[Connection]) -> PartyTransport:
    """A party's end; ``kind`` is what it makes of its sockets."""
    context = tls.client_context(identities[name], identities[COORDINATOR].public)

    def dial() -> Connection:
        made = connection.connect("127.0.0.1", port, context, PATIENCE.silence)
        made.__class__ = kind
        return made

    explain = partial(tls.why_refused, peer=COORDINATOR, own=name)
    return PartyTransport(name, dial, PATIENCE, lambda text: None, explain)


def where_all_stand() -> str:
    frames = sys._current_frames()
    return "\n".join(
        f"{thread.name}\n{''.join(traceback.format_stack(frames[thread.ident])[-4:])}"
        for thread in threading.enumerate()
        if thread.ident in frames
    )


def judge(seed: int, run: Run, expected: dict[str, str]) -> str:
    """Identical, or errors that name somebody; anything else fails."""
    told = f"seed {seed}, {run.bad}, faults {run.faults}, {run.seconds:.1f} s"
    for name, digest in run.digests.items():
        assert digest == expected[name], f"{name} has a wrong result; {told}"
    for name, error in run.errors.items():
        assert isinstance(error, VflError), f"{name}: {error!r}; {told}\n{''.join(traceback.format_exception(error))}"
        assert any(other in str(error) for other in ROLES), f"{name}: {error} names nobody; {told}"
    assert run.seconds < LIMIT, told
    return "identical" if not run.errors else "named error"


# A small protocol of check sums


def numbers(seed: int, turn: int, sender: str, receiver: str) -> Masked:
    """Payload of one message: most are small, some have several chunks."""
    rng = np.random.default_rng([seed, turn, *f"{sender} {receiver}".encode()])
    size = int(rng.choice([0, 1, 40, 5000, 200_000], p=[0.1, 0.3, 0.3, 0.25, 0.05]))
    return Masked(rng.integers(0, 1 << 63, (size, 1), dtype=np.uint64))


def check_sums(seed: int, names: tuple[str, ...], name: str) -> Iterator[tuple[int, str]]:
    """Who sends to a role in which turn, in the order in which it reads."""
    turns = 2 + seed % 5
    for turn in range(turns):
        peers = names if name == COORDINATOR else (*(other for other in names if other != name), COORDINATOR)
        yield from ((turn, peer) for peer in peers)


def expected_sums(seed: int, names: tuple[str, ...]) -> dict[str, str]:
    sums = {}
    for name in (COORDINATOR, *names):
        digest = hashlib.sha256()
        for turn, peer in check_sums(seed, names, name):
            digest.update(numbers(seed, turn, peer, name).body.tobytes())
        sums[name] = digest.hexdigest()
    return sums


def play_sums(seed: int, names: tuple[str, ...], identities: dict[str, Identity], name: str, network: Network) -> str:
    roles = {other: kind for other, kind in ROLES.items() if other in (COORDINATOR, *names)}
    sealing = {other: identities[other].public.sealing for other in names}

    def once(generation: int) -> str:
        endpoint = Endpoint(name, roles, network)
        standing = Standing(generation)
        if name == COORDINATOR:
            greet_as_coordinator(endpoint, {"job": str(seed)}, standing)
        else:
            greet_as_party(endpoint, {"job": str(seed)}, identities[name].sealing, sealing, standing)
        return sum_up(endpoint)

    def sum_up(endpoint: Endpoint) -> str:
        digest, last = hashlib.sha256(), -1
        for turn, peer in check_sums(seed, names, name):
            if turn != last:
                for other in roles:
                    if other != name:
                        send_sum(endpoint, turn, other)
                last = turn
            digest.update(receive_sum(endpoint, peer).body.tobytes())
        return digest.hexdigest()

    def send_sum(endpoint: Endpoint, turn: int, to: str) -> None:
        payload = numbers(seed, turn, name, to)
        if name == COORDINATOR:
            endpoint.link(Coordinator, DataParty, to).send(Wire.down, payload)
        elif to == COORDINATOR:
            endpoint.link(DataParty, Coordinator, to).send(Wire.up, payload)
        else:
            link: Link[DataParty, DataParty] = endpoint.link(DataParty, DataParty, to)
            link.send(Wire.across, payload)

    def receive_sum(endpoint: Endpoint, peer: str) -> Masked:
        if name == COORDINATOR:
            return endpoint.link(Coordinator, DataParty, peer).recv(Wire.up)
        if peer == COORDINATOR:
            return endpoint.link(DataParty, Coordinator, peer).recv(Wire.down)
        return endpoint.link(DataParty, DataParty, peer).recv(Wire.across)

    result = play.until_the_end(network, once)
    return result if result is not None else expected_sums(seed, names)[name]


# A whole GLM


@dataclass
class WholeJob:
    """A small GLM with its data, and what a run without disturbance gives."""

    folder: Path
    parts: dict[str, play.Part]
    expected: dict[str, str]

    def play(self, out: Path, name: str, network: Network) -> str:
        folder = out / name
        folder.mkdir(parents=True)
        part = self.parts[name]
        part = play.Part(**{**vars(part), "folder": folder})
        chosen = play.play_coordinator if name == COORDINATOR else play.play_party
        with_ledger = Ledger(folder / "ledger.jsonl")
        try:
            chosen(network, with_ledger, part, lambda event: None)
        finally:
            with_ledger.close()
        return digest_of(folder)


def digest_of(folder: Path) -> str:
    """Of everything that must be the same in every run."""
    digest = hashlib.sha256()
    for file in ("model.npz", "model.json", "ids.csv", "test_scores.csv"):
        if (folder / file).exists():
            digest.update((folder / file).read_bytes())
    return digest.hexdigest()


def prepare_whole_job(folder: Path, identities: dict[str, Identity]) -> WholeJob:
    companies = make_companies(folder / "scenario", passive=1, rows=150, columns=2, training={"max_iter": 2}, seed=2)
    companies.tables["shop"] = companies.tables.pop("card-network")
    companies.parties["shop"] = companies.parties.pop("card-network")
    scenario = load_scenario(companies.write())
    out = folder / "out"
    assert cli.execute(["run", str(companies.folder), "--in-process", "--no-baselines", "--out", str(out)]) == 0
    parts = {COORDINATOR: play.Part(job=scenario.job, lines={}, memory=play.NoMemory(), folder=folder)}
    for spec in scenario.parties:
        parts[spec.name] = play.Part(
            job=scenario.job,
            lines={},
            memory=play.NoMemory(),
            folder=folder,
            baseline=False,
            spec=spec,
            loaded=session.load_party(scenario.job, spec, read_party(spec)),
            sealing=identities[spec.name].sealing,
            pinned={other.name: identities[other.name].public.sealing for other in scenario.parties},
        )
    expected = {name: digest_of(out / name) for name in parts}
    return WholeJob(folder, parts, expected)


@dataclass
class Campaign:
    """What came out of many runs."""

    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0
    lines: list[str] = field(default_factory=list)

    def add(self, other: Campaign) -> None:
        self.ends += other.ends
        self.faults += other.faults
        self.longest = max(self.longest, other.longest)


def campaign(seeds: Sequence[int], folder: Path) -> Campaign:
    """Play and judge the runs of these seeds."""
    connection.HANDSHAKE_SECONDS = 2.0  # in this process, which is for this alone
    identities = {name: make_identity(name) for name in ROLES}
    whole_job = prepare_whole_job(folder / "glm", identities)
    done = Campaign()
    for seed in seeds:
        bad = badness(random.Random(f"bad {seed}"))
        whole = seed % WHOLE_JOBS == 0
        names = ("bank", "shop") if whole or seed % 3 else NAMES
        role: Play = partial(play_sums, seed, names, identities)
        expected = expected_sums(seed, names)
        if whole:
            role, expected = partial(whole_job.play, folder / str(seed)), whole_job.expected
        run = run_badly(seed, names, identities, bad, role)
        end = judge(seed, run, expected)
        done.ends[end] += 1
        done.faults.update(run.faults)
        done.longest = max(done.longest, run.seconds)
        if run.seconds > 15 or (end != "identical" and bad.faults < 10 and not bad.within):
            print(f"seed {seed}: {end} after {run.seconds:.1f} s, {bad}, {run.faults}, {run.errors}", flush=True)
    return done


@pytest.mark.slow
def test_runs_over_bad_networks_end_right_or_with_a_named_error(tmp_path: Path) -> None:
    start, done = time.monotonic(), Campaign()
    seeds = range(SEED, SEED + RUNS)
    folders = [tmp_path / str(worker) for worker in range(min(WORKERS, RUNS))]
    with ProcessPoolExecutor(len(folders), multiprocessing.get_context("spawn")) as pool:
        for part in pool.map(campaign, [seeds[at :: len(folders)] for at in range(len(folders))], folders):
            done.add(part)
    assert done.ends.total() == RUNS
    assert done.ends["identical"] >= RUNS / 2, done.ends
    print(
        f"{RUNS} runs from seed {SEED} on: {dict(done.ends)}, the longest {done.longest:.1f} s, "
        f"{done.faults.total()} faults ({dict(done.faults)}), {time.monotonic() - start:.0f} s in all"
    )
