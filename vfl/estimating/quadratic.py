"""What `vfl.glm_quadratic` will take.

The rounds come from the same conjugate gradients on plain numbers, summed in one place.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import numpy as np

import vfl.scoring_one_sided
from parties.link import COORDINATOR
from parties.wire import Encrypted, Masked, Opened, PaillierKey, Revealed
from vfl import glm, glm_part, glm_quadratic
from vfl.estimating.account import Account, Load, Trained, shape
from vfl.estimating.counting import CountedKey, counted_key
from vfl.estimating.exact import SIMULATED, rerandomised
from vfl.estimating.survey import Survey
from vfl.expansion import begin_expansion
from vfl.glm import Block, Target
from vfl.glm_quadratic import Setup, Wire
from vfl.optim import Vector, dot
from vfl.paillier import InnerProductPlan
from vfl.paillier.pippenger import powers_of_columns

_FINGERPRINT = bytes(16)


@dataclass(frozen=True, slots=True)
class Walked:
    """The rounds of every expansion, and CPU seconds: to begin with, and per round."""

    setup: Setup
    rounds: tuple[int, ...]
    converged: bool
    begin_seconds: float
    round_seconds: float


def walk(survey: Survey, key: CountedKey) -> Walked:
    """Train on plain blocks, side by side, as the roles will on theirs."""
    job, terms, lead = survey.job, survey.terms, survey.job.active
    start = time.thread_time()
    target = glm_part.target_of(survey.data[lead], terms, survey.keeper)
    own = glm.local_optimum(survey.blocks[lead], target, job.training.l2, ones=job.training.fit_intercept)
    w = {name: np.zeros((block.width, 1)) for name, block in survey.blocks.items()} | {lead: own}
    columns = {name: _real(block) for name, block in survey.blocks.items()}
    if survey.members is not None:
        (other,) = job.passive
        columns[other] = columns[other][survey.members.places]
    begun = time.thread_time()
    rounds: list[int] = []
    stop = ""
    for _ in range(job.training.newton_steps + 1):
        z = np.asarray(sum(columns[name] @ w[name] for name in columns))
        setup, _deviation = glm_quadratic.expand_around(key, terms, target, z)  # members' share changes no size
        count, stop = _descend(survey, target, setup, columns, w, z, sum(rounds))
        rounds.append(count)
    spent = time.thread_time() - begun
    return Walked(setup, tuple(rounds), stop == "converged", begun - start, spent / (sum(rounds) + len(rounds)))


def _real(block: Block) -> Vector:
    return np.ldexp(block.training.astype(np.float64), -block.scale_bits)


def _descend(
    survey: Survey,
    target: Target,
    setup: Setup,
    columns: dict[str, Vector],
    w: dict[str, Vector],
    z: Vector,
    before: int,
) -> tuple[int, str]:
    """Conjugate gradients within one expansion; moves ``w``, returns the rounds and why they stopped."""
    blocks, n = survey.blocks, len(target.y)
    residual = target.residual(z)
    by_row = survey.job.training.curvature == "row" or target.weights is not None
    bends = target.curvature(z) if by_row else np.full((n, 1), setup.curvature)
    at = {
        name: begin_expansion(block, setup.curvature, w[name], columns[name].T @ residual / n)
        for name, block in blocks.items()
    }
    loss = target.loss(z) + sum(glm.penalty_value(blocks[name], w[name], w[name]) for name in blocks) / 2
    decrement, previous, rounds = sum(dot(own.g, own.Pg) for own in at.values()), 0.0, 0
    while not (stop := glm_quadratic.verdict(survey.terms, decrement, loss, before + rounds)):
        conjugacy = decrement / previous if previous > 0 else 0.0
        for own in at.values():
            own.p = -own.Pg + conjugacy * own.p
        dz = np.asarray(sum(columns[name] @ own.p for name, own in at.items()))
        h = {
            name: columns[name].T @ (bends * dz) / n + blocks[name].penalty[:, None] * own.p for name, own in at.items()
        }
        slope = sum(dot(own.g, own.p) for own in at.values())
        bend = sum(dot(own.p, h[name]) for name, own in at.items())
        step = -slope / bend if bend > 0 else 0.0
        loss += step * slope + step * step * bend / 2
        for name, own in at.items():
            own.w, own.g = own.w + step * own.p, own.g + step * h[name]
            own.Pg = glm.precondition(own.matrix, own.g)
        previous, decrement = decrement, sum(dot(own.g, own.Pg) for own in at.values())
        rounds += 1
    w.update({name: own.w for name, own in at.items()})
    return rounds, stop


def training(account: Account, survey: Survey) -> Trained:
    """Book the training."""
    privacy, speeds = survey.job.privacy, account.speeds
    bits = privacy.key_bits
    key = counted_key(bits, privacy.exponent_bits or bits // 2)
    ran = walk(survey, key)
    public = PaillierKey(bytes((bits + 7) // 8), bytes((2 * bits + 7) // 8), key.exponent_bits)
    for name in survey.owns:
        account.send(Wire.key, COORDINATOR, name, public)
    account.stage("training", {COORDINATOR: Load(speeds.key_seconds), survey.job.active: Load(ran.begin_seconds)})
    tables = {name: Load(0.0, speeds.public_tables) for name in survey.owns}
    account.stage("training", tables)
    deviation, scores = _plans(survey, key, ran.setup)
    products = {
        (name, plan): _products(account, survey, key, plan, name)
        for name in survey.owns
        for plan in (deviation, scores)
    }
    for newton, rounds in enumerate(ran.rounds):
        _begin(account, survey, key, deviation, ran.setup, products)
        for _ in range(rounds):
            account.stage("training", {survey.job.active: Load(ran.round_seconds)})
            _round(account, survey, key, scores, ran.setup, products)
        _steer(account, survey, 2, stop=True)
        if newton + 1 < len(ran.rounds):
            _opened_scores(account, survey)
    stop = "converged" if ran.converged else f"not converged within training.max_iter = {sum(ran.rounds)} rounds"
    outcome = Revealed({"stop": stop}, np.zeros(sum(ran.rounds) + 1))
    account.send(Wire.outcome, COORDINATOR, survey.job.active, outcome)
    return Trained(sum(ran.rounds), ran.converged, ran.begin_seconds, SIMULATED)


def _plans(survey: Survey, key: CountedKey, setup: Setup) -> tuple[InnerProductPlan, InnerProductPlan]:
    terms = survey.terms
    return glm_quadratic.deviation_plan(key, terms, setup), glm_quadratic.score_plan(key, terms, setup)


def _products(account: Account, survey: Survey, key: CountedKey, plan: InnerProductPlan, name: str) -> Load:
    """What a party's products, masked and fresh, cost once."""
    block = survey.blocks[name]
    if survey.members is not None and name == survey.job.active:
        block = survey.members.block(block)
    start = time.thread_time()
    values = key.kernel.pack([0] * plan.ciphertexts)
    powers_of_columns(
        key.kernel, values, block.training, rows_per_value=plan.rows_per_ciphertext, slot_bits=plan.slot_bits
    )
    single = time.thread_time() - start
    work = account.on_ciphers(key.kernel.work.take())
    return Load(single) + work + Load(0.0, rerandomised(account, block.width, key))


Products = dict[tuple[str, InnerProductPlan], Load]


def _begin(
    account: Account, survey: Survey, key: CountedKey, plan: InnerProductPlan, setup: Setup, products: Products
) -> None:
    """Book an expansion's setup, deviation and first products."""
    lead, speeds = survey.job.active, account.speeds
    told = Revealed(asdict(setup), np.zeros(0))
    account.send(Wire.setup_copy, lead, COORDINATOR, told)
    account.encryptions[lead] += plan.ciphertexts
    sent = Load(0.0, plan.ciphertexts * speeds.encrypt_public)
    body = Encrypted(_FINGERPRINT, shape(np.uint8, plan.ciphertexts, key.ciphertext_bytes))
    for name in survey.job.passive:
        account.send(Wire.setup, lead, name, told)
        sent += account.send(Wire.deviation, lead, name, body)
    account.stage("training", {lead: sent})
    _open(account, survey, key, plan, products, list(survey.job.passive))
    _scalars(account, survey, 2)


def _round(
    account: Account, survey: Survey, key: CountedKey, plan: InnerProductPlan, setup: Setup, products: Products
) -> None:
    """Book one round of conjugate gradients."""
    lead, speeds = survey.job.active, account.speeds
    _steer(account, survey, 2, stop=False)
    body = Encrypted(_FINGERPRINT, shape(np.uint8, plan.ciphertexts, key.ciphertext_bytes))
    encrypted = Load(0.0, plan.ciphertexts * speeds.encrypt_public)
    loads, added, handed = {}, encrypted, Load()
    for name in survey.job.passive:
        account.encryptions[name] += plan.ciphertexts
        loads[name] = encrypted + account.send(Wire.step_scores, name, lead, body)
        added += account.received(plan.ciphertexts) + Load(0.0, plan.ciphertexts * speeds.product)
        handed += account.send(Wire.direction_scores, lead, name, body) + account.received(plan.ciphertexts)
    account.stage("training", loads)
    account.encryptions[lead] += plan.ciphertexts
    if setup.by_row:
        bits = 16 + glm_quadratic.curvature_bits(survey.terms)
        added += Load(0.0, plan.ciphertexts * bits * (speeds.squaring + speeds.product / 4))
    account.stage("training", {lead: added + handed})
    _open(account, survey, key, plan, products, [name for name, block in survey.blocks.items() if block.width])
    _scalars(account, survey, 2)
    _steer(account, survey, 1, stop=False)
    _scalars(account, survey, 1)


def _open(
    account: Account, survey: Survey, key: CountedKey, plan: InnerProductPlan, products: Products, names: list[str]
) -> None:
    """Book products of so many parties, and their opening by the coordinator."""
    loads, opened = {}, Load()
    for name in names:
        own = survey.terms.columns[name]
        masked = Encrypted(_FINGERPRINT, shape(np.uint8, own, key.ciphertext_bytes))
        loads[name] = products[name, plan] + account.send(Wire.products, name, COORDINATOR, masked)
        account.decryptions[COORDINATOR] += own
        opened += account.received(own) + Load(0.0, own * account.speeds.decrypt)
        opened += account.send(Wire.opened, COORDINATOR, name, Opened(shape(np.uint8, own, plan.answer_bytes)))
    account.stage("training", loads)
    account.stage("training", {COORDINATOR: opened})


def _scalars(account: Account, survey: Survey, count: int) -> None:
    load = Load()
    for name in survey.owns:
        load += account.send(Wire.scalars, name, COORDINATOR, Masked(shape(np.uint64, count, 4)))
    account.stage("training", {COORDINATOR: load})


def _steer(account: Account, survey: Survey, count: int, *, stop: bool) -> None:
    load = Load()
    for name in survey.owns:
        load += account.send(Wire.steer, COORDINATOR, name, Revealed({"stop": stop}, np.zeros(count)))
    account.stage("training", {COORDINATOR: load})


def scoring_one_sided(account: Account, survey: Survey) -> None:
    """Book the test rows' scores of a one-sided training, picked under encryption."""
    privacy, speeds, test = survey.job.privacy, account.speeds, survey.parts.test
    if not survey.job.split.test_fraction:
        return
    lead, (other,), wire = survey.job.active, survey.job.passive, vfl.scoring_one_sided.Wire
    key = counted_key(privacy.key_bits, privacy.exponent_bits or privacy.key_bits // 2)
    public = PaillierKey(bytes((key.bits + 7) // 8), bytes((2 * key.bits + 7) // 8), key.exponent_bits)
    made = Load(speeds.key_seconds)
    for name in survey.owns:
        made += account.send(wire.key, COORDINATOR, name, public)
    account.stage("evaluating", {COORDINATOR: made})
    rows = survey.terms.rows
    whole, chosen = (Encrypted(_FINGERPRINT, shape(np.uint8, n, key.ciphertext_bytes)) for n in (rows, test))
    account.encryptions[other] += rows
    account.stage("evaluating", {other: Load(0.0, speeds.public_tables + rows * speeds.encrypt_public)})
    picked = account.send(wire.scores, other, lead, whole) + account.received(rows)
    account.stage("evaluating", {lead: picked + Load(0.0, rerandomised(account, test, key))})
    account.decryptions[COORDINATOR] += test
    opened = account.send(wire.chosen, lead, COORDINATOR, chosen) + account.received(test)
    opened += account.send(wire.opened, COORDINATOR, lead, Opened(shape(np.uint8, test, key.bits // 8)))
    account.stage("evaluating", {COORDINATOR: opened + Load(0.0, test * speeds.decrypt)})


def _opened_scores(account: Account, survey: Survey) -> None:
    words = Masked(shape(np.uint64, survey.terms.rows, 1))
    load = Load()
    for name in survey.job.passive:
        load += account.send(Wire.training_scores, name, COORDINATOR, words)
    load += account.send(Wire.training_sums, COORDINATOR, survey.job.active, words)
    account.stage("training", {survey.job.active: load})
