"""What `vfl.glm_exact` will take.

The rounds come from the same descent on plain numbers: its vectors are those of the run, summed in one place.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from parties.link import COORDINATOR
from parties.wire import Control, Encrypted, Masked, Opened, PaillierKey, Revealed
from vfl import glm, glm_exact, glm_part
from vfl.descent import Descent
from vfl.estimating.account import Account, Load, Trained, shape
from vfl.estimating.counting import CountedKey, counted_key
from vfl.estimating.survey import Survey
from vfl.glm_exact import Setup, Wire
from vfl.optim import basis_products, combine, lbfgs_direction
from vfl.paillier import InnerProductPlan, choose_rows_per_ciphertext, pack_rows, plan_inner_product
from vfl.paillier.pippenger import powers_of_columns

_FINGERPRINT = bytes(16)
SIMULATED = "the same descent on plain columns, here on this machine"


@dataclass(frozen=True, slots=True)
class Descended:
    """The rounds of a descent in plain, and its CPU seconds: to begin with, and per round."""

    setup: Setup
    rounds: int
    converged: bool
    begin_seconds: float
    round_seconds: float


def plan_of(key: CountedKey, survey: Survey) -> InnerProductPlan:
    """The packing that the active party will choose."""
    terms = survey.terms
    bound = (1 << glm_exact.RESIDUAL_BITS) * glm.column_bound(terms.rows)
    k = choose_rows_per_ciphertext(key.bits, terms.rows, bound, max(terms.passive_columns), key.kernel.costs)
    return plan_inner_product(key.bits, terms.rows, bound, k)


def descend(survey: Survey, rows_per_ciphertext: int) -> Descended:
    """Train on plain blocks, side by side, as the roles will on theirs."""
    job, terms, lead = survey.job, survey.terms, survey.job.active
    start = time.thread_time()
    training, guards = job.training, survey.owns[lead].guards
    target = glm_part.target_of(survey.data[lead], terms, survey.keeper)
    setup, (first, z, losses) = glm_exact.begin(survey.blocks[lead], target, training, rows_per_ciphertext)
    matrices = {
        name: glm.block_preconditioner(block, glm_exact.curvature(terms)) for name, block in survey.blocks.items()
    }
    at = {name: Descent(np.zeros((block.width, terms.outputs))) for name, block in survey.blocks.items()}
    at[lead] = first
    begun = time.thread_time()
    stop, rounds = "", 0
    for rounds in range(training.max_iter + 1):
        residuals = glm_exact.quantised(target.residual(z), setup)
        total, Pg = np.zeros(0), {}
        for name, block in survey.blocks.items():
            own = at[name]
            g = glm.mean_gradient(block, glm.own_products(block, residuals), setup.residual_scale)
            own.arrive(g + block.penalty[:, None] * own.w, matrices[name], glm_exact.memory(terms))
            Pg[name] = glm.precondition(matrices[name], own.g if own.g is not None else g)
            part = np.array(basis_products(own.pairs, own.g if own.g is not None else g, Pg[name]))
            total = part if not len(total) else total + part
        coefficients, slope = lbfgs_direction(total.tolist(), len(at[lead].pairs))
        stop = glm_exact.verdict(target, terms, guards, losses, slope, rounds, z)
        if stop:
            break
        glm.spend(terms, guards, rounds + 1)
        d = {name: combine(coefficients, at[name].pairs, Pg[name]) for name in at}
        moved = sum(glm.forward(block, at[name].w + d[name]) for name, block in survey.blocks.items())
        at_w, cross, at_d = np.sum(
            [glm_exact.penalties(block, at[name].w, d[name]) for name, block in survey.blocks.items()], axis=0
        ).tolist()
        dz = glm.to_scores(np.asarray(moved)) - z
        t = glm_exact.search_step(target, setup, z, dz, slope, cross, at_d)
        if t <= 0:
            break
        for name in at:
            at[name].move(t * d[name])
        z = z + t * dz
        losses.append(target.loss(z) + (at_w + 2 * t * cross + t * t * at_d) / 2)
    spent = time.thread_time() - begun
    return Descended(setup, rounds, stop == "converged", begun - start, spent / (rounds + 1))


def training(account: Account, survey: Survey) -> Trained:
    """Book the training."""
    privacy, terms, lead = survey.job.privacy, survey.terms, survey.job.active
    key = counted_key(privacy.key_bits, privacy.exponent_bits or privacy.key_bits // 2)
    plan = plan_of(key, survey)
    ran = descend(survey, plan.rows_per_ciphertext)
    begin(account, survey, ran.begin_seconds)
    for name in survey.job.passive:
        account.send(Wire.setup, lead, name, Revealed(ran.setup.facts(), np.zeros(0)))
    products = {name: _products(account, survey, key, plan, name) for name in survey.job.passive}
    start = time.thread_time()
    pack_rows(plan, np.zeros(terms.rows, dtype=np.int64))
    packing = (time.thread_time() - start) * terms.outputs
    for number in range(ran.rounds + 1):
        account.stage("training", {lead: Load(ran.round_seconds)})
        pairs = min(number, glm_exact.memory(terms))
        _gradient(account, survey, key, plan, products, packing, pairs)
        last = number == ran.rounds
        values = np.zeros(0 if last else 2 * pairs + 1)
        load = account.send(Wire.proceed, lead, COORDINATOR, Control({"go": not last}))
        for name in survey.job.passive:
            load += account.send(Wire.direction, lead, name, Revealed({"stop": last}, values))
        account.stage("training", {lead: load})
        if not last:
            _step(account, survey)
    return Trained(ran.rounds, ran.converged, ran.begin_seconds, SIMULATED)


def begin(account: Account, survey: Survey, seconds: float) -> None:
    """Book the key, and what the active party does before the first round."""
    privacy, lead, speeds = survey.job.privacy, survey.job.active, account.speeds
    bits = privacy.key_bits
    public = PaillierKey(bytes((bits + 7) // 8), bytes((2 * bits + 7) // 8), privacy.exponent_bits or bits // 2)
    for name in survey.job.passive:
        account.send(Wire.key, lead, name, public)
    account.stage("training", {lead: Load(speeds.key_seconds + seconds, speeds.owner_tables)})


def _products(account: Account, survey: Survey, key: CountedKey, plan: InnerProductPlan, name: str) -> Load:
    """What a passive party's products cost in a round."""
    block, outputs = survey.blocks[name], survey.terms.outputs
    start = time.thread_time()
    values = key.kernel.pack([0] * plan.ciphertexts)
    powers_of_columns(
        key.kernel, values, block.training, rows_per_value=plan.rows_per_ciphertext, slot_bits=plan.slot_bits
    )
    single = time.thread_time() - start
    return (Load(single) + account.on_ciphers(key.kernel.work.take())) * outputs


def _gradient(
    account: Account,
    survey: Survey,
    key: CountedKey,
    plan: InnerProductPlan,
    products: dict[str, Load],
    packing: float,
    pairs: int,
) -> None:
    """Book one round's residual, products, and what is opened of them."""
    terms, lead, speeds = survey.terms, survey.job.active, account.speeds
    count, width = plan.ciphertexts * terms.outputs, key.ciphertext_bytes
    account.encryptions[lead] += count
    residual = Encrypted(_FINGERPRINT, shape(np.uint8, count, width))
    load = account.send(Wire.residual, lead, COORDINATOR, residual)
    account.stage("training", {lead: load + Load(packing, count * speeds.encrypt)})
    loads, opened, answers = {}, Load(), Load()
    for name in survey.job.passive:
        own = terms.columns[name] * terms.outputs
        copied = account.send(Wire.residual_copy, COORDINATOR, name, residual)
        sent = account.send(Wire.products, name, COORDINATOR, Encrypted(_FINGERPRINT, shape(np.uint8, own, width)))
        fresh = Load(0.0, rerandomised(account, own, key))
        loads[name] = copied + account.received(count) + products[name] + fresh + sent
        account.decryptions[lead] += own
        opened += account.received(own) + Load(0.0, own * speeds.decrypt)
        answers += account.send(Wire.opened, lead, name, Opened(shape(np.uint8, own, plan.answer_bytes)))
        words = Masked(shape(np.uint64, (2 * pairs + 1) * (pairs + 1), 4))
        answers += account.send(Wire.gradient_scalars, name, COORDINATOR, words)
    account.stage("training", loads)
    everything = shape(np.uint8, sum(terms.passive_columns) * terms.outputs, width)
    gathered = account.send(Wire.all_products, COORDINATOR, lead, Encrypted(_FINGERPRINT, everything))
    sums = account.send(Wire.gradient_sums, COORDINATOR, lead, words)
    account.stage("training", {lead: gathered + opened + answers + sums})


def rerandomised(account: Account, count: int, key: CountedKey) -> float:
    """CPU seconds to re-randomise ciphertexts towards the key's owner; few of them go without a table."""
    speeds, kernel = account.speeds, key.kernel
    if count >= kernel.costs.table_after:
        return count * speeds.rerandomise
    whole = -(-count // kernel.lanes) * kernel.lanes
    return min(whole * key.bits * speeds.squaring * 1.25, speeds.long_tables + count * speeds.rerandomise)


def _step(account: Account, survey: Survey) -> None:
    """Book one round's scores, line search and step."""
    terms, lead = survey.terms, survey.job.active
    scores = Masked(shape(np.uint64, terms.rows * terms.outputs, 1))
    three = Masked(shape(np.uint64, 3, 4))
    load = Load()
    for name in survey.job.passive:
        load += account.send(Wire.scores, name, COORDINATOR, scores)
        load += account.send(Wire.step_scalars, name, COORDINATOR, three)
        load += account.send(Wire.step, lead, name, Revealed({"stop": False}, np.zeros(1)))
    load += account.send(Wire.score_sums, COORDINATOR, lead, scores)
    load += account.send(Wire.step_sums, COORDINATOR, lead, three)
    load += account.send(Wire.proceed, lead, COORDINATOR, Control({"go": True}))
    account.stage("training", {lead: load})
