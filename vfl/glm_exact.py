"""Train a GLM with its exact link: the active party holds the key, the coordinator aggregates what it cannot read.

Source: full-batch L-BFGS (J. Nocedal, S. Wright, *Numerical Optimization*, algorithm 7.4) in its vector-free form
(W. Chen et al., NIPS 2014), preconditioned by each party's own Gram matrix; gradients under Paillier as in
S. Hardy et al., *Private federated learning on vertically partitioned data via entity resolution and additively
homomorphic encryption*, 2017, with the exact residual instead of its Taylor expansion.

One round (A active, P every passive party, C coordinator; [[v]] Paillier under A's key, {v} under zero-sum masks)::

    A --> P   key, setup                 once
    A --> C --> P   residual             [[r]], r = mu(z) - y, packed
    P --> C --> A   products             [[X_P'r + M]]
    A --> P   opened                     the agreed slot of X_P'r + M; P takes M off: its exact gradient
    P --> C --> A   gradient_scalars     {s'y, y'Py, s'g, y'Pg, g'Pg}, added up by C, opened by A
    A --> P   direction                  coefficients of d in the basis s, Py, Pg; or stop
    P --> C --> A   scores               {X_P (w + d)}, added up by C, opened by A
    P --> C --> A   step_scalars         {l2 w'w, l2 w'd, l2 d'd}
    A --> P   step                       length t of the exact line search; w += t d

A starts at the optimum of its own columns, P at zero. Every role keeps its state when w has moved; a run that goes on
from there begins with a new key and the same setup.

Leakage
-------
active : the rows' summed passive scores, once per evaluation (with one passive party: its very scores);
    sums over the passive parties of s'y, y'Py, s'g, y'Pg, g'Pg; sums over the passive parties of l2 w'w, l2 w'd, l2 d'd
passive : its own exact gradient; the direction's coefficients; the step length;
    powers of two that bound the residuals and scale the label, and the packing
coordinator : sizes and timing; it holds no key, and adds up what it cannot read
C with A: the same sums as A. C with A and all passive parties but one: that one's scores.

Threat model
------------
All follow the protocol and are curious. A's summed scores are one view of the passive columns per evaluation; their
number is A's score budget (``parties.policy.score_budget``), enforced by every passive party as well.

>>> [name for name in vars(Wire) if not name.startswith("_")][:3]
['key', 'setup', 'residual']
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from parties.checkpoint import Keeper, Snapshot
from parties.errors import RemoteProtocolError
from parties.link import COORDINATOR, Endpoint, Link
from parties.policy import Guards
from parties.wire import (
    Active,
    Control,
    Coordinator,
    Encrypted,
    Masked,
    Message,
    Opened,
    PaillierKey,
    Passive,
    Revealed,
)
from vfl import glm
from vfl.descent import Descent, restore_descent
from vfl.exchange import receive_ciphers, receive_key, receive_opened, receive_values, send_ciphers, send_key
from vfl.glm import Block, Fit, Integers, Progress, Target
from vfl.job import Training
from vfl.masking import Masks, add_masked, pairwise_masks
from vfl.optim import Vector, basis_products, combine, lbfgs_direction, line_search
from vfl.paillier import (
    CipherVector,
    InnerProductPlan,
    ObfuscatorPool,
    PrivateKey,
    PublicKey,
    choose_rows_per_ciphertext,
    encrypt,
    generate_keypair,
    mask_products,
    open_products,
    pack_rows,
    plan_inner_product,
    transposed_product,
)
from vfl.terms import Terms

RESIDUAL_BITS = 26
_HEADROOM = 2  # residuals of unbounded families may grow to this power of two times those at the start
_MAX_PACKING = 64
_MAX_POOL = 1 << 14  # obfuscators kept, about 1 kB each
_MAX_BOUND_BITS = 128
_ESTIMATE = 0.1  # -g'd / 2 estimates the decrease that is left and falls short of it by up to ten times (measured)


class Wire:
    """Every message of the protocol; nothing else can be sent."""

    key = Message(Active, Passive, PaillierKey)
    setup = Message(
        Active,
        Passive,
        Revealed,
        discloses="powers of two that bound the residuals and scale the label, and the packing",
    )
    residual = Message(Active, Coordinator, Encrypted)
    residual_copy = Message(Coordinator, Passive, Encrypted)
    products = Message(Passive, Coordinator, Encrypted)
    all_products = Message(Coordinator, Active, Encrypted)
    opened = Message(Active, Passive, Opened, discloses="its own exact gradient")
    gradient_scalars = Message(Passive, Coordinator, Masked)
    gradient_sums = Message(
        Coordinator, Active, Masked, discloses="sums over the passive parties of s'y, y'Py, s'g, y'Pg, g'Pg"
    )
    proceed = Message(Active, Coordinator, Control)
    direction = Message(Active, Passive, Revealed, discloses="the direction's coefficients")
    scores = Message(Passive, Coordinator, Masked)
    score_sums = Message(Coordinator, Active, Masked, discloses="the rows' summed passive scores, once per evaluation")
    step_scalars = Message(Passive, Coordinator, Masked)
    step_sums = Message(
        Coordinator, Active, Masked, discloses="sums over the passive parties of l2 w'w, l2 w'd, l2 d'd"
    )
    step = Message(Active, Passive, Revealed, discloses="the step length")


@dataclass(frozen=True, slots=True)
class Setup:
    """What the active party settles before the first round."""

    bound_bits: int  # |r| <= 2^bound_bits
    label_bits: int
    rows_per_ciphertext: int

    def facts(self) -> dict[str, bool | int | float | str | None]:
        """As it travels."""
        return {
            "bound_bits": self.bound_bits,
            "label_bits": self.label_bits,
            "rows_per_ciphertext": self.rows_per_ciphertext,
        }

    @property
    def residual_scale(self) -> int:
        """Fraction bits of the integer residuals, which stay below 2^RESIDUAL_BITS."""
        return RESIDUAL_BITS - self.bound_bits


def memory(terms: Terms) -> int:
    """L-BFGS pairs kept."""
    return 20 if terms.job.model == "softmax" else 8


def active(endpoint: Endpoint, terms: Terms, block: Block, target: Target, guards: Guards, progress: Progress) -> Fit:
    """Play the active party: key, residuals, direction and line search.

    Parameters
    ----------
    block : Block
        Own columns and, if there is an intercept, a last column of ones.
    progress : callable
        Called with (round, loss) after each round.

    Returns
    -------
    Fit
    """
    run = _start_active(endpoint, terms, block, target)
    with run.pool:
        return _descend(run, terms, block, target, guards, progress)


def _descend(run: _ActiveRun, terms: Terms, block: Block, target: Target, guards: Guards, progress: Progress) -> Fit:
    """The active party's rounds."""
    training = terms.job.training
    at, z, losses = run.start
    matrix = glm.block_preconditioner(block, curvature(terms))
    for round_number in range(run.keeper.rounds, training.max_iter + 1):
        residuals = quantised(target.residual(z), run.setup)
        _serve_gradients(run, terms, residuals)
        g = glm.mean_gradient(block, glm.own_products(block, residuals), run.setup.residual_scale)
        g += block.penalty[:, None] * at.w
        at.arrive(g, matrix, memory(terms))
        Pg = glm.precondition(matrix, g)
        products = _opened_scalars(run, "gradient", round_number, Wire.gradient_sums, basis_products(at.pairs, g, Pg))
        coefficients, slope = lbfgs_direction(products, len(at.pairs))
        stop = verdict(target, terms, guards, losses, slope, round_number, z)
        if not stop:
            glm.spend(terms, guards, round_number + 1)
        _tell_direction(run, coefficients, stop)
        if stop:
            break
        d = combine(coefficients, at.pairs, Pg)
        z_next = _evaluate(run, block, at.w + d, round_number)
        at_w, cross, at_d = _opened_scalars(run, "step", round_number, Wire.step_sums, penalties(block, at.w, d))
        dz = z_next - z
        t = search_step(target, run.setup, z, dz, slope, cross, at_d)
        stop = "" if t > 0 else "no step is left within the precision of fixed point"
        _tell_step(run, t, stop)
        if stop:
            break
        at.move(t * d)
        z = z + t * dz
        losses.append(target.loss(z) + (at_w + 2 * t * cross + t * t * at_d) / 2)
        _save_active(run, at, z, losses)
        progress(round_number + 1, in_label_units(losses[-1], target))
    return finish(at.w, target, losses, stop)


def _save_active(run: _ActiveRun, at: Descent, z: Vector, losses: Sequence[float]) -> None:
    arrays = at.arrays() | {"z": z, "losses": np.array(losses)}
    run.keeper.save_round(len(losses) - 1, {"setup": asdict(run.setup)}, arrays)


def _restore_active(kept: Snapshot) -> tuple[Setup, _Start]:
    return kept.fact("setup", Setup), (restore_descent(kept), kept.floats("z"), kept.floats("losses").tolist())


def passive(endpoint: Endpoint, terms: Terms, block: Block, guards: Guards) -> Fit:
    """Play a passive party: gradients of its own block, and its masked scores.

    Raises
    ------
    PolicyError
        The active party asks for more evaluations than its score budget, and guards are enforced.
    """
    run = _start_passive(endpoint, terms, block)
    with run.pool:
        return _follow(run, terms, block, guards)


def _follow(run: _PassiveRun, terms: Terms, block: Block, guards: Guards) -> Fit:
    """A passive party's rounds."""
    lead, hub, masks = run.lead, run.hub, run.masks
    matrix = glm.block_preconditioner(block, curvature(terms))
    kept = run.keeper.trained()
    at = Descent(np.zeros((block.width, terms.outputs))) if kept is None else restore_descent(kept)
    round_number = run.keeper.rounds
    while True:
        g = _own_gradient(run, terms, block) + block.penalty[:, None] * at.w
        at.arrive(g, matrix, memory(terms))
        Pg = glm.precondition(matrix, g)
        hub.send(Wire.gradient_scalars, masks.scalars(f"gradient|{round_number}", basis_products(at.pairs, g, Pg)))
        told = lead.recv(Wire.direction)
        if told.facts.get("stop"):
            break
        d = combine(receive_values(told, 2 * len(at.pairs) + 1, lead.peer), at.pairs, Pg)
        scores = glm.disclosed_scores(terms, guards, block, at.w + d, round_number + 1)
        hub.send(Wire.scores, masks.scores(f"scores|{round_number}", scores))
        hub.send(Wire.step_scalars, masks.scalars(f"step|{round_number}", penalties(block, at.w, d)))
        told = lead.recv(Wire.step)
        if told.facts.get("stop"):
            break
        (t,) = receive_values(told, 1, lead.peer)
        at.move(t * d)
        round_number += 1
        run.keeper.save_round(round_number, {}, at.arrays())
    return Fit(at.w, run.setup.label_bits, (), round_number, converged=True)


def coordinator(endpoint: Endpoint, terms: Terms) -> Fit:
    """Play the coordinator: fan the residual out, gather products, add masked vectors. It holds no key."""
    lead = endpoint.link(Coordinator, Active, terms.job.active)
    passives = [endpoint.link(Coordinator, Passive, name) for name in terms.job.passive]
    rounds = endpoint.keeper.rounds
    while True:
        pairs = min(rounds, memory(terms))
        residual = lead.recv(Wire.residual)
        for link in passives:
            link.send(Wire.residual_copy, residual)
        lead.send(Wire.all_products, _gather(passives, terms, residual))
        count = (2 * pairs + 1) * (pairs + 1)
        lead.send(Wire.gradient_sums, add_masked({p.peer: p.recv(Wire.gradient_scalars) for p in passives}, count))
        if not lead.recv(Wire.proceed).facts.get("go"):
            break
        scores = {link.peer: link.recv(Wire.scores) for link in passives}
        lead.send(Wire.score_sums, add_masked(scores, terms.rows * terms.outputs))
        lead.send(Wire.step_sums, add_masked({link.peer: link.recv(Wire.step_scalars) for link in passives}, 3))
        if not lead.recv(Wire.proceed).facts.get("go"):
            break
        rounds += 1
        endpoint.keeper.save_round(rounds, {}, {})
    return Fit(np.zeros((0, terms.outputs)), 0, (), rounds, converged=True)


_Start = tuple[Descent, Vector, list[float]]


@dataclass(slots=True)
class _ActiveRun:
    """What the active party keeps through all rounds."""

    hub: Link[Active, Coordinator]
    passives: list[Link[Active, Passive]]
    key: PrivateKey = field(repr=False)
    pool: ObfuscatorPool = field(repr=False)
    setup: Setup
    plan: InnerProductPlan
    masks: Masks
    start: _Start  # block, scores and losses, after as many rounds as are done already
    keeper: Keeper = field(repr=False)


def _start_active(endpoint: Endpoint, terms: Terms, block: Block, target: Target) -> _ActiveRun:
    """Make the key, fit the own columns, settle the packing, and tell the passive parties."""
    privacy, training = terms.job.privacy, terms.job.training
    passives = [endpoint.link(Active, Passive, name) for name in terms.job.passive]
    key = generate_keypair(
        privacy.key_bits, exponent_bits=privacy.exponent_bits, insecure_test_mode=privacy.insecure_test_mode
    )
    for link in passives:
        link.send(Wire.key, send_key(key.public))
    per_ciphertext = choose_rows_per_ciphertext(
        key.public.bits, terms.rows, product_bound(terms), max(terms.passive_columns), key.public.kernel.costs
    )
    plan = make_plan(key.public, terms, per_ciphertext)
    # Obfuscators for a whole round, made while this party waits for the others (and for its own start).
    pool = ObfuscatorPool(key, capacity=min(plan.ciphertexts * terms.outputs, _MAX_POOL))
    kept = endpoint.keeper.trained()
    setup, start = begin(block, target, training, per_ciphertext) if kept is None else _restore_active(kept)
    for link in passives:
        link.send(Wire.setup, Revealed(setup.facts(), np.zeros(0)))
    hub = endpoint.link(Active, Coordinator, COORDINATOR)
    return _ActiveRun(hub, passives, key, pool, setup, plan, pairwise_masks(endpoint, "glm"), start, endpoint.keeper)


def begin(block: Block, target: Target, training: Training, per_ciphertext: int) -> tuple[Setup, _Start]:
    """Fit the own columns, and bound the residuals from there."""
    w = glm.local_optimum(block, target, training.l2, ones=training.fit_intercept)
    z = glm.to_scores(glm.forward(block, w))
    bound_bits = bound_bits_of(target, float(np.abs(target.residual(z)).max()))
    losses = [target.loss(z) + glm.penalty_value(block, w, w) / 2]
    return Setup(bound_bits, target.label_bits, per_ciphertext), (Descent(w), z, losses)


@dataclass(slots=True)
class _PassiveRun:
    """What a passive party keeps through all rounds; its pool is for what goes to the key's owner."""

    lead: Link[Passive, Active]
    hub: Link[Passive, Coordinator]
    pool: ObfuscatorPool = field(repr=False)
    setup: Setup
    plan: InnerProductPlan
    masks: Masks
    keeper: Keeper = field(repr=False)


def _start_passive(endpoint: Endpoint, terms: Terms, block: Block) -> _PassiveRun:
    """Hear the key and the packing."""
    lead, hub = endpoint.link(Passive, Active, terms.job.active), endpoint.link(Passive, Coordinator, COORDINATOR)
    key = receive_key(lead.recv(Wire.key), lead.peer, terms.job.privacy.key_bits)
    setup = read_setup(lead.recv(Wire.setup).facts, lead.peer)
    plan = make_plan(key, terms, setup.rows_per_ciphertext)
    pool = ObfuscatorPool(key, capacity=min(block.width * terms.outputs, _MAX_POOL), towards_owner=True)
    return _PassiveRun(lead, hub, pool, setup, plan, pairwise_masks(endpoint, "glm"), endpoint.keeper)


def bound_bits_of(target: Target, largest: float) -> int:
    """Power of two above every residual: for all scores where the family bounds it, else with headroom."""
    if target.family.name in ("logistic", "softmax"):
        return target.bound_bits
    return math.ceil(math.log2(max(largest, 2.0**-20))) + _HEADROOM


def _serve_gradients(run: _ActiveRun, terms: Terms, residuals: Integers) -> None:
    """Send [[r]], decrypt the masked products, return to each party exactly its agreed slots."""
    packed = [value for column in residuals.T for value in pack_rows(run.plan, np.ascontiguousarray(column))]
    run.hub.send(Wire.residual, send_ciphers(encrypt(run.key, packed, pool=run.pool)))
    counts = [width * terms.outputs for width in terms.passive_columns]
    gathered = run.hub.recv(Wire.all_products)
    if len(gathered.body) != sum(counts):
        raise RemoteProtocolError(f"{run.hub.peer} sent {len(gathered.body)} products, expected {sum(counts)}")
    firsts = np.cumsum([0, *counts[:-1]]).tolist()
    parts = [Encrypted(gathered.key, gathered.body[at : at + count]) for at, count in zip(firsts, counts, strict=True)]
    vectors = [
        receive_ciphers(run.key.public, part, count, link.peer)
        for link, part, count in zip(run.passives, parts, counts, strict=True)
    ]
    for link, vector, count in zip(run.passives, vectors, counts, strict=True):
        link.send(Wire.opened, Opened(open_products(run.plan, run.key, vector, count=count)))


def _own_gradient(run: _PassiveRun, terms: Terms, block: Block) -> Vector:
    """A passive party's X'r / n: multiply, mask, have it opened, take the mask off."""
    plan, key = run.plan, run.pool.key
    payload = run.hub.recv(Wire.residual_copy)
    residual = receive_ciphers(key, payload, plan.ciphertexts * terms.outputs, run.hub.peer)
    products = [
        transposed_product(plan, residual[i * plan.ciphertexts : (i + 1) * plan.ciphertexts], block.training)
        for i in range(terms.outputs)
    ]
    masked, masks = mask_products(plan, CipherVector.concat(products), pool=run.pool)
    run.hub.send(Wire.products, send_ciphers(masked))
    exact = receive_opened(plan, key, run.lead.recv(Wire.opened), masks, run.lead.peer)
    columns = [exact[i * block.width : (i + 1) * block.width] for i in range(terms.outputs)]
    return glm.mean_gradient(block, columns, run.setup.residual_scale)


def _gather(passives: Sequence[Link[Coordinator, Passive]], terms: Terms, residual: Encrypted) -> Encrypted:
    """All parties' masked products in one message, in job order, of the residual's key and width."""
    parts = {link.peer: link.recv(Wire.products) for link in passives}
    for name, part in parts.items():
        expected = (terms.columns[name] * terms.outputs, *residual.body.shape[1:])
        if part.body.shape != expected:
            raise RemoteProtocolError(f"{name} sent products of shape {part.body.shape}, expected {expected}")
        if part.key != residual.key:
            raise RemoteProtocolError(f"{name} sent ciphertexts under another key than the run's")
    return Encrypted(residual.key, np.concatenate([part.body for part in parts.values()]))


def _opened_scalars(
    run: _ActiveRun,
    what: str,
    round_number: int,
    message: Message[Coordinator, Active, Masked],
    own: Sequence[float],
) -> list[float]:
    """Sums of scalars over all parties: the opened passive sum and the active party's own part."""
    opened = run.masks.open_scalars(f"{what}|{round_number}", run.hub.recv(message), len(own))
    return [theirs + mine for theirs, mine in zip(opened, own, strict=True)]


def verdict(
    target: Target,
    terms: Terms,
    guards: Guards,
    losses: Sequence[float],
    slope: float,
    round_number: int,
    z: Vector,
) -> str:
    """Why to stop here, or an empty text."""
    training = terms.job.training
    if -slope / 2 <= training.tol * _ESTIMATE * max(1.0, losses[-1]):
        return "converged"
    if terms.job.model in ("logistic", "softmax") and float(np.abs(z).max()) > 30:
        if target.estimated and training.l2 == 0:
            return "the loss of randomised labels falls on and on; raise training.l2 or privacy.label_dp_epsilon"
        if losses[-1] < 1e-3 and not target.estimated:
            return "the classes are separable: the weights would grow without end; raise training.l2"
    if round_number == training.max_iter:
        return f"not converged within training.max_iter = {training.max_iter} rounds"
    if guards.heed(glm.budget(terms, guards, round_number + 1)):
        return "the active party's score budget is spent"
    return ""


def _tell_direction(run: _ActiveRun, coefficients: Sequence[float], stop: str) -> None:
    run.hub.send(Wire.proceed, Control({"go": not stop}))
    values = np.zeros(0) if stop else np.array(coefficients)
    for link in run.passives:
        link.send(Wire.direction, Revealed({"stop": bool(stop)}, values))


def _tell_step(run: _ActiveRun, t: float, stop: str) -> None:
    run.hub.send(Wire.proceed, Control({"go": not stop}))
    for link in run.passives:
        link.send(Wire.step, Revealed({"stop": bool(stop)}, np.array([t])))


def _evaluate(run: _ActiveRun, block: Block, weights: Vector, round_number: int) -> Vector:
    """Scores of all rows at ``weights``: the own ones and the opened sum of the passive ones."""
    own = glm.forward(block, weights)
    total = run.masks.open_scores(f"scores|{round_number}", run.hub.recv(Wire.score_sums), own.size)
    return glm.to_scores(own + total.reshape(own.shape))


def search_step(target: Target, setup: Setup, z: Vector, dz: Vector, slope: float, cross: float, at_d: float) -> float:
    """Exact line search on phi(t) = mean loss(z + t dz) + penalty; residuals stay within their bound."""
    limit = 2.0**setup.bound_bits

    def slope_at(t: float) -> float:
        product = target.residual(z + t * dz) * dz
        return math.fsum(product.ravel().tolist()) / len(z) + cross + t * at_d

    def allowed(t: float) -> bool:
        return bool(np.abs(target.residual(z + t * dz)).max() <= limit)

    return line_search(slope_at, slope, allowed)


def finish(w: Vector, target: Target, losses: Sequence[float], stop: str) -> Fit:
    """The active party's result: why it ended there, and losses in the label's unit."""
    converged = stop == "converged"
    stopped = () if converged else (f"training stopped: {stop}",)
    warnings = (*stopped, *glm.noise_warnings(target, losses))
    in_units = tuple(in_label_units(loss, target) for loss in losses)
    return Fit(w, target.label_bits, in_units, len(losses) - 1, converged, warnings)


def in_label_units(loss: float, target: Target) -> float:
    """A loss of scaled labels in the unit of the label, squared."""
    return math.ldexp(loss, 2 * target.label_bits)


def curvature(terms: Terms) -> float:
    """Curvature of the preconditioner that needs no data; the recursion's own scaling does the rest."""
    return {"logistic": 0.25, "softmax": 0.5}.get(terms.job.model, 1.0)


def penalties(block: Block, w: Vector, d: Vector) -> list[float]:
    """l2 w'w, l2 w'd and l2 d'd of a party's block."""
    return [glm.penalty_value(block, *pair) for pair in ((w, w), (w, d), (d, d))]


def quantised(residual: Vector, setup: Setup) -> Integers:
    """Residuals as integers, in the scale that was agreed on."""
    return np.rint(np.ldexp(residual, setup.residual_scale)).astype(np.int64)


def product_bound(terms: Terms) -> int:
    """Largest |X'r| of any party's column, as integers."""
    return (1 << RESIDUAL_BITS) * glm.column_bound(terms.rows)


def make_plan(key: PublicKey, terms: Terms, rows_per_ciphertext: int) -> InnerProductPlan:
    """How a round's residuals are packed and its products opened; the same at all roles."""
    return plan_inner_product(key.bits, terms.rows, product_bound(terms), rows_per_ciphertext)


def read_setup(facts: Mapping[str, bool | int | float | str | None], sender: str) -> Setup:
    """The active party's set-up as it travels, checked, or ``RemoteProtocolError``."""
    names = ("bound_bits", "label_bits", "rows_per_ciphertext")
    values = [facts.get(name) for name in names]
    limits = ((-_MAX_BOUND_BITS, _MAX_BOUND_BITS), (-1100, 1100), (1, _MAX_PACKING))
    for value, (low, high) in zip(values, limits, strict=True):
        if type(value) is not int or not low <= value <= high:
            raise RemoteProtocolError(f"{sender} sent a set-up out of range")
    return Setup(*[value for value in values if type(value) is int])
