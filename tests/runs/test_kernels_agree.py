"""One federation over two kernels: the same models to the last bit, and ciphertexts that go from one to the other."""

from __future__ import annotations

import json
import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import phe
import pytest

import vfl.paillier as paillier
from tests.glm.federations import play, results, told
from tests.runs.companies import Companies, make_companies
from tests.runs.conftest import Command
from vfl import launch
from vfl.paillier import PrivateKey, PublicKey, generate_keypair, gmpy2_kernel, ifma_kernel, keys, obfuscators
from vfl.paillier.gmpy2_kernel import Gmpy2Kernel
from vfl.paillier.ifma_kernel import IfmaKernel, why_not_ifma
from vfl.paillier.kernels import Kernel

pytestmark = pytest.mark.skipif(why_not_ifma() is not None, reason=f"IFMA kernel: {why_not_ifma()}")

NAMES = ("gmpy2", "ifma")
KINDS = {"gmpy2": Gmpy2Kernel, "ifma": IfmaKernel}
PARTIES = ("bank", "card-network", "biller")
EDGES = [0, 1, -1, 12345, -(2**200)]
PAIRS = [("gmpy2", "ifma"), ("ifma", "gmpy2")]


# ---- Fits ----

RUNS = [
    ("logistic", "active", {}),
    ("linear", "active", {}),
    ("poisson", "active", {}),
    ("softmax", "active", {}),
    ("logistic", "coordinator", {"newton_steps": 1}),
    ("logistic", "coordinator", {"newton_steps": 1, "curvature": "row"}),
    ("poisson", "coordinator", {"newton_steps": 1}),
]
runs = pytest.mark.parametrize(("model", "key_holder", "training"), RUNS, ids=lambda v: str(v))


def watch_kernels(monkeypatch: pytest.MonkeyPatch, choose: Callable[[str], str]) -> set[tuple[str, str]]:
    """Let roles (threads) choose kernels, and note who opened which; a kernel's own threads do as their process."""
    opened: set[tuple[str, str]] = set()

    def open_kernel(modulus: int) -> Kernel:
        role = threading.current_thread().name
        name = choose(role)
        opened.add((role, name))
        return KINDS[name](modulus)

    monkeypatch.setattr(keys, "open_kernel", open_kernel)
    return opened


@runs
def test_fits_are_bit_identical(
    model: str, key_holder: str, training: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    played = []
    for name in NAMES:
        monkeypatch.setenv("VFL_KERNEL", name)
        federation, fits = play(model, key_holder, training)
        played.append((results(fits), told(federation)))
    assert played[0] == played[1]
    assert any(any(weights) for weights, *_ in played[0][0].values())


ALONE = [
    ("softmax", "active", {}, "active"),
    ("softmax", "active", {}, "passive-1"),
    ("logistic", "coordinator", {"newton_steps": 1}, "active"),
    ("logistic", "coordinator", {"newton_steps": 1}, "passive-1"),
    ("logistic", "coordinator", {"newton_steps": 1}, "coordinator"),
]


@pytest.mark.parametrize(("model", "key_holder", "training", "alone"), ALONE, ids=lambda v: str(v))
@pytest.mark.parametrize(("its", "others"), PAIRS)
def test_roles_on_kernels_of_their_own(
    model: str,
    key_holder: str,
    training: dict[str, object],
    alone: str,
    its: str,
    others: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One role computes on another kernel than the others: nobody notices."""
    monkeypatch.setenv("VFL_KERNEL", its)
    expected = results(play(model, key_holder, training)[1])
    opened = watch_kernels(monkeypatch, lambda role: its if role == alone else others)
    assert results(play(model, key_holder, training)[1]) == expected
    assert (alone, its) in opened
    assert {name for role, name in opened if role != alone} == {others}


# ---- Whole runs ----

CASES = {
    "exact": ("logistic", "active", {"max_iter": 4}),
    "exact, several outputs": ("softmax", "active", {"max_iter": 3}),
    "quadratic": ("logistic", "coordinator", {"max_iter": 4}),
}
cases = pytest.mark.parametrize(("model", "holder", "training"), CASES.values(), ids=CASES)
VARYING = (
    "seconds",
    "time",
    "bytes",
    "encryptions",
    "decryptions",
    "kernel",
)  # packing is chosen by what a kernel's work costs


def kept(out: Path) -> dict[str, bytes]:
    files = [out / name / file for name in PARTIES for file in ("model.npz", "model.json", "ids.csv")]
    return {str(file.relative_to(out)): file.read_bytes() for file in (*files, out / "bank" / "test_scores.csv")}


def report(out: Path) -> dict[str, object]:
    """What must not depend on the kernel."""
    return without(json.loads((out / "report.json").read_text()))


def without(value: object) -> object:
    if isinstance(value, dict):
        return {key: without(one) for key, one in value.items() if key not in VARYING}
    return [without(one) for one in value] if isinstance(value, list) else value


def companies_for(folder: Path, model: str, holder: str, training: dict[str, object]) -> Companies:
    companies = make_companies(folder, model, rows=200, key_holder=holder, messy=True, training=training)
    companies.write()
    return companies


@cases
def test_runs_leave_the_same_bytes(
    vfl: Command, tmp_path: Path, model: str, holder: str, training: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    companies = companies_for(tmp_path / "scenario", model, holder, training)
    for name in NAMES:
        monkeypatch.setenv("VFL_KERNEL", name)
        said = vfl("run", companies.folder, "--out", tmp_path / name, "--in-process")
        assert said.code == 0, said.stderr
        assert json.loads((tmp_path / name / "report.json").read_text())["crypto"]["kernel"] == name
    assert kept(tmp_path / "gmpy2") == kept(tmp_path / "ifma")
    assert report(tmp_path / "gmpy2") == report(tmp_path / "ifma")
    assert report(tmp_path / "ifma")["metrics"]


def mixed_processes(monkeypatch: pytest.MonkeyPatch, kernels: dict[str, str]) -> None:
    """Start every role's process with a kernel of its own."""
    honest = launch._start

    def start(role: str, sockets: Iterable[int]) -> subprocess.Popen[bytes]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VFL_KERNEL", kernels[role])
            assert os.environ["VFL_KERNEL"] == kernels[role]
            return honest(role, sockets)

    monkeypatch.setattr(launch, "_start", start)


@pytest.mark.slow
def test_companies_on_kernels_of_their_own(vfl: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of which every other one has the C kernel: as machines of several companies may be."""
    model, holder, training = CASES["quadratic"]
    companies = companies_for(tmp_path / "scenario", model, holder, training)
    monkeypatch.setenv("VFL_KERNEL", "gmpy2")
    assert vfl("run", companies.folder, "--out", tmp_path / "same", "--in-process").code == 0
    mixed_processes(monkeypatch, dict(zip((*PARTIES, "coordinator"), ["ifma", "gmpy2"] * 2, strict=True)))
    said = vfl("run", companies.folder, "--out", tmp_path / "mixed")
    assert said.code == 0, said.stderr
    assert kept(tmp_path / "mixed") == kept(tmp_path / "same")
    assert report(tmp_path / "mixed") == report(tmp_path / "same")


# ---- Ciphertexts ----


def on(name: str, key: PrivateKey) -> PrivateKey:
    """The same key, computing on the named kernel."""
    public = PublicKey(key.public.n, key.public.h_s, key.public.exponent_bits)
    again = PrivateKey(public, *key.primes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VFL_KERNEL", name)
        made = (public.kernel, again._kernel_p, again._kernel_q)
    assert {type(kernel) for kernel in made} == {KINDS[name]}
    return again


@pytest.fixture(scope="module", params=[512, 1552])
def both(request: pytest.FixtureRequest) -> dict[str, PrivateKey]:
    key = generate_keypair(request.param, insecure_test_mode=True)
    return {name: on(name, key) for name in NAMES}


def opened(key: PrivateKey, v: paillier.CipherVector) -> list[int]:
    return [paillier.centred(x, key.public.n) for x in paillier.decrypt(key, v)]


def sent(v: paillier.CipherVector, key: PublicKey) -> paillier.CipherVector:
    """The vector as another process reads it."""
    return paillier.from_bytes(key, paillier.to_bytes(v), count=len(v))


def raw(v: paillier.CipherVector) -> bytes:
    """Its bytes as they are, obfuscated or not."""
    return v.key.kernel.to_rows(v.values).tobytes()


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("count", [5, 70])
def test_what_one_writes_the_other_opens(both: dict[str, PrivateKey], ours: str, theirs: str, count: int) -> None:
    """Before and after tables are made, encrypted with the public key and by its owner."""
    half = (both[ours].public.n - 1) // 2
    numbers = (EDGES + [half, -half] + [3**at for at in range(100)])[:count]
    for source in (both[ours].public, both[ours]):
        for _ in range(2):
            v = paillier.encrypt(source, numbers)
            received = sent(v, both[theirs].public)
            assert opened(both[theirs], received) == opened(both[ours], v) == numbers


@pytest.mark.slow
@pytest.mark.parametrize("both", [2048], indirect=True)
def test_full_length(both: dict[str, PrivateKey]) -> None:
    """Either way, and through phe."""
    test_phe_opens_both(both)
    for ours, theirs in PAIRS:
        received = sent(paillier.encrypt(both[ours].public, EDGES * 6), both[theirs].public)
        assert opened(both[theirs], received) == EDGES * 6


def test_phe_opens_both(both: dict[str, PrivateKey]) -> None:
    key = paillier.private_key_to_phe(both["ifma"])
    assert isinstance(key, phe.PaillierPrivateKey)
    for name in NAMES:
        body = paillier.to_bytes(paillier.encrypt(both[name].public, EDGES))
        assert [key.raw_decrypt(int.from_bytes(row.tobytes())) for row in body] == [m % key.public_key.n for m in EDGES]


def test_both_open_phe(both: dict[str, PrivateKey]) -> None:
    n = both["ifma"].public.n
    theirs = [phe.PaillierPublicKey(n).raw_encrypt(m % n) for m in EDGES]
    for key in both.values():
        assert key.decrypt_values(key.public.kernel.pack(theirs)) == [m % n for m in EDGES]


def test_the_same_randomness_gives_the_same_ciphertexts(
    both: dict[str, PrivateKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the public key and by its owner, for both lengths of exponents, in batches below and above a table's price.

    Randomness is cut into windows, whose width each kernel chooses: here both take the same.
    """
    width = on("ifma", both["ifma"]).public.kernel.costs.long_window
    monkeypatch.setattr(gmpy2_kernel, "_COSTS", replace(gmpy2_kernel._COSTS, long_window=width))
    bodies = {}
    for name in NAMES:
        key, rng = on(name, both[name]), random.Random(7)
        monkeypatch.setattr(obfuscators.secrets, "token_bytes", rng.randbytes)
        made = []
        for source in (key.public, key):
            for count in (1, 9, 40, 230):
                v = paillier.encrypt(source, [at**5 - 9 for at in range(count)])
                again = paillier.rerandomise(v, towards_owner=True)
                made += [raw(v), raw(again)]
        bodies[name] = made
    assert bodies["gmpy2"] == bodies["ifma"]


def test_the_same_arithmetic_on_the_same_ciphertexts(both: dict[str, PrivateKey]) -> None:
    """All that computes without fresh randomness, byte by byte."""
    numbers = [*EDGES, *(7**at for at in range(40))]
    body = paillier.to_bytes(paillier.encrypt(both["gmpy2"].public, numbers))
    factors = [(-1) ** at * (at**9 - 3) for at in range(len(numbers))]
    idx = np.array([at * at % len(numbers) for at in range(3000)])
    offsets = np.array([0, 0, 1, 5, 5, 900, 3000])
    found, sums = {}, []
    for name in NAMES:
        key = both[name].public
        v = paillier.from_bytes(key, body, count=len(numbers))
        made = [
            paillier.add(v, v),
            paillier.add_plain(v, factors),
            paillier.scale(v, factors),
            paillier.sum_segments(v, idx, offsets),
            paillier.CipherVector.concat([v[3:9], v[::2]]),
        ]
        found[name] = [raw(one) for one in made]
        sums.append(opened(both[name], made[3]))
    assert found["gmpy2"] == found["ifma"]
    expected = [sum(numbers[i] for i in idx[a:b]) for a, b in zip(offsets, offsets[1:], strict=False)]
    assert sums == [expected] * 2


@pytest.mark.parametrize(("owner", "other"), PAIRS)
@pytest.mark.parametrize("k", [1, 3])
def test_inner_products_between_kernels(both: dict[str, PrivateKey], owner: str, other: str, k: int) -> None:
    """The key's owner on one kernel, the owner of X on the other."""
    rng = np.random.default_rng(k)
    r, X = rng.integers(-(2**16), 2**16, 80), rng.integers(-(2**15), 2**15, (80, 4))
    plan = paillier.plan_inner_product(both[owner].public.bits, 80, 2**16 * int(np.abs(X).sum(axis=0).max()), k)
    received = sent(paillier.encrypt(both[owner], paillier.pack_rows(plan, r)), both[other].public)
    masked, masks = paillier.mask_products(plan, paillier.transposed_product(plan, received, X))
    returned = sent(masked, both[owner].public)
    answer = paillier.open_products(plan, both[owner], returned, count=X.shape[1])
    assert paillier.unmask_products(plan, both[other].public, answer, masks) == (X.T @ r).tolist()


def test_a_modulus_too_long_for_the_c_kernel_with_primes_that_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """As keys above 4,152 bits have: N on gmpy2, p and q on the C kernel."""
    monkeypatch.delenv("VFL_KERNEL", raising=False)
    monkeypatch.setattr(ifma_kernel, "MOST_BITS", 600)
    key = generate_keypair(1024, insecure_test_mode=True)
    assert (type(key.public.kernel), type(key._kernel_p)) == (Gmpy2Kernel, IfmaKernel)
    for source in (key.public, key):
        for count in (3, 300):  # powers, then tables
            v = paillier.encrypt(source, [*range(-1, count - 1)])
            doubled = paillier.rerandomise(paillier.add(v, v), towards_owner=True)
            assert opened(key, doubled) == [2 * x for x in range(-1, count - 1)]
