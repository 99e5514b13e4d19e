"""One party of a peer's private set intersection, as a process of its own: ``python psi_peers.py PEER RANK ...``.

Kept apart from ``psi.py`` so that the peers' libraries are loaded by nobody else. Prints one line of JSON: ids in
common, and the CPU seconds and peak memory of this process.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path


def spu(rank: int, protocol: str, folder: Path, port: int) -> int:
    """SecretFlow's psi library: CSV in, aligned CSV out, both parties learn."""
    import spu.libspu.link as link
    import spu.psi as psi

    desc = link.Desc()
    desc.id = "benchmark"
    for number in range(2):
        desc.add_party(str(number), f"127.0.0.1:{port + number}")
    context = link.create_brpc(desc, rank)
    config = psi.PsiExecuteConfig(
        protocol_conf=psi.PsiProtocolConfig(
            protocol=getattr(psi.PsiProtocol, f"PROTOCOL_{protocol}"),
            receiver_rank=0,
            broadcast_result=True,
            ecdh_params=psi.EcdhParams(curve=psi.EllipticCurveType.CURVE_25519),
        ),
        input_params=psi.InputParams(path=str(folder / f"{rank}.csv"), selected_keys=["id"], keys_unique=True),
        output_params=psi.OutputParams(path=str(folder / f"{rank}.out.csv")),
    )
    report = psi.psi_execute(config, context)
    context.stop_link()
    return int(report.intersection_count)


def openmined(folder: Path) -> int:
    """OpenMined's package: both parties in this process, raw sets (its other forms answer with false positives)."""
    import private_set_intersection.python as psi

    ids = [path.read_text().split("\n")[1:-1] for path in (folder / "0.csv", folder / "1.csv")]
    client, server = psi.client.CreateWithNewKey(True), psi.server.CreateWithNewKey(True)
    setup = server.CreateSetupMessage(0.0, len(ids[0]), ids[1], psi.DataStructure.RAW)
    response = server.ProcessRequest(client.CreateRequest(ids[0]))
    return len(client.GetIntersection(setup, response))


def main() -> None:
    """Play one party and print what it took."""
    peer, rank, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    common = openmined(folder) if peer == "openmined" else spu(rank, peer, folder, int(sys.argv[4]))
    spent = resource.getrusage(resource.RUSAGE_SELF)
    cpu = spent.ru_utime + spent.ru_stime
    print(json.dumps({"common": common, "cpu": cpu, "rss": spent.ru_maxrss * 1024}), flush=True)


if __name__ == "__main__":
    main()
