"""A job between companies on this machine: its files, the processes of all roles, and whoever restarts the killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from parties.identity import make_identity, write_identity
from parties.link import COORDINATOR
from tests.runs.companies import VFL, Companies, toml
from vfl.splitnn_shard import load_split_shard

PATIENT = {"heartbeat": 0.5, "notice": 3, "reconnect_timeout": 60}
RESULTS = ("model.json", "model.npz", "ids.csv", "test_scores.csv")
DOOMED = Path(__file__).with_name("doomed.py")


@dataclass
class Job:
    """The files of a job between companies; ``port`` is the coordinator's."""

    folder: Path
    names: list[str]
    port: int

    def copy(self, folder: Path) -> Job:
        """The same files elsewhere: what the parties keep beside them, such as budgets, begins anew."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns(".vfl"))
        return Job(folder, self.names, self.port)

    @property
    def roles(self) -> list[str]:
        return [COORDINATOR, *self.names]

    def command(self, role: str, out: Path, *more: str) -> list[str]:
        """The command that plays a role."""
        if role == COORDINATOR:
            key = str(self.folder / "coordinator.key")
            listen = f"127.0.0.1:{self.port}"
            return [VFL, "coordinator", str(self.folder / "job.toml"), "--listen", listen, "--identity", key, "--out",
                    str(out / role), *more]  # fmt: skip
        return [VFL, "join", str(self.folder / f"{role}.toml"), "--out", str(out / role), "--no-baselines", *more]


def free_port() -> int:
    """A port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_job(companies: Companies, network: dict[str, object] | None = None, dial: int | None = None) -> Job:
    """Write keys, job.toml, a file per party and its CSV; ``dial`` is the port that parties dial, if another one."""
    companies.write()
    folder, port = companies.folder, free_port()
    for name in (COORDINATOR, *companies.parties):
        if not (folder / f"{name}.key").exists():
            write_identity(make_identity(name), folder)
    lines = [f"{key} = {toml(value)}" for key, value in companies.top.items()]
    sections = companies.sections | {
        "coordinator": {"address": f"127.0.0.1:{dial or port}", "identity": "coordinator.pub"},
        "network": network or PATIENT,
    }
    for name, section in sections.items():
        lines += [f"[{name}]", *(f"{key} = {toml(value)}" for key, value in section.items() if key != "enforce")]
    for name, party in companies.parties.items():
        lines += ["[[party]]", f'name = "{name}"', f'role = "{party["role"]}"', f'identity = "{name}.pub"']
        own = {key: value for key, value in party.items() if key not in ("role", "policy")}
        text = [f'name = "{name}"', 'job = "job.toml"', f'identity = "{name}.key"']
        text += [f"{key} = {toml(value)}" for key, value in own.items()]
        text += ["[policy]", *(f"{key} = {toml(value)}" for key, value in dict(party.get("policy", {})).items())]
        (folder / f"{name}.toml").write_text("\n".join(text) + "\n", encoding="utf-8")
    (folder / "job.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Job(folder, list(companies.parties), port)


@dataclass
class Running:
    """Processes of all roles, each started again when it was killed; what they said is kept.

    ``dooms`` are moments at which a role's process kills itself (`tests.chaos.doomed`), one per process that it has;
    ``together`` names who dies with it. ``programs`` are other programs that play a role. ``lying_dead`` is called
    with the name of a role between its death and its return.
    """

    job: Job
    out: Path
    env: dict[str, str] = field(default_factory=dict)
    dooms: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    together: dict[str, str] = field(default_factory=dict)
    programs: dict[str, Path] = field(default_factory=dict)
    lying_dead: Callable[[str], None] = lambda role: None
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)

    def start(self, role: str, **env: str) -> None:
        """Start a role, or start it again."""
        (self.out / role).parent.mkdir(parents=True, exist_ok=True)
        doom = self.dooms[role].pop(0) if self.dooms[role] else ""
        notes = {"VFL_TEST_DOOM": doom, "VFL_TEST_NOTES": str(self.notes(role)), "OPENBLAS_NUM_THREADS": "1"}
        root = {"PYTHONPATH": str(DOOMED.parents[2])}
        with self.log(role).open("ab") as log:
            self.processes[role] = subprocess.Popen(
                [sys.executable, str(self.programs.get(role, DOOMED)), *self.job.command(role, self.out)[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | notes | root | self.env | env,
            )

    def start_all(self) -> None:
        """Start every role."""
        for role in self.job.roles:
            self.start(role)

    def start_others(self, role: str) -> None:
        """Start every role but one."""
        for other in self.job.roles:
            if other != role:
                self.start(other)

    def kill(self, role: str) -> bool:
        """Kill a role as the system does when memory is short; whether it still ran."""
        process = self.processes[role]
        process.send_signal(signal.SIGKILL)
        return process.wait() == -signal.SIGKILL and role not in self.codes

    def tend(self) -> None:
        """Start again what was killed; note what has ended."""
        dead = [role for role, process in self.processes.items() if process.poll() == -signal.SIGKILL]
        dead += [other for role in dead if (other := self.together.pop(role, "")) and self.kill(other)]
        for role in dict.fromkeys(dead):
            self.killed.append(role)
            self.lying_dead(role)
            self.start(role)
        for role, process in self.processes.items():
            code = process.poll()
            if code is not None and code != -signal.SIGKILL:
                self.codes[role] = code

    def wait(self, seconds: float) -> dict[str, int]:
        """Tend until every role has ended by itself; fails where that takes too long."""
        deadline = time.monotonic() + seconds
        while len(self.codes) < len(self.job.roles):
            self.tend()
            assert time.monotonic() < deadline, f"hangs: {set(self.job.roles) - set(self.codes)}\n{self.said()}"
            time.sleep(0.02)
        return self.codes

    def log(self, role: str) -> Path:
        return self.out / f"{role}.log"

    def notes(self, role: str) -> Path:
        """What `tests.chaos.doomed` wrote of the role's processes."""
        return self.out / f"{role}.notes"

    def noted(self, role: str) -> list[list[str]]:
        """The same, word by word."""
        return [line.split() for line in self.notes(role).read_text().splitlines()]

    def said(self) -> str:
        """The last words of every role."""
        return "\n".join(
            f"{role}: " + " | ".join(self.log(role).read_text(errors="replace").splitlines()[-4:])
            for role in self.job.roles
        )

    def end(self) -> None:
        """Kill whatever is left."""
        for process in self.processes.values():
            process.kill()
            process.wait()

    def results(self) -> dict[str, bytes]:
        """Every file of the result: models, ids and scores."""
        found = {}
        for name in self.job.names:
            for file in RESULTS:
                path = self.out / name / name / file
                if path.exists():
                    found[f"{name}/{file}"] = path.read_bytes()
        return found | self._weights()

    def _weights(self) -> dict[str, bytes]:
        """Of a network in shares their sums, in place of the shards: the shares are other ones in every run."""
        shards = {
            name: load_split_shard(self.out / name / name)
            for name in self.job.names
            if b'"splitnn"' in (self.out / name / name / "model.json").read_bytes()
        }
        lead = next((shard for shard in shards.values() if shard.shares), None)
        if lead is None:
            return {}
        joint = {name: (lead.shares[name] + shards[name].share).tobytes() for name in lead.shares}
        layers = {name: array.tobytes() for name, array in lead.network.items()}
        unlike = {f"{name}/{file}": b"" for name in shards for file in ("model.json", "model.npz")}
        return unlike | {f"weights of {name}": content for name, content in (joint | layers).items()}
