"""What `vfl.glm_silos` and `vfl.scoring_silos` will take.

The rounds come from the same descent on plain numbers, with the rows of a party's silos in one place: sums over silos
are what the protocol works with anyway.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from parties.link import COORDINATOR
from parties.wire import Control, Encrypted, Masked, Message, Opened, PaillierKey, Revealed
from vfl import glm, glm_exact, row_masks, scoring_silos, siblings
from vfl.descent import Descent
from vfl.estimating.account import Account, Load, Trained, shape
from vfl.estimating.counting import CountedKey, counted_key
from vfl.estimating.exact import SIMULATED, plan_of, rerandomised
from vfl.estimating.silo_survey import SiloSurvey
from vfl.glm import Target
from vfl.glm_exact import Setup
from vfl.glm_silos import Wire
from vfl.optim import Vector, basis_products, combine, lbfgs_direction, line_search
from vfl.paillier import InnerProductPlan, pack_rows
from vfl.paillier.pippenger import powers_of_columns
from vfl.terms import Terms

_FINGERPRINT = bytes(16)
_LIMBS = 4  # words of a number that is added up exactly


@dataclass(frozen=True, slots=True)
class Descended:
    """The rounds of a descent in plain: how many step lengths each tried, and CPU seconds per round.

    ``stuck``: how many a last round tried that found none; 0 where the training ended otherwise.
    """

    setup: Setup
    probes: tuple[int, ...]
    stuck: int
    converged: bool
    round_seconds: float


def descend(surveyed: SiloSurvey, rows_per_ciphertext: int) -> Descended:
    """Train on plain blocks of whole parties, side by side."""
    survey, target = surveyed.survey, surveyed.target
    terms, lead, blocks = survey.terms, survey.job.active, survey.blocks
    begun, guards = surveyed.begins[lead], survey.owns[lead].guards
    setup = Setup(begun.bound_bits, target.label_bits, rows_per_ciphertext)
    matrices = {name: surveyed.ready[name].placed.preconditioner(terms) for name in blocks}
    at = {name: Descent(np.zeros((block.width, terms.outputs))) for name, block in blocks.items()}
    at[lead] = Descent(begun.weights)
    z = glm.to_scores(glm.forward(blocks[lead], at[lead].w))
    losses = [target.loss(z)]
    start, stop, probes, stuck = time.thread_time(), "", list[int](), 0
    for number in range(terms.job.training.max_iter + 1):
        residuals = glm_exact.quantised(target.residual(z), setup)
        total, Pg = np.zeros(0), {}
        for name, block in blocks.items():
            own = at[name]
            g = glm.mean_gradient(block, glm.own_products(block, residuals), setup.residual_scale)
            g = g + block.penalty[:, None] * own.w
            own.arrive(g, matrices[name], glm_exact.memory(terms))
            Pg[name] = glm.precondition(matrices[name], g)
            part = np.array(basis_products(own.pairs, g, Pg[name]))
            total = part if not len(total) else total + part
        coefficients, slope = lbfgs_direction(total.tolist(), len(at[lead].pairs))
        stop = glm_exact.verdict(target, terms, guards, losses, slope, number, z)
        if stop:
            break
        glm.spend(terms, guards, number + 1)
        d = {name: combine(coefficients, at[name].pairs, Pg[name]) for name in at}
        moved = sum(glm.forward(block, at[name].w + d[name]) for name, block in blocks.items())
        at_w, cross, at_d = np.sum(
            [glm_exact.penalties(block, at[name].w, d[name]) for name, block in blocks.items()], axis=0
        ).tolist()
        dz = glm.to_scores(np.asarray(moved)) - z
        t, tried = _search(target, setup, z, dz, slope, cross, at_d)
        if t <= 0:
            stuck = tried
            break
        probes.append(tried)
        for name in at:
            at[name].move(t * d[name])
        z = z + t * dz
        losses.append(target.loss(z) + (at_w + 2 * t * cross + t * t * at_d) / 2)
    spent = time.thread_time() - start
    return Descended(setup, tuple(probes), stuck, stop == "converged", spent / (len(probes) + 1))


def _search(
    target: Target, setup: Setup, z: Vector, dz: Vector, slope: float, cross: float, at_d: float
) -> tuple[float, int]:
    """Step length of the exact line search, and how many others were tried on the way."""
    tried: dict[float, tuple[float, bool]] = {}

    def at(t: float) -> tuple[float, bool]:
        if t not in tried:
            residual = target.residual(z + t * dz)
            inside = bool(np.abs(residual).max() <= 2.0**setup.bound_bits)
            tried[t] = (math.fsum((residual * dz).ravel().tolist()) / len(z) if inside else 0.0), inside
        return tried[t]

    return line_search(lambda t: at(t)[0] + cross + t * at_d, slope, lambda t: at(t)[1]), len(tried)


@dataclass(frozen=True, slots=True)
class _Cast:
    """Who plays, and what sizes follow from the packing.

    Attributes
    ----------
    count : int
        Ciphertexts of the residuals of one label silo.
    products : dict of passive silo to Load
        What its products cost in a round.
    """

    account: Account
    surveyed: SiloSurvey
    terms: Terms
    key: CountedKey
    plan: InnerProductPlan
    products: dict[str, Load]

    @property
    def count(self) -> int:
        return self.plan.ciphertexts * self.terms.outputs

    @property
    def lead(self) -> str:
        return self.terms.job.active

    @property
    def others(self) -> list[str]:
        return [party.name for party in self.terms.job.parties if party.name != self.lead]

    def width(self, name: str) -> int:
        """Numbers of a party's gradient."""
        return self.terms.columns[name] * self.terms.outputs

    def add_up(self, numbers: int) -> Load:
        """Book a sum of so many numbers over the silos of the label holder."""
        first, *others = self.terms.job.labelled
        words, load = Masked(shape(np.uint64, numbers, _LIMBS)), Load()
        for name in others:
            load += self.account.send(siblings.Wire.part, name, first, words)
            load += self.account.send(siblings.Wire.total, first, name, words)
        return load

    def tell(self, message: Message[Any, Any, Any], values: int, *, stop: bool) -> Load:
        """Book what the active party tells all others: coefficients, a step, or that it stops."""
        load = self.account.send(Wire.proceed, self.lead, COORDINATOR, Control({"go": not stop}))
        told = Revealed({"stop": stop}, np.zeros(0 if stop else values))
        for name in self.others:
            load += self.account.send(message, self.lead, name, told)
        return load


def training(account: Account, surveyed: SiloSurvey) -> Trained:
    """Book the training; what silos of one party tell each other before the first round is booked already."""
    survey = surveyed.survey
    privacy, terms = survey.job.privacy, survey.terms
    key = counted_key(privacy.key_bits, privacy.exponent_bits or privacy.key_bits // 2)
    plan = plan_of(key, survey)
    ran = descend(surveyed, plan.rows_per_ciphertext)
    cast = _Cast(account, surveyed, terms, key, plan, {})
    for name in survey.job.passive:
        cast.products[name] = _products(cast, name)
    _begin(cast, ran.setup)
    start = time.thread_time()
    pack_rows(plan, np.zeros(terms.rows, dtype=np.int64))
    packing = (time.thread_time() - start) * terms.outputs
    for number, probes in enumerate((*ran.probes, ran.stuck)):
        own = dict.fromkeys(survey.job.labelled, Load(ran.round_seconds / len(survey.job.labelled)))
        account.stage("training", own)
        pairs = min(number, glm_exact.memory(terms))
        _gradient(cast, packing, pairs)
        told = cast.tell(Wire.direction, 2 * pairs + 1, stop=not probes)
        account.stage("training", {cast.lead: cast.add_up(1) + told})
        if probes:
            _step(cast, probes, stuck=number == len(ran.probes))
    return Trained(len(ran.probes), ran.converged, _fitting(surveyed), SIMULATED)


def _fitting(surveyed: SiloSurvey) -> float:
    """CPU seconds of a fit of the label holder's columns in plain, over all its silos."""
    survey, start = surveyed.survey, time.thread_time()
    lines = survey.job.training
    glm.local_optimum(survey.blocks[survey.job.active], surveyed.target, lines.l2, ones=lines.fit_intercept)
    return time.thread_time() - start


def _begin(cast: _Cast, setup: Setup) -> None:
    """Book the key and the packing."""
    account, speeds = cast.account, cast.account.speeds
    privacy = cast.terms.job.privacy
    bits = privacy.key_bits
    public = PaillierKey(bytes((bits + 7) // 8), bytes((2 * bits + 7) // 8), privacy.exponent_bits or bits // 2)
    account.send(Wire.key_copy, cast.lead, COORDINATOR, public)
    for name in cast.others:
        account.send(Wire.key, cast.lead, name, public)
        account.send(Wire.setup, cast.lead, name, Revealed(setup.facts(), np.zeros(0)))
    tables = {name: Load(0.0, speeds.public_tables) for name in cast.terms.job.labelled[1:]}
    account.stage("training", {cast.lead: Load(speeds.key_seconds, speeds.owner_tables), **tables})


def _products(cast: _Cast, name: str) -> Load:
    """What a passive silo's products cost in a round: rows that are not its own cost nothing."""
    placed, plan, kernel = cast.surveyed.ready[name].placed, cast.plan, cast.key.kernel
    X = placed.spread(placed.block.training)
    start = time.thread_time()
    values = kernel.pack([0] * plan.ciphertexts)
    powers_of_columns(kernel, values, X, rows_per_value=plan.rows_per_ciphertext, slot_bits=plan.slot_bits)
    single = time.thread_time() - start
    return (Load(single) + cast.account.on_ciphers(kernel.work.take())) * cast.terms.outputs


def _encrypted(cast: _Cast, count: int) -> Encrypted:
    return Encrypted(_FINGERPRINT, shape(np.uint8, count, cast.key.ciphertext_bytes))


def _added(cast: _Cast, silos: int, count: int) -> Load:
    """What the coordinator's sum of so many silos' ciphertexts costs."""
    adding = Load(0.0, (silos - 1) * count * cast.account.speeds.product)
    return cast.account.received(silos * count) + adding


def _gradient(cast: _Cast, packing: float, pairs: int) -> None:
    """Book one round's residuals, products, and what is opened of them."""
    account, job, speeds, count = cast.account, cast.terms.job, cast.account.speeds, cast.count
    loads = {}
    for name in job.labelled:
        account.encryptions[name] += count
        each = speeds.encrypt if name == cast.lead else speeds.encrypt_public
        sent = account.send(Wire.residual, name, COORDINATOR, _encrypted(cast, count))
        loads[name] = sent + Load(packing, count * each)
    account.stage("training", loads)
    account.stage("training", {COORDINATOR: _added(cast, len(job.labelled), count)})
    _multiply(cast)
    _open(cast)
    words = Masked(shape(np.uint64, (2 * pairs + 1) * (pairs + 1), _LIMBS))
    load = Load()
    for silos in job.passive_holders.values():
        load += account.send(Wire.gradient_scalars, silos[0], COORDINATOR, words)
    load += account.send(Wire.gradient_sums, COORDINATOR, cast.lead, words)
    account.stage("training", {cast.lead: load + cast.add_up(cast.width(cast.lead))})


def _multiply(cast: _Cast) -> None:
    """Book the passive silos' products, and what the coordinator makes of them."""
    account, job = cast.account, cast.terms.job
    loads, adding, total = {}, Load(), 0
    for silos in job.passive_holders.values():
        own = cast.width(silos[0])
        for name in silos:
            copied = account.send(Wire.residual_copy, COORDINATOR, name, _encrypted(cast, cast.count))
            sent = account.send(Wire.products, name, COORDINATOR, _encrypted(cast, own))
            fresh = Load(0.0, rerandomised(account, own, cast.key))
            loads[name] = copied + account.received(cast.count) + cast.products[name] + fresh + sent
        adding += _added(cast, len(silos), own)
        total += own
    account.stage("training", loads)
    gathered = account.send(Wire.all_products, COORDINATOR, cast.lead, _encrypted(cast, total))
    account.stage("training", {COORDINATOR: adding + gathered})


def _open(cast: _Cast) -> None:
    """Book what the active party opens, and tells every silo of a holder."""
    account, load = cast.account, Load()
    for silos in cast.terms.job.passive_holders.values():
        own = cast.width(silos[0])
        account.decryptions[cast.lead] += own
        load += account.received(own) + Load(0.0, own * account.speeds.decrypt)
        for name in silos:
            opened = Opened(shape(np.uint8, own, cast.plan.answer_bytes))
            load += account.send(Wire.opened, cast.lead, name, opened)
    account.stage("training", {cast.lead: load})


def _step(cast: _Cast, probes: int, *, stuck: bool) -> None:
    """Book one round's scores, line search, step and loss."""
    account, terms, lead = cast.account, cast.terms, cast.lead
    three = Masked(shape(np.uint64, 3, _LIMBS))
    load = Load()
    for name in terms.job.passive:
        load += account.send(Wire.scores, name, COORDINATOR, _words(terms, terms.rows))
    for silos in terms.job.passive_holders.values():
        load += account.send(Wire.step_scalars, silos[0], COORDINATOR, three)
    load += _open_rows(account, terms, Wire.score_sums, terms.rows)
    load += account.send(Wire.step_sums, COORDINATOR, lead, three)
    for probe in range(probes + 1):
        last = probe == probes
        for name in terms.job.labelled[1:]:
            load += account.send(Wire.probe, lead, name, Revealed({"go": not last}, np.zeros(0 if last else 1)))
        load += Load() if last else cast.add_up(2)
    load += cast.tell(Wire.step, 1, stop=stuck)
    account.stage("training", {lead: load + (Load() if stuck else cast.add_up(1))})


def scoring(account: Account, surveyed: SiloSurvey) -> None:
    """Book the test rows' scores."""
    survey = surveyed.survey
    test, terms = survey.parts.test, survey.terms
    if not test:
        return
    load = Load()
    for name in terms.job.passive:
        load += account.send(scoring_silos.Wire.partial, name, COORDINATOR, _words(terms, test))
    load += _open_rows(account, terms, scoring_silos.Wire.total, test)
    account.stage("evaluating", {COORDINATOR: load})


def _open_rows(account: Account, terms: Terms, total: Message[Any, Any, Any], rows: int) -> Load:
    """Book a sum of words over rows on its way to every label silo, and their masks (`vfl.row_masks`)."""
    load = Load()
    for name in terms.job.labelled:
        load += account.send(total, COORDINATOR, name, _words(terms, rows))
    for one, other in permutations(terms.job.labelled, 2):
        load += account.send(row_masks.Wire.lifted, one, other, _words(terms, rows))
    return load


def _words(terms: Terms, rows: int) -> Masked:
    return Masked(shape(np.uint64, rows * terms.outputs, 1))
