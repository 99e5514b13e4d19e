"""Where the CPU time of boosting goes: what `benchmarks.work_time` watches of it."""

from __future__ import annotations

from functools import cache

import vfl.boosting
import vfl.trees.levels
from benchmarks.work_time import OTHER, Watched, WorkTime
from parties.link import Link
from vfl.paillier.obfuscators import Obfuscators, OwnerObfuscators
from vfl.trees.grow import PlainPart

WORK = {
    "encrypt": "encrypt: obfuscators, plaintexts",
    "check": "check: received ciphertexts",
    "rows": "sum: rows into histograms",
    "siblings": "sum: siblings, rows' places",
    "candidates": "sum: candidates",
    "compress": "compress: sums into few ciphertexts",
    "rerandomise": "compress: re-randomise them",
    "decrypt": "decrypt, unpack",
    "wire": "wire: encode, frames, sealing",
    "counts": "python: counts of rows, bins to offer",
    "own": "python: the active party's columns",
    "gains": "python: gains of opened sums",
    OTHER: "python: gradients, scores, the rest",
}
WATCHED: Watched = (
    *((vfl.boosting, name, "encrypt") for name in ("encrypt", "pack_slots")),
    (OwnerObfuscators, "draw", "encrypt"),
    (Obfuscators, "draw", "rerandomise"),  # passive parties', towards the key's owner; in background threads too
    *((vfl.boosting, name, "check") for name in ("receive_ciphers", "receive_key")),
    (vfl.trees.levels, "sum_rows", "rows"),
    *((vfl.boosting, name, "siblings") for name in ("first_level", "next_level")),
    (vfl.boosting, "candidate_sums", "candidates"),
    *((vfl.boosting, name, name) for name in ("compress", "rerandomise")),
    *((vfl.boosting, name, "decrypt") for name in ("decrypt", "unpack_slots")),
    *((Link, name, "wire") for name in ("send", "recv")),
    *((vfl.boosting, name, "wire") for name in ("send_ciphers", "pack_bits", "unpack_bits")),
    (vfl.trees.levels, "count_rows", "counts"),
    *((vfl.boosting, name, "counts") for name in ("find_candidates", "_shuffled")),
    *((PlainPart, name, "own") for name in ("offer", "choose", "sides")),
    *((vfl.boosting, name, "gains") for name in ("gains_of", "gains_of_groups", "best_of")),
)


@cache
def work_time(kernel: str) -> WorkTime:
    """Return the one watch of this process: what it watches stays watched."""
    return WorkTime(kernel, WATCHED)
