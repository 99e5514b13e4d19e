"""The star between real processes: what ``kill -9`` of any of them does to the others."""

import contextlib
import hashlib
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("bank", "shop", "biller")
EVERYONE = ("coordinator", *NAMES)

# A role: greet, say "ready", then do as its task says; the last line it prints is what it ends with.
SCRIPT = """
import hashlib, socket, sys
import numpy as np
from parties.errors import VflError
from parties.greeting import greet_as_coordinator, greet_as_party
from parties.link import Endpoint
from parties.process import HubTransport, PartyTransport
from parties.sealing import KeyPair
from parties.wire import Active, Coordinator, DataParty, Masked, Message, Passive

class Wire:
    share = Message(DataParty, DataParty, Masked)

name, task, *descriptors = sys.argv[1:]
names = ["bank", "shop", "biller"]
roles = {"bank": Active, "shop": Passive, "biller": Passive, "coordinator": Coordinator}
sockets = [socket.socket(fileno=int(descriptor)) for descriptor in descriptors]
# Keys that the launcher would deal out; here each process can derive them all.
statics = {each: KeyPair.from_private_bytes(hashlib.sha256(each.encode()).digest()) for each in names}
hub = name == "coordinator"
transport = HubTransport(dict(zip(names, sockets))) if hub else PartyTransport(name, sockets[0])
end = Endpoint(name, roles, transport)

def payload():
    return Masked(np.random.default_rng(5).integers(0, 2**63, (1 << 20, 8), np.uint64))  # 64 MiB

def play():
    if task == "differ":
        job = {"seed": name}
    else:
        job = {"seed": "1"}
    if hub:
        greet_as_coordinator(end, job)
    else:
        greet_as_party(end, job, statics[name], {each: pair.public for each, pair in statics.items()})
    print("ready", flush=True)
    peers = [] if hub else [end.link(DataParty, DataParty, each) for each in end.peers(DataParty)]
    if task == "wait":
        transport.receive("bank" if name != "bank" else "shop", "glm.share")
    if task == "flood":
        while not hub:
            for peer in peers:
                peer.send(Wire.share, Masked(np.zeros((1 << 16, 8), np.uint64)))
            for peer in peers:
                peer.recv(Wire.share)
        transport.receive("bank", "glm.total")
    if task == "transfer" and name == "bank":
        peers[0].send(Wire.share, payload())
    if task == "transfer" and name == "shop":
        return hashlib.sha256(peers[0].recv(Wire.share).body.tobytes()).hexdigest()
    return "done"

try:
    result = play()
    transport.close()
except VflError as error:
    transport.abort(f"stopped with a {type(error).__name__}")
    result = f"{type(error).__name__}: {error}"
print(result, flush=True)
"""


@contextlib.contextmanager
def started(task):
    """All four processes of a run, killed at the end whatever happens."""
    pairs = {name: socket.socketpair() for name in NAMES}
    ends = {name: [pairs[name][0]] for name in NAMES} | {"coordinator": [pairs[name][1] for name in NAMES]}
    processes = {}
    try:
        for name in EVERYONE:
            descriptors = [end.fileno() for end in ends[name]]
            processes[name] = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", SCRIPT, name, task, *map(str, descriptors)],
                cwd=ROOT,
                pass_fds=descriptors,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        for pair in pairs.values():
            for end in pair:
                end.close()
        yield processes
    finally:
        for process in processes.values():
            process.kill()
            process.wait(10)
            process.stdout.close()
            process.stderr.close()


def last_words(process, within):
    """The last line that a process prints before it ends, in time and without a word on stderr."""
    output, errors = process.communicate(timeout=within)
    assert errors == ""
    return output.splitlines()[-1]


@pytest.mark.parametrize(("victim", "task"), [("shop", "wait"), ("bank", "flood"), ("coordinator", "wait")])
def test_who_is_killed_is_named_by_all_others_at_once(victim, task):
    with started(task) as processes:
        for process in processes.values():
            assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        killed = time.monotonic()
        processes[victim].send_signal(signal.SIGKILL)
        words = {name: last_words(processes[name], 20) for name in EVERYONE if name != victim}
        assert time.monotonic() - killed < 20  # not for ever, on a busy machine either
    cause = "the coordinator is gone" if victim == "coordinator" else f"{victim} is gone"
    for text in words.values():
        assert text.startswith(f"PeerLost: {cause}"), words


def test_64_mib_pass_sealed_through_the_relay():
    body = np.random.default_rng(5).integers(0, 2**63, (1 << 20, 8), np.uint64)
    with started("transfer") as processes:
        words = {name: last_words(processes[name], 30) for name in EVERYONE}
    assert words == dict.fromkeys(EVERYONE, "done") | {"shop": hashlib.sha256(body.tobytes()).hexdigest()}


def test_a_job_that_differs_is_named_by_every_process():
    with started("differ") as processes:
        words = {name: last_words(processes[name], 20) for name in EVERYONE}
    assert set(words.values()) == {
        "ConfigError: the parties' jobs differ in seed (at bank); all parties must run the same job"
    }
