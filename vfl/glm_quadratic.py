"""Train a logistic or linear model by a quadratic model of its loss: the coordinator holds the key, nobody sees scores.

Source: preconditioned conjugate gradients (J. Nocedal, S. Wright, *Numerical Optimization*, algorithm 5.3) on the
second-order expansion of the loss, as S. Hardy et al. 2017 section 3 do around zero; here around the active party's
own optimum eta, which is nearer by far. For the linear model the expansion is the loss itself.

One round (A active, P every passive party, D all of them, C coordinator; [[v]] Paillier under C's key, {v} under
zero-sum masks; everything between A and P is sealed, so that C, which has the key, never reads it)::

    C --> D   key                        once
    A --> P   setup, A --> C setup_copy  per expansion: mean curvature, scale of label and residuals, packing
    A --> P   deviation                  per expansion: [[d0]], d0 = mu(eta) - y: all that depends on the labels
    C --> D   steer                      p = a P g + b p, or stop
    P --> A   step_scores                [[X_P p]], packed
    A --> P   direction_scores           [[dz]], dz = sum X p, A's part added as a fresh encryption
    D --> C   products                   [[X'd0 + M]] or [[X'dz + M]]
    C --> D   opened                     the agreed slot; each takes its mask off
    D --> C   scalars                    {loss, g'Pg} or {g'p, p'h}, opened by C as sums over all parties
    C --> D   steer                      step length -g'p / p'h

With ``newton_steps`` the expansion moves to the scores reached, that often::

    P --> C --> A   training_scores      {X_P w}, added up by C, opened by A

Every role keeps its state once its g'Pg is said, C once it has them all; a run that goes on from there begins with a
new key and the setup of the expansion that it was in.

Leakage
-------
active : its own columns' products with the scores of directions, hence X_A'(sum X_P p); loss of each round;
    step lengths and conjugacy factors; summed passive training scores, once per Newton step
passive : its own columns' products: with the labels' deviation once per expansion, then with the scores of directions;
    mean curvature of the expansion; powers of two that bound the residuals and scale the label, and the packing;
    step lengths and conjugacy factors
coordinator : sums over all parties of loss, g'Pg, g'p, p'h; mean curvature of the expansion;
    powers of two that bound the residuals and scale the label, and the packing; sizes and timing
With a label-only active party the mean curvature is p(1 - p) of the label rate p.

One-sided (``alignment.one_sided``, one passive party): "rows" are all rows of P. A's columns, d0 and the curvatures by
which it multiplies [[dz]] are zero but at the members that it trains on (`vfl.members`), and means are over all rows,
with d0 and curvatures the larger for it: P's products are those over the members alone, and P is told neither which
rows they are nor how many. Step scores travel one to a ciphertext, so that A can take the others out. A multiplies no
two members by the same number, which would be a common factor of P's products and N / n in them; for the same reason
the mean curvature, of a label-only active party p(1 - p) with p n an integer, is told with 6 bits.
What P's products are remains to be read from them: means over members. Where P has few kinds of rows they give the
members' share of each kind, nearly, and where members are few that may give their number; a kind without members
shows as such. So does a column that few rows fill.

C colluding with any party breaks it: C's key opens what the parties exchange.

Threat model
------------
All follow the protocol and are curious; C colludes with nobody.

>>> Wire.deviation
<glm_quadratic.deviation: Active -> Passive, Encrypted>
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial, reduce

import numpy as np

from parties.checkpoint import Keeper
from parties.errors import DataError, LocalProtocolError, RemoteProtocolError
from parties.link import COORDINATOR, Endpoint, Link
from parties.policy import Guards
from parties.wire import (
    Active,
    Coordinator,
    DataParty,
    Encrypted,
    Masked,
    Message,
    Opened,
    PaillierKey,
    Passive,
    Revealed,
)
from vfl import glm
from vfl.exchange import receive_ciphers, receive_key, receive_opened, receive_values, send_ciphers, send_key
from vfl.expansion import (
    Expansion,
    Scalars,
    begin_expansion,
    expansions_before,
    restore_expansion,
    restore_scalars,
    save_expansion,
)
from vfl.glm import Block, Fit, Integers, Progress, Target
from vfl.masking import Masks, add_masked, open_sum, pairwise_masks
from vfl.members import Members
from vfl.optim import Vector, dot
from vfl.paillier import (
    CipherVector,
    InnerProductPlan,
    ObfuscatorPool,
    PrivateKey,
    PublicKey,
    add,
    choose_rows_per_ciphertext,
    encrypt,
    gather,
    generate_keypair,
    mask_products,
    open_products,
    pack_rows,
    plan_inner_product,
    scale,
    transposed_product,
)
from vfl.terms import Terms

RESIDUAL_BITS = 26
STEP_SCORE_BITS = 20  # fraction bits of X p
STEP_SCORE_LIMIT = 10  # |X_k p| <= 2^10 for every party
CURVATURE_BITS = 16
MEMBER_CURVATURE_BITS = 40
MEMBER_NOISE_BITS = 27
_TOLD_CURVATURE_BITS = 6
_MAX_WEIGHT_BITS = 16  # sample weights have mean 1; curvatures per row stay below 2^16
_MAX_PACKING = 64
_MAX_POOL = 1 << 14  # obfuscators kept, about 1 kB each
_MAX_BOUND_BITS = 128


class Wire:
    """Every message of the protocol; nothing else can be sent."""

    key = Message(Coordinator, DataParty, PaillierKey)
    setup = Message(
        Active,
        Passive,
        Revealed,
        discloses="mean curvature of the expansion; "
        "powers of two that bound the residuals and scale the label, and the packing",
    )
    setup_copy = Message(
        Active,
        Coordinator,
        Revealed,
        discloses="mean curvature of the expansion; "
        "powers of two that bound the residuals and scale the label, and the packing",
    )
    deviation = Message(Active, Passive, Encrypted)
    products = Message(DataParty, Coordinator, Encrypted)
    opened = Message(
        Coordinator,
        DataParty,
        Opened,
        discloses="its own columns' products: with the labels' deviation once per expansion, "
        "then with the scores of directions",
    )
    scalars = Message(DataParty, Coordinator, Masked, discloses="sums over all parties of loss, g'Pg, g'p, p'h")
    steer = Message(Coordinator, DataParty, Revealed, discloses="step lengths and conjugacy factors")
    step_scores = Message(Passive, Active, Encrypted)
    direction_scores = Message(Active, Passive, Encrypted)
    training_scores = Message(Passive, Coordinator, Masked)
    training_sums = Message(
        Coordinator, Active, Masked, discloses="summed passive training scores, once per Newton step"
    )
    outcome = Message(Coordinator, Active, Revealed, discloses="loss of each round")


@dataclass(frozen=True, slots=True)
class Setup:
    """One expansion, as the active party settles it."""

    curvature: float  # mean of mu(1 - mu)
    by_row: bool  # [[dz]] carries one curvature per row
    bound_bits: int
    label_bits: int
    packed_deviation: int  # rows per ciphertext of [[d0]]
    packed_scores: int  # of [[X p]] and [[dz]]

    def facts(self) -> dict[str, bool | int | float | str | None]:
        """As it travels."""
        return asdict(self)

    @property
    def deviation_scale(self) -> int:
        """Fraction bits of the integer deviation, which stays below 2^RESIDUAL_BITS."""
        return RESIDUAL_BITS - self.bound_bits


def active(
    endpoint: Endpoint,
    terms: Terms,
    block: Block,
    target: Target,
    guards: Guards,
    progress: Progress,
    members: Members | None = None,
) -> Fit:
    """Play the active party: expand the loss, add up scores under encryption, walk with the others.

    Parameters
    ----------
    progress : callable
        Called with (round, None): the loss reaches the active party at the end only.
    members : Members, optional
        One-sided: where the rows of ``block`` stand among the passive party's.
    """
    whole, share = (block, 1.0) if members is None else (members.block(block), members.share)
    training = terms.job.training
    hub = endpoint.link(Active, Coordinator, COORDINATOR)
    passives = [endpoint.link(Active, Passive, name) for name in terms.job.passive]
    key = receive_key(hub.recv(Wire.key), hub.peer, terms.job.privacy.key_bits)
    masks = pairwise_masks(endpoint, "glm")
    kept, rounds = endpoint.keeper.trained(), endpoint.keeper.rounds
    if kept is None:
        w = glm.local_optimum(block, target, training.l2, ones=training.fit_intercept)
        z = glm.to_scores(glm.forward(block, w))
    else:
        setup, z = kept.fact("setup", Setup), kept.floats("z")
        state = restore_expansion(kept, whole, setup.curvature * share)
        _tell_setup(hub, passives, setup)
    first = expansions_before(kept)
    for newton in range(first, training.newton_steps + 1):
        if kept is None or newton > first:
            setup, deviation = expand_around(key, terms, target, z, share)
            deviation = deviation if members is None else members.spread(deviation)
            _tell_setup(hub, passives, setup)
            _send_deviation(passives, key, terms, setup, deviation)
            g = glm.mean_gradient(whole, glm.own_products(whole, deviation[:, None]), setup.deviation_scale)
            state = begin_expansion(whole, setup.curvature * share, w, g)
            loss = target.loss(z) + glm.penalty_value(block, w, w) / 2
            hub.send(Wire.scalars, masks.scalars(f"start|{newton}", [loss, dot(state.g, state.Pg)]))
        curvatures = _row_curvatures(terms, target, z, share) if setup.by_row else None
        curvatures = curvatures if curvatures is None or members is None else members.spread(curvatures)
        keep = partial(save_expansion, endpoint.keeper, state, newton, {"setup": asdict(setup)}, {"z": z})
        with _pool(key, terms, setup) as pool:
            multiply = partial(_active_product, hub, passives, pool, terms, setup, whole, curvatures)
            rounds = _walk(hub, masks, whole, state, multiply, newton, rounds, keep, progress)
        w = state.w
        if newton < training.newton_steps:
            z = _open_scores(hub, masks, terms, guards, block, w, newton)
    outcome = hub.recv(Wire.outcome)
    stop = str(outcome.facts.get("stop"))
    losses = tuple(float(value) for value in outcome.values)
    stopped = () if stop == "converged" else (f"training stopped: {stop}",)
    warnings = (*stopped, *glm.noise_warnings(target, losses))
    return Fit(w, target.label_bits, losses, rounds, stop == "converged", warnings)


def passive(endpoint: Endpoint, terms: Terms, block: Block, guards: Guards) -> Fit:
    """Play a passive party: its own products, and its scores under encryption."""
    newton_steps = terms.job.training.newton_steps
    lead, hub = endpoint.link(Passive, Active, terms.job.active), endpoint.link(Passive, Coordinator, COORDINATOR)
    key = receive_key(hub.recv(Wire.key), hub.peer, terms.job.privacy.key_bits)
    masks = pairwise_masks(endpoint, "glm")
    w = np.zeros((block.width, 1))
    label_bits = 0
    kept, rounds = endpoint.keeper.trained(), endpoint.keeper.rounds
    first = expansions_before(kept)
    for newton in range(first, newton_steps + 1):
        setup = _read_setup(lead.recv(Wire.setup), lead.peer)
        label_bits = setup.label_bits
        if kept is None or newton > first:
            plan = deviation_plan(key, terms, setup)
            deviation = receive_ciphers(key, lead.recv(Wire.deviation), plan.ciphertexts, lead.peer)
            g = glm.mean_gradient(block, [_open_own(hub, plan, deviation, block)], setup.deviation_scale)
            state = begin_expansion(block, setup.curvature, w, g)
            penalty = glm.penalty_value(block, w, w) / 2
            hub.send(Wire.scalars, masks.scalars(f"start|{newton}", [penalty, dot(state.g, state.Pg)]))
        else:
            state = restore_expansion(kept, block, setup.curvature)
        keep = partial(save_expansion, endpoint.keeper, state, newton, {}, {})
        with _pool(key, terms, setup) as pool:
            multiply = partial(_passive_product, hub, lead, pool, terms, setup, block)
            rounds = _walk(hub, masks, block, state, multiply, newton, rounds, keep, _silent)
        w = state.w
        if newton < newton_steps:
            scores = glm.disclosed_scores(terms, guards, block, w, newton + 1)
            hub.send(Wire.training_scores, masks.scores(f"scores|{newton}", scores))
    return Fit(w, label_bits, (), rounds, converged=True)


def coordinator(endpoint: Endpoint, terms: Terms, progress: Progress) -> Fit:
    """Play the coordinator: key, agreed slots, and the scalars of conjugate gradients."""
    privacy, newton_steps = terms.job.privacy, terms.job.training.newton_steps
    lead = endpoint.link(Coordinator, Active, terms.job.active)
    passives = [endpoint.link(Coordinator, Passive, name) for name in terms.job.passive]
    everyone = [endpoint.link(Coordinator, DataParty, name) for name in terms.columns]
    key = generate_keypair(
        privacy.key_bits, exponent_bits=privacy.exponent_bits, insecure_test_mode=privacy.insecure_test_mode
    )
    for link in everyone:
        link.send(Wire.key, send_key(key.public))
    label_bits = 0
    stop = ""
    kept = endpoint.keeper.trained()
    at = Scalars([]) if kept is None else restore_scalars(kept)
    first = expansions_before(kept)
    for newton in range(first, newton_steps + 1):
        setup = _read_setup(lead.recv(Wire.setup_copy), lead.peer)
        label_bits = setup.label_bits
        if kept is None or newton > first:
            plan = deviation_plan(key.public, terms, setup)
            for link in passives:
                _open_for(link, key, plan, terms.columns[link.peer])
            loss, decrement = _sums(everyone, 2)
            at = Scalars([*at.losses[:-1], loss], at.rounds, decrement)
        stop = _steer(everyone, key, terms, setup, at, newton, endpoint.keeper, progress)
        if newton < newton_steps:
            scores = {link.peer: link.recv(Wire.training_scores) for link in passives}
            lead.send(Wire.training_sums, add_masked(scores, terms.rows))
    in_units = [math.ldexp(value, 2 * label_bits) for value in at.losses]
    lead.send(Wire.outcome, Revealed({"stop": stop}, np.array(in_units)))
    return Fit(np.zeros((0, 1)), label_bits, tuple(in_units), at.rounds, stop == "converged")


def _steer(
    everyone: Sequence[Link[Coordinator, DataParty]],
    key: PrivateKey,
    terms: Terms,
    setup: Setup,
    at: Scalars,
    newton: int,
    keeper: Keeper,
    progress: Progress,
) -> str:
    """Conjugate gradients from the sums alone; returns why they stopped."""
    plan = score_plan(key.public, terms, setup)
    while True:
        stop = verdict(terms, at.decrement, at.losses[-1], at.rounds)
        conjugacy = at.decrement / at.previous if at.previous > 0 else 0.0
        at.size = at.decrement + conjugacy**2 * at.size
        scaling = 0.0 if stop else _scaling(at.size, setup.curvature, terms.rows)
        _tell(everyone, stop, [-scaling, scaling * conjugacy / at.factor])
        if stop:
            return stop
        for link in everyone:
            if terms.columns[link.peer]:
                _open_for(link, key, plan, terms.columns[link.peer])
        slope, bend = _sums(everyone, 2)
        step = -slope / bend if bend > 0 else 0.0
        _tell(everyone, "", [step])
        at.losses.append(at.losses[-1] + step * slope + step * step * bend / 2)
        at.previous, at.factor = at.decrement, scaling
        (at.decrement,) = _sums(everyone, 1)
        at.rounds += 1
        at.save(keeper, newton)
        progress(at.rounds, math.ldexp(at.losses[-1], 2 * setup.label_bits))


def _walk(
    hub: Link[DataParty, Coordinator],
    masks: Masks,
    block: Block,
    state: Expansion,
    multiply: Callable[[Vector], Vector],
    newton: int,
    rounds: int,
    keep: Callable[[int], None],
    progress: Progress,
) -> int:
    """A party's walk down the quadratic model until the coordinator stops it; returns the rounds so far."""
    while True:
        told = hub.recv(Wire.steer)
        if told.facts.get("stop"):
            return rounds
        along_gradient, along_last = receive_values(told, 2, hub.peer)
        state.p = glm.to_grid(block, along_gradient * state.Pg + along_last * state.p)
        h = multiply(state.p)
        label = f"{newton}|{rounds}"
        hub.send(Wire.scalars, masks.scalars(f"bend|{label}", [dot(state.g, state.p), dot(state.p, h)]))
        (step,) = receive_values(hub.recv(Wire.steer), 1, hub.peer)
        state.w = state.w + step * state.p
        state.g = state.g + step * h
        state.Pg = glm.precondition(state.matrix, state.g)
        hub.send(Wire.scalars, masks.scalars(f"gradient|{label}", [dot(state.g, state.Pg)]))
        rounds += 1
        keep(rounds)
        progress(rounds, None)


def _active_product(
    hub: Link[Active, Coordinator],
    passives: Sequence[Link[Active, Passive]],
    pool: ObfuscatorPool,
    terms: Terms,
    setup: Setup,
    block: Block,
    curvatures: Integers | None,
    p: Vector,
) -> Vector:
    """H p of the active party's block; on the way it adds up the encrypted scores for everybody."""
    key, plan = pool.key, score_plan(pool.key, terms, setup)
    others = [receive_ciphers(key, link.recv(Wire.step_scores), plan.ciphertexts, link.peer) for link in passives]
    total = reduce(add, others)
    own = pack_rows(plan, _step_scores(block, p))
    if curvatures is not None:
        factors = curvatures.tolist()
        total, own = _scaled(total, factors), [score * factor for score, factor in zip(own, factors, strict=True)]
    # Adding a fresh encryption re-randomises the sum: no passive party can recognise its own part in it.
    dz = add(encrypt(key, own, pool=pool), total)
    for link in passives:
        link.send(Wire.direction_scores, send_ciphers(dz))
    return _apply_hessian(terms, setup, block, p, _open_own(hub, plan, dz, block) if block.width else [])


def _scaled(total: CipherVector, factors: Sequence[int]) -> CipherVector:
    """Every row times its factor, rows of factor 0 too: without C, time would tell how many those are."""
    where = np.arange(len(factors))
    where[np.array(factors) == 0] = len(factors)
    largest = max(factors)
    scaled = scale(total, [factor or largest for factor in factors])
    return gather(CipherVector.concat([scaled, scale(gather(total, np.zeros(1, np.int64)), [0])]), where)


def _passive_product(
    hub: Link[Passive, Coordinator],
    lead: Link[Passive, Active],
    pool: ObfuscatorPool,
    terms: Terms,
    setup: Setup,
    block: Block,
    p: Vector,
) -> Vector:
    """H p of a passive party's block: its scores go out encrypted, everybody's sum comes back encrypted."""
    key, plan = pool.key, score_plan(pool.key, terms, setup)
    own = encrypt(key, pack_rows(plan, _step_scores(block, p)), pool=pool)
    lead.send(Wire.step_scores, send_ciphers(own))
    dz = receive_ciphers(key, lead.recv(Wire.direction_scores), plan.ciphertexts, lead.peer)
    return _apply_hessian(terms, setup, block, p, _open_own(hub, plan, dz, block))


def _apply_hessian(terms: Terms, setup: Setup, block: Block, p: Vector, products: Sequence[int]) -> Vector:
    """C X'dz / n + l2 p; per-row curvatures are in the products already."""
    bits = STEP_SCORE_BITS + (curvature_bits(terms) if setup.by_row else 0)
    mean = glm.mean_gradient(block, [products], bits)
    return (mean if setup.by_row else setup.curvature * mean) + block.penalty[:, None] * p


def _open_own(
    hub: Link[DataParty, Coordinator], plan: InnerProductPlan, vector: CipherVector, block: Block
) -> list[int]:
    """X'v of a party's own block, exact: multiply, mask, have the agreed slot opened, take the mask off."""
    masked, masks = mask_products(plan, transposed_product(plan, vector, block.training))
    hub.send(Wire.products, send_ciphers(masked))
    return receive_opened(plan, vector.key, hub.recv(Wire.opened), masks, hub.peer)


def _open_for(link: Link[Coordinator, DataParty], key: PrivateKey, plan: InnerProductPlan, count: int) -> None:
    """Decrypt a party's masked products and return the agreed slots, no more than agreed."""
    masked = receive_ciphers(key.public, link.recv(Wire.products), count, link.peer)
    link.send(Wire.opened, Opened(open_products(plan, key, masked, count=count)))


def _tell_setup(hub: Link[Active, Coordinator], passives: Sequence[Link[Active, Passive]], setup: Setup) -> None:
    """Tell everyone the expansion's constants."""
    told = Revealed(setup.facts(), np.zeros(0))
    hub.send(Wire.setup_copy, told)
    for link in passives:
        link.send(Wire.setup, told)


def _send_deviation(
    passives: Sequence[Link[Active, Passive]], key: PublicKey, terms: Terms, setup: Setup, deviation: Integers
) -> None:
    """Send the passive parties the encrypted deviation."""
    payload = send_ciphers(encrypt(key, pack_rows(deviation_plan(key, terms, setup), deviation)))
    for link in passives:
        link.send(Wire.deviation, payload)


def expand_around(
    key: PublicKey, terms: Terms, target: Target, z: Vector, share: float = 1.0
) -> tuple[Setup, Integers]:
    """Constants of the expansion at scores z, and the deviation mu(z) - y times ``share`` as integers, shape (n,).

    Raises
    ------
    DataError
        So few members, or weights so uneven, that bounds on products would not hold; nothing has been sent.
    """
    curvatures = target.curvature(z).ravel()
    if share * max(1.0, float(curvatures.max())) >= 1 << _MAX_WEIGHT_BITS:
        raise DataError(
            f"training: got one training row in {share:,.0f} rows of the passive party, or a sample weight far above "
            f"the others, expected one in {1 << _MAX_WEIGHT_BITS:,} at least, weights counted; bring more rows, or "
            "smaller weights"
        )
    residual = target.residual(z)[:, 0]
    curvature = math.fsum(curvatures.tolist()) / len(z)
    bound_bits = math.ceil(math.log2(max(float(np.abs(residual).max()), 2.0**-20)))
    if target.family.name == "logistic":  # bounded for all scores: the bound then tells nothing of the labels
        bound_bits = target.bound_bits
    one_sided = terms.job.alignment.one_sided  # the curvature of a row that is no member is 0
    by_row = one_sided or terms.job.training.curvature == "row" or target.weights is not None  # curvatures, too
    setup = Setup(
        curvature=_few_bits(max(curvature, 2.0**-40)) if one_sided else max(curvature, 2.0**-40),
        by_row=by_row,
        bound_bits=bound_bits,
        label_bits=target.label_bits,
        packed_deviation=_rows_per_ciphertext(key, terms, _deviation_bound(terms)),
        packed_scores=1 if by_row else _rows_per_ciphertext(key, terms, _score_bound(terms, by_row=False)),
    )
    return setup, np.rint(np.ldexp(residual * share, setup.deviation_scale)).astype(np.int64)


def _rows_per_ciphertext(key: PublicKey, terms: Terms, bound: int) -> int:
    """Return the cheapest packing for the party with the most columns."""
    return choose_rows_per_ciphertext(key.bits, terms.rows, bound, max(terms.columns.values()), key.kernel.costs)


def curvature_bits(terms: Terms) -> int:
    """Fraction bits of curvatures per row; more where the number of members is in them, which has to be exact."""
    return MEMBER_CURVATURE_BITS if terms.job.alignment.one_sided else CURVATURE_BITS


def _row_curvatures(terms: Terms, target: Target, z: Vector, share: float) -> Integers:
    """Each row's curvature times ``share`` in fixed point, shape (n,); the mean one where the job asks for that."""
    curvature = target.curvature(z)[:, 0]
    if terms.job.training.curvature == "mean" and target.weights is None:
        curvature = np.full(len(curvature), math.fsum(curvature.tolist()) / len(curvature))
    fixed = np.rint(np.ldexp(curvature * share, curvature_bits(terms))).astype(np.int64)
    return _uneven(fixed, target, z, terms.job.seed) if terms.job.alignment.one_sided else fixed


def _uneven(fixed: Integers, target: Target, z: Vector, seed: int) -> Integers:
    """Numbers changed by up to 2^-27 of themselves, by a key that only labels and scores give: no common factor.

    The same in every run on the same data. Products then miss a multiple of any of them by far more than that.
    """
    key = hashlib.sha256(b"vfl members v1|%d|" % seed + target.y.tobytes() + z.tobytes()).digest()
    noise = np.frombuffer(hashlib.shake_256(key).digest(4 * len(fixed)), "<i4").astype(np.int64)
    return fixed + ((fixed >> MEMBER_NOISE_BITS) * noise >> 31)


def _few_bits(value: float) -> float:
    """A positive number rounded to 6 significant bits."""
    fraction, exponent = math.frexp(value)
    return math.ldexp(round(math.ldexp(fraction, _TOLD_CURVATURE_BITS)), exponent - _TOLD_CURVATURE_BITS)


def _step_scores(block: Block, p: Vector) -> Integers:
    """X p times 2^20, within the agreed bound."""
    drop = glm.SCORE_BITS - STEP_SCORE_BITS
    fixed = (glm.forward(block, p)[:, 0] + (1 << (drop - 1))) >> drop
    if len(fixed) and int(np.abs(fixed).max()) > 1 << (STEP_SCORE_BITS + STEP_SCORE_LIMIT):
        raise LocalProtocolError("the scores of a direction exceed their agreed bound; nothing was sent")
    return np.asarray(fixed)


def _scaling(size: float, curvature: float, rows: int) -> float:
    """Power of two that keeps |X_k p| below 2^10: (c / n) |X_k p|^2 <= p'P^-1 p = size."""
    return 2.0 ** math.floor(STEP_SCORE_LIMIT - 1 - math.log2(max(math.sqrt(rows * size / curvature), 2.0**-400)))


def _open_scores(
    hub: Link[Active, Coordinator],
    masks: Masks,
    terms: Terms,
    guards: Guards,
    block: Block,
    w: Vector,
    newton: int,
) -> Vector:
    """Scores reached, own and summed passive ones: a disclosure, counted in the score budget."""
    guards.heed(glm.budget(terms, guards, newton + 1))
    glm.spend(terms, guards, newton + 1)
    total = masks.open_scores(f"scores|{newton}", hub.recv(Wire.training_sums), terms.rows)
    return glm.to_scores(glm.forward(block, w) + total[:, None])


def verdict(terms: Terms, decrement: float, loss: float, rounds: int) -> str:
    """Why to stop here, or an empty text."""
    training = terms.job.training
    if decrement / 2 <= training.tol * max(1.0, loss):
        return "converged"
    if rounds >= training.max_iter:
        return f"not converged within training.max_iter = {training.max_iter} rounds"
    return ""


def _tell(everyone: Sequence[Link[Coordinator, DataParty]], stop: str, values: Sequence[float]) -> None:
    for link in everyone:
        link.send(Wire.steer, Revealed({"stop": bool(stop)}, np.array(values)))


def _sums(everyone: Sequence[Link[Coordinator, DataParty]], count: int) -> list[float]:
    """Sums over all parties, in which the masks cancel."""
    return open_sum(add_masked({link.peer: link.recv(Wire.scalars) for link in everyone}, count))


def _deviation_bound(terms: Terms) -> int:
    bits = RESIDUAL_BITS + (_MAX_WEIGHT_BITS if terms.job.alignment.one_sided else 0)
    return (1 << bits) * glm.column_bound(terms.rows)


def _score_bound(terms: Terms, *, by_row: bool) -> int:
    """Largest |X'dz| as integers, every party contributing its share of dz."""
    bits = STEP_SCORE_BITS + STEP_SCORE_LIMIT
    if by_row:
        bits += curvature_bits(terms) + _MAX_WEIGHT_BITS
    return len(terms.columns) * (1 << bits) * glm.column_bound(terms.rows)


def _pool(key: PublicKey, terms: Terms, setup: Setup) -> ObfuscatorPool:
    """Obfuscators for the next direction's scores, made while this party waits for the others."""
    return ObfuscatorPool(key, capacity=min(score_plan(key, terms, setup).ciphertexts, _MAX_POOL))


def deviation_plan(key: PublicKey, terms: Terms, setup: Setup) -> InnerProductPlan:
    """How rows of the deviation are packed."""
    return plan_inner_product(key.bits, terms.rows, _deviation_bound(terms), setup.packed_deviation)


def score_plan(key: PublicKey, terms: Terms, setup: Setup) -> InnerProductPlan:
    """How rows of scores are packed."""
    return plan_inner_product(key.bits, terms.rows, _score_bound(terms, by_row=setup.by_row), setup.packed_scores)


def _read_setup(told: Revealed, sender: str) -> Setup:
    """Constants of an expansion, checked."""
    facts = told.facts
    whole = [facts.get(name) for name in ("bound_bits", "label_bits", "packed_deviation", "packed_scores")]
    bounds = (-_MAX_BOUND_BITS, _MAX_BOUND_BITS)
    limits = (bounds, (-1100, 1100), (1, _MAX_PACKING), (1, _MAX_PACKING))
    fitting = all(type(value) is int and low <= value <= high for value, (low, high) in zip(whole, limits, strict=True))
    curvature, by_row = facts.get("curvature"), facts.get("by_row")
    fitting = fitting and isinstance(by_row, bool) and (not by_row or facts["packed_scores"] == 1)
    if not fitting or type(curvature) is not float or not 0 < curvature <= 2.0**_MAX_WEIGHT_BITS:
        raise RemoteProtocolError(f"{sender} sent an expansion out of range")
    return Setup(curvature, by_row is True, *[value for value in whole if type(value) is int])


def _silent(rounds: int, loss: float | None) -> None:
    """A passive party has nothing to show."""
