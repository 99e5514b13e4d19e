"""scenarios/three_companies as its README says, command by command: over loopback, and between network namespaces."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from parties.identity import make_identity, write_identity
from tests.chaos.between_companies import free_port
from tests.runs.companies import VFL
from vfl.company_file import load_joining

ROOT = Path(__file__).parents[2]
SCENARIO = ROOT / "scenarios" / "three_companies"
PEOPLE = ("coordinator", "bank", "card-network", "biller")
PARTIES = PEOPLE[1:]
INSTALLING = ("git clone", "make ")
PLAYING = ("vfl coordinator", "vfl join")
SECONDS = 240


def commands() -> list[tuple[str, str]]:
    """Who types what, in the order of the README."""
    text = (SCENARIO / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [found for block in blocks for found in re.findall(r"^([a-z-]+)\$ (.+)$", block, re.MULTILINE)]


@dataclass
class World:
    """Four people with a home each; ``prefix`` puts a command into somebody's network."""

    folder: Path
    address: str
    prefix: dict[str, list[str]] = field(default_factory=dict)
    playing: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    said: list[tuple[str, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for who in PEOPLE:
            (self.folder / who).mkdir(parents=True)
            (self.folder / who / "vfl").symlink_to(ROOT)

    def home(self, who: str) -> Path:
        return self.folder / who

    def joint(self, who: str) -> Path:
        return self.home(who) / "joint"

    def start(self, who: str, command: str) -> subprocess.Popen[bytes]:
        """Type a command, in the folder of the job once there is one; what it says goes to a file."""
        host, _, port = self.address.partition(":")
        command = command.replace("coordinator.example/10.77.0.1", f"coordinator.example:7700/{host}:{port}")
        command = command.replace("0.0.0.0:7700", f"0.0.0.0:{port}")  # noqa: S104 - as the README says
        cwd = self.joint(who) if self.joint(who).exists() else self.home(who)
        env = os.environ | {
            "HOME": str(self.home(who)),
            "PATH": f"{Path(VFL).parent}:{os.environ['PATH']}",
            "COLUMNS": "100",
        }
        with self.screen(who).open("ab") as screen:
            return subprocess.Popen(
                [*self.prefix.get(who, []), "bash", "-c", f"exec {command}" if command.startswith("vfl") else command],
                cwd=cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=screen,
                stderr=screen,
            )

    def screen(self, who: str) -> Path:
        return self.folder / f"{who}.screen"

    def type(self, who: str, command: str) -> str:
        """Type a command and wait for its end; returns what it said."""
        before = self.screen(who).stat().st_size if self.screen(who).exists() else 0
        code = self.start(who, command).wait(SECONDS)
        text = self.screen(who).read_bytes()[before:].decode()
        assert code == 0, (who, command, text)
        self.said.append((who, command, text))
        return text

    def follow_readme(self) -> None:
        """Type every command; a role that is started a second time has died before."""
        for who, command in commands():
            if command.startswith(INSTALLING):
                continue
            if command.startswith(PLAYING):
                if who in self.playing:
                    self.watch_and_kill(who)
                self.playing[who] = self.start(who, command)
                continue
            self.wait()
            self.type(who, command)
            if command == "vfl keygen coordinator":
                self.exchange()

    def exchange(self) -> None:
        """Everybody sends the .pub file, and nothing else, to everybody."""
        for who in PEOPLE:
            for other in set(PEOPLE) - {who}:
                shutil.copy(self.joint(who) / f"{who}.pub", self.joint(other))

    def watch_and_kill(self, who: str) -> None:
        """Look at the sockets of all parties, then kill one in the middle of the training."""
        reached = self.joint(who) / "runs" / "first" / ".run" / "checkpoints" / "step 4.ckpt"
        deadline = time.monotonic() + SECONDS
        while not reached.exists():
            ended = [name for name, process in self.playing.items() if process.poll() is not None]
            assert not ended, (ended, self.screens())
            assert time.monotonic() < deadline, self.screens()
            time.sleep(0.005)
        self.playing[who].send_signal(signal.SIGKILL)
        assert self.playing[who].wait() == -signal.SIGKILL
        for name in set(PARTIES) - {who}:
            assert not listening(self.playing[name].pid), f"{name} listens"
        assert listening(self.playing["coordinator"].pid)

    def wait(self) -> None:
        """Wait for all roles to end well."""
        for who, process in self.playing.items():
            assert process.wait(SECONDS) == 0, (who, self.screens())

    def screens(self) -> str:
        return "\n".join(f"{who}: {self.screen(who).read_text()[-600:]}" for who in PEOPLE if self.screen(who).exists())

    def end(self) -> None:
        for process in self.playing.values():
            process.kill()
            process.wait()


def listening(pid: int) -> set[str]:
    """Inodes of the sockets on which a process listens."""
    rows = [line.split() for kind in ("tcp", "tcp6") for line in _read(f"/proc/{pid}/net/{kind}").splitlines()[1:]]
    open_to_all = {row[9] for row in rows if row[3] == "0A"}
    links = [os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
    return {f"socket:[{inode}]" for inode in open_to_all} & set(links)


def _read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


@pytest.fixture
def loopback(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path / "people", f"127.0.0.1:{free_port()}")
    yield world
    world.end()


@pytest.fixture
def namespaces(tmp_path: Path) -> Iterator[World]:
    """A network namespace for each: the three reach the coordinator's address and nothing else."""
    spaces = {who: f"vfl{os.getpid()}{who[:3]}" for who in PEOPLE}
    hub = spaces["coordinator"]
    try:
        for who in PEOPLE:
            _ip("netns", "add", spaces[who])
            _ip("-n", spaces[who], "link", "set", "lo", "up")
        _ip("-n", hub, "addr", "add", "10.77.0.1/32", "dev", "lo")
        _ip("netns", "exec", hub, "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
        for number, who in enumerate(PARTIES, 1):
            _ip("link", "add", "name", "out", "netns", spaces[who], "type", "veth",
                "peer", "name", f"in{number}", "netns", hub)  # fmt: skip
            _ip("-n", hub, "addr", "add", f"10.77.{number}.1/30", "dev", f"in{number}")
            _ip("-n", hub, "link", "set", f"in{number}", "up")
            _ip("-n", spaces[who], "addr", "add", f"10.77.{number}.2/30", "dev", "out")
            _ip("-n", spaces[who], "link", "set", "out", "up")
            _ip("-n", spaces[who], "route", "add", "10.77.0.1/32", "via", f"10.77.{number}.1")
        prefix = {who: ["ip", "netns", "exec", space] for who, space in spaces.items()}
        world = World(tmp_path / "people", "10.77.0.1:7700", prefix)
        yield world
        world.end()
    finally:
        for space in spaces.values():
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def _ip(*arguments: str) -> None:
    """Set the network up; where that is not permitted the test is skipped."""
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no ip command to make network namespaces with")
    if done.returncode:
        pytest.skip(f"network namespaces cannot be made here: {done.stderr.strip() or done.stdout.strip()}")


def reaches(world: World, who: str, address: str) -> bool:
    """Whether somebody's packets find a way to an address, whatever answers there."""
    code = (
        "import errno, socket, sys; s = socket.socket(); s.settimeout(1); "
        f"sys.exit(s.connect_ex(({address!r}, 7700)) not in (0, errno.ECONNREFUSED))"
    )
    return subprocess.run([*world.prefix[who], "python3", "-c", code], check=False).returncode == 0


def check_results(world: World) -> None:
    """All four ended well, each with what is its own and nothing else."""
    report = json.loads((world.joint("bank") / "runs/first/report.json").read_text())
    assert report["metrics"]["joint"]["auc"] > report["metrics"]["active_only"]["auc"] + 0.03
    assert report["rows"] == {"train": 1957, "test": 839}
    for who in PARTIES:
        others = set(PEOPLE) - {who}
        found = {path.name for path in world.joint(who).rglob("*")}
        assert {path.name for path in world.joint(who).glob("*.key")} == {f"{who}.key"}
        assert not found & {f"{other.replace('-', '_')}.csv" for other in others}
        assert (world.joint(who) / "runs/first" / who / "model.npz").is_file()
    said = world.screen("coordinator").read_text()
    assert "card-network has come back; all go on from the last checkpoint" in said
    assert "All are back; the run goes on after round" in world.screen("bank").read_text()


def test_the_files_are_a_job(tmp_path: Path) -> None:
    """They fit together once everybody has an identity."""
    folder = shutil.copytree(SCENARIO, tmp_path / "job")
    for who in PEOPLE:
        write_identity(make_identity(who), folder)
    for who in PARTIES:
        joining = load_joining(folder / f"{who}.toml")
        assert joining.company.address == "coordinator.example:7700"
        assert Path(joining.spec.data).is_file()


@pytest.mark.slow
def test_the_readme_over_loopback(loopback: World) -> None:
    loopback.follow_readme()
    check_results(loopback)


@pytest.mark.slow
def test_the_readme_between_network_namespaces(namespaces: World) -> None:
    assert reaches(namespaces, "bank", "10.77.0.1")
    for who, other in (("bank", "10.77.3.2"), ("biller", "10.77.1.2"), ("card-network", "10.77.1.1")):
        assert not reaches(namespaces, who, other)
    namespaces.follow_readme()
    check_results(namespaces)


@pytest.mark.slow
def test_all_of_it_on_one_machine(tmp_path: Path) -> None:
    command, env = [str(SCENARIO / "try_it.sh"), str(tmp_path / "people")], os.environ | {"PORT": str(free_port())}
    env["PATH"] = f"{Path(VFL).parent}:{env['PATH']}"
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for who in PEOPLE:
        assert (tmp_path / "people" / who / "run" / "report.json").is_file()
        assert len(list((tmp_path / "people" / who).glob("*.key"))) == 1
    again = subprocess.run(command, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert again.returncode == 2 and "is not empty" in again.stderr
