"""A message far larger than memory at the coordinator passes through it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from parties.connection import connect
from parties.dial import PartyTransport
from parties.greeting import Standing, greet_as_party
from parties.identity import write_identity
from parties.link import COORDINATOR, Endpoint
from parties.patience import Patience
from parties.tls import client_context
from parties.wire import Active, Coordinator, DataParty, Masked, Message, Passive
from tests.parties.networks import HOST, IDENTITIES

ROOT = Path(__file__).parents[2]
ROLES = {"bank": Active, "shop": Passive, COORDINATOR: Coordinator}
PATIENCE = Patience(5.0, 30.0, 60.0)
# Two gigabytes pass as well, VFL_LARGE_MIB=2048, and take 50 s where 512 MiB take 10.
MEBIBYTES = int(os.environ.get("VFL_LARGE_MIB", "512"))
LIMIT = 400 << 10  # KiB of the coordinator's process, whatever the size

HUB = """
import sys
from parties import tls
from parties.greeting import Standing, greet_as_coordinator
from parties.hub import HubTransport, listen
from parties.identity import read_identity, read_public
from parties.link import COORDINATOR, Endpoint
from parties.patience import Patience
from parties.wire import Active, Coordinator, Passive
from pathlib import Path

folder = Path(sys.argv[1])
roles = {"bank": Active, "shop": Passive, COORDINATOR: Coordinator}
own = read_identity(folder / "coordinator.key")
pinned = {name: read_public(folder / f"{name}.pub", name) for name in ("bank", "shop")}
listener = listen("127.0.0.1", 0)
print(listener.getsockname()[1], flush=True)
hub = HubTransport(
    listener, tls.server_context(own, pinned.values()), lambda der: tls.peer_name(der, pinned), list(pinned),
    Patience(5.0, 30.0, 60.0), lambda text: None,
)
generation = hub.enter()
greet_as_coordinator(Endpoint(COORDINATOR, roles, hub), {}, Standing(generation))
hub.finish()
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1], flush=True)
"""


class Wire:
    much = Message(DataParty, DataParty, Masked)


@pytest.mark.slow
def test_a_large_message_passes_a_coordinator_of_little_memory(tmp_path: Path) -> None:
    for name in ROLES:
        write_identity(IDENTITIES[name], tmp_path)
    pinned = {name: IDENTITIES[name].public.sealing for name in ("bank", "shop")}
    words = np.arange(MEBIBYTES << 17, dtype=np.uint64).reshape(-1, 8)
    found: list[bool] = []

    def play(name: str, port: int) -> None:
        context = client_context(IDENTITIES[name], IDENTITIES[COORDINATOR].public)
        network = PartyTransport(
            name,
            lambda: connect(HOST, port, context, PATIENCE.silence),
            PATIENCE,
            lambda text: None,
            lambda error: None,
        )
        endpoint = Endpoint(name, ROLES, network)
        greet_as_party(endpoint, {}, IDENTITIES[name].sealing, pinned, Standing(network.enter()))
        if name == "bank":
            endpoint.link(DataParty, DataParty, "shop").send(Wire.much, Masked(words))
        else:
            body = endpoint.link(DataParty, DataParty, "bank").recv(Wire.much).body
            found.append(body.shape == words.shape and bool((body == words).all()))
        network.finish()

    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", HUB, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as hub:
        try:
            assert hub.stdout is not None
            port = int(hub.stdout.readline())
            parties = [threading.Thread(target=play, args=(name, port), daemon=True) for name in ("bank", "shop")]
            for party in parties:
                party.start()
            for party in parties:
                party.join(300)
            assert found == [True]
            peak = int(hub.stdout.readline())
            assert hub.wait(30) == 0
        finally:
            hub.kill()
    assert peak < LIMIT, f"{peak >> 10} MiB"
