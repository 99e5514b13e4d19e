"""Train a GLM whose parties are made of silos, exactly: the model is that of the silos' rows in one place.

Source: `vfl.glm_exact`, whose L-BFGS, packing and line search this is; the silos' parts are added up under zero-sum
masks (K. Bonawitz et al., CCS 2017, section 4) and as ciphertexts.

A party's silos hold the same columns of different rows; each has the party's weights. All vectors over rows have one
place per common row, and zeros where a silo does not have the row: nobody learns whose a row is. A is the active party,
the first silo of the label holder, L its other silos; H every silo of the label holder (A and L); P every silo of a
passive holder, P1 the first of each; C the coordinator; [[v]] Paillier under A's key, {v} under zero-sum masks::

    A --> C, L, P   key                  once
    A --> L, P      setup                once
    H --> C         residual             [[r]] of its own rows, zeros elsewhere; C multiplies
    C --> P         residual_copy        [[r]]
    P --> C --> A   products             [[X_P'r + zero_P]], the first silo's + M; C multiplies each holder's
    A --> P         opened               the agreed slot of X'r + M, to all silos of the holder, which take M off
    P1 --> C --> A  gradient_scalars     {s'y, y'Py, s'g, y'Pg, g'Pg}, added up by C, opened by A
    A --> L, P      direction            coefficients of d in the basis s, Py, Pg; or stop
    P --> C --> H   scores               {X_P (w + d)}, added up by C
    H --> H         lifted               each silo opens its own rows' scores (`vfl.row_masks`)
    A --> L         probe                a step length t; the slopes there come from sums over H (`vfl.siblings`)
    P1 --> C --> A  step_scalars         {l2 w'w, l2 w'd, l2 d'd}
    A --> L, P      step                 length t of the exact line search; w += t d

Start, own gradients and losses of the label holder are sums over H, too. All weights start at zero, and the intercept
where it fits best alone. Where a party has one silo its sums are sent to nobody.

Leakage
-------
label holder's silos : the summed passive scores of its own rows, once per evaluation (with one passive holder: its
    very scores)
active : sums over the passive holders of s'y, y'Py, s'g, y'Pg, g'Pg; sums over the passive holders of l2 w'w, l2 w'd,
    l2 d'd
silos : the exact gradient of its columns over all silos of its party; the direction's coefficients; the step length;
    step lengths tried; powers of two that bound the residuals and scale the label, and the packing; sums over all
    silos of its party
coordinator : sizes and timing; it holds no key, and adds up what it cannot read
With two silos the sums show each the other's part. C with A: residuals of L's rows, and products of single silos
under masks. C with A and all other passive silos: the scores of one.

Threat model
------------
All follow the protocol and are curious; as in `vfl.glm_exact`, whose score budget holds for every silo.

>>> [name for name in vars(Wire) if not name.startswith("_")][:3]
['key', 'key_copy', 'setup']
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import reduce

import numpy as np

from parties.checkpoint import Keeper
from parties.errors import RemoteProtocolError
from parties.link import COORDINATOR, Endpoint, Link
from parties.policy import Guards
from parties.wire import (
    Active,
    Control,
    Coordinator,
    DataParty,
    Encrypted,
    LabelSilo,
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
from vfl.glm import Fit, Integers, Progress, Target
from vfl.glm_exact import (
    Setup,
    bound_bits_of,
    finish,
    in_label_units,
    make_plan,
    memory,
    penalties,
    product_bound,
    quantised,
    read_setup,
    verdict,
)
from vfl.masking import Masks, add_masked, pairwise_masks
from vfl.optim import Vector, basis_products, combine, lbfgs_direction, line_search
from vfl.paillier import (
    CipherVector,
    InnerProductPlan,
    ObfuscatorPool,
    PrivateKey,
    PublicKey,
    add,
    choose_rows_per_ciphertext,
    encrypt,
    generate_keypair,
    hand_on,
    open_products,
    pack_rows,
    transposed_product,
)
from vfl.row_masks import RowMasks, row_masks
from vfl.siblings import Siblings
from vfl.silo_masks import ProductMasks
from vfl.silo_sums import Placed, first_weights, is_steep, largest_bound, mean_loss, slope_at
from vfl.terms import Terms

_MAX_POOL = 1 << 14


class Wire:
    """Every message of the protocol beside those of `vfl.siblings`; nothing else can be sent."""

    key = Message(Active, DataParty, PaillierKey)
    key_copy = Message(Active, Coordinator, PaillierKey)
    setup = Message(
        Active,
        DataParty,
        Revealed,
        discloses="powers of two that bound the residuals and scale the label, and the packing",
    )
    residual = Message(DataParty, Coordinator, Encrypted)
    residual_copy = Message(Coordinator, Passive, Encrypted)
    products = Message(Passive, Coordinator, Encrypted)
    all_products = Message(Coordinator, Active, Encrypted)
    opened = Message(Active, Passive, Opened, discloses="the exact gradient of its columns over all silos of its party")
    gradient_scalars = Message(Passive, Coordinator, Masked)
    gradient_sums = Message(
        Coordinator, Active, Masked, discloses="sums over the passive holders of s'y, y'Py, s'g, y'Pg, g'Pg"
    )
    proceed = Message(Active, Coordinator, Control)
    direction = Message(Active, DataParty, Revealed, discloses="the direction's coefficients")
    scores = Message(Passive, Coordinator, Masked)
    score_sums = Message(
        Coordinator, DataParty, Masked, discloses="the summed passive scores of its own rows, once per evaluation"
    )
    probe = Message(Active, LabelSilo, Revealed, discloses="step lengths tried")
    step_scalars = Message(Passive, Coordinator, Masked)
    step_sums = Message(
        Coordinator, Active, Masked, discloses="sums over the passive holders of l2 w'w, l2 w'd, l2 d'd"
    )
    step = Message(Active, DataParty, Revealed, discloses="the step length")


def active(
    endpoint: Endpoint,
    terms: Terms,
    own: Placed,
    target: Target,
    siblings: Siblings,
    guards: Guards,
    progress: Progress,
) -> Fit:
    """Play the active party, the first silo of the label holder: key, direction and line search.

    Parameters
    ----------
    own : Placed
        Own columns and, if there is an intercept, a last column of ones.
    target : Target
        Labels and weights of the own training rows, as all silos of the label holder scale them.

    Returns
    -------
    Fit
        The weights are the label holder's: all its silos have them.
    """
    run = _start_active(endpoint, terms, own, target, siblings)
    with run.labels.pool:
        return _descend(run, terms, own, target, guards, progress)


def _descend(run: _ActiveRun, terms: Terms, own: Placed, target: Target, guards: Guards, progress: Progress) -> Fit:
    """The active party's rounds."""
    training, labels = terms.job.training, run.labels
    at, z, losses = labels.start
    matrix = own.preconditioner(terms)
    for number in range(labels.keeper.rounds, training.max_iter + 1):
        g = labels.gradient(own, terms, target, z, number, at.w, lambda: _open_gradients(run, terms))
        at.arrive(g, matrix, memory(terms))
        Pg = glm.precondition(matrix, g)
        products = _opened(run, "gradient", number, Wire.gradient_sums, basis_products(at.pairs, g, Pg))
        coefficients, slope = lbfgs_direction(products, len(at.pairs))
        steep = is_steep(labels.siblings, z, f"steep|{number}")
        stop = verdict(target, terms, guards, losses, slope, number, np.full((1, 1), math.inf if steep else 0.0))
        if not stop:
            glm.spend(terms, guards, number + 1)
        _tell(run, Wire.direction, coefficients, stop)
        if stop:
            break
        d = combine(coefficients, at.pairs, Pg)
        z_next = labels.evaluate(own, terms, at.w + d, number)
        at_w, cross, at_d = _opened(run, "step", number, Wire.step_sums, penalties(own.block, at.w, d))
        dz = z_next - z
        t = _search(run, target, z, dz, slope, cross, at_d, number)
        stop = "" if t > 0 else "no step is left within the precision of fixed point"
        _tell(run, Wire.step, [t], stop)
        if stop:
            break
        at.move(t * d)
        z = z + t * dz
        losses.append(labels.loss(target, z, number) + (at_w + 2 * t * cross + t * t * at_d) / 2)
        labels.save(at, z, losses)
        progress(number + 1, in_label_units(losses[-1], target))
    return finish(at.w, target, losses, stop)


def labelled(
    endpoint: Endpoint, terms: Terms, own: Placed, target: Target, siblings: Siblings, progress: Progress
) -> Fit:
    """Play another silo of the label holder: labels of its own rows, and no key. Arguments as in `active`."""
    lead = endpoint.link(LabelSilo, Active, terms.job.active)
    key = receive_key(lead.recv(Wire.key), lead.peer, terms.job.privacy.key_bits)
    bits, start = _begin(endpoint, terms, own, target, siblings)
    setup = read_setup(lead.recv(Wire.setup).facts, lead.peer)
    if (setup.bound_bits, setup.label_bits) != (bits, target.label_bits):
        raise RemoteProtocolError(f"{lead.peer} sent another set-up than the silos' sums give")
    labels = _label_run(endpoint, terms, siblings, key, setup, start)
    with labels.pool:
        return _follow_labels(lead, labels, terms, own, target, progress)


def _follow_labels(
    lead: Link[LabelSilo, Active],
    labels: _LabelRun,
    terms: Terms,
    own: Placed,
    target: Target,
    progress: Progress,
) -> Fit:
    """Another label silo's rounds."""
    at, z, losses = labels.start
    matrix = own.preconditioner(terms)
    number, stopped = labels.keeper.rounds, False
    while not stopped:
        g = labels.gradient(own, terms, target, z, number, at.w)
        at.arrive(g, matrix, memory(terms))
        Pg = glm.precondition(matrix, g)
        is_steep(labels.siblings, z, f"steep|{number}")
        told = lead.recv(Wire.direction)
        if told.facts.get("stop"):
            break
        d = combine(receive_values(told, 2 * len(at.pairs) + 1, lead.peer), at.pairs, Pg)
        dz = labels.evaluate(own, terms, at.w + d, number) - z
        _answer_probes(lead, labels, target, z, dz, number)
        told = lead.recv(Wire.step)
        stopped = bool(told.facts.get("stop"))
        if not stopped:
            (t,) = receive_values(told, 1, lead.peer)
            at.move(t * d)
            z = z + t * dz
            losses.append(labels.loss(target, z, number))
            number += 1
            labels.save(at, z, losses)
            progress(number, None)
    return Fit(at.w, labels.setup.label_bits, (), number, converged=True)


def passive(endpoint: Endpoint, terms: Terms, own: Placed, siblings: Siblings, guards: Guards) -> Fit:
    """Play a silo of a passive holder: its part of the holder's gradient, and its rows' masked scores.

    Raises
    ------
    PolicyError
        The active party asks for more evaluations than its score budget, and guards are enforced.
    """
    run = _start_passive(endpoint, terms, own, siblings)
    with run.pool:
        return _follow(run, terms, own, guards)


def _follow(run: _PassiveRun, terms: Terms, own: Placed, guards: Guards) -> Fit:
    """A passive silo's rounds."""
    lead, hub = run.lead, run.hub
    matrix = own.preconditioner(terms)
    kept = run.keeper.trained()
    at = Descent(np.zeros((own.block.width, terms.outputs))) if kept is None else restore_descent(kept)
    number = run.keeper.rounds
    while True:
        g = _own_gradient(run, terms, own, number) + own.block.penalty[:, None] * at.w
        at.arrive(g, matrix, memory(terms))
        Pg = glm.precondition(matrix, g)
        if run.scalar_masks is not None:
            scalars = run.scalar_masks.scalars(f"gradient|{number}", basis_products(at.pairs, g, Pg))
            hub.send(Wire.gradient_scalars, scalars)
        told = lead.recv(Wire.direction)
        if told.facts.get("stop"):
            break
        d = combine(receive_values(told, 2 * len(at.pairs) + 1, lead.peer), at.pairs, Pg)
        scores = glm.disclosed_scores(terms, guards, own.block, at.w + d, number + 1)
        placed = own.spread(scores.reshape(-1, terms.outputs)).ravel()
        hub.send(Wire.scores, run.score_masks.scores(f"scores|{number}", placed))
        if run.scalar_masks is not None:
            hub.send(Wire.step_scalars, run.scalar_masks.scalars(f"step|{number}", penalties(own.block, at.w, d)))
        told = lead.recv(Wire.step)
        if told.facts.get("stop"):
            break
        (t,) = receive_values(told, 1, lead.peer)
        at.move(t * d)
        number += 1
        run.keeper.save_round(number, {}, at.arrays())
    return Fit(at.w, run.setup.label_bits, (), number, converged=True)


def coordinator(endpoint: Endpoint, terms: Terms) -> Fit:
    """Play the coordinator: multiply the silos' ciphertexts, add masked vectors. It holds no key."""
    job = terms.job
    lead = endpoint.link(Coordinator, Active, job.active)
    labelled = [endpoint.link(Coordinator, DataParty, name) for name in job.labelled]
    silos = {name: endpoint.link(Coordinator, Passive, name) for name in job.passive}
    firsts = [silos[members[0]] for members in job.passive_holders.values()]
    key = receive_key(lead.recv(Wire.key_copy), lead.peer, job.privacy.key_bits)
    rounds = endpoint.keeper.rounds
    while True:
        residual = _added(key, {link.peer: link.recv(Wire.residual) for link in labelled}, None)
        for link in silos.values():
            link.send(Wire.residual_copy, residual)
        lead.send(Wire.all_products, _gather(key, silos, terms))
        pairs = min(rounds, memory(terms))
        count = (2 * pairs + 1) * (pairs + 1)
        lead.send(Wire.gradient_sums, add_masked({p.peer: p.recv(Wire.gradient_scalars) for p in firsts}, count))
        if not lead.recv(Wire.proceed).facts.get("go"):
            break
        total = add_masked({p.peer: p.recv(Wire.scores) for p in silos.values()}, terms.rows * terms.outputs)
        for holder in labelled:
            holder.send(Wire.score_sums, total)
        lead.send(Wire.step_sums, add_masked({p.peer: p.recv(Wire.step_scalars) for p in firsts}, 3))
        if not lead.recv(Wire.proceed).facts.get("go"):
            break
        rounds += 1
        endpoint.keeper.save_round(rounds, {}, {})
    return Fit(np.zeros((0, terms.outputs)), 0, (), rounds, converged=True)


def _gather(key: PublicKey, silos: Mapping[str, Link[Coordinator, Passive]], terms: Terms) -> Encrypted:
    """Every holder's masked products, in job order: what its silos sent, multiplied."""
    found = []
    for members in terms.job.passive_holders.values():
        parts = {name: silos[name].recv(Wire.products) for name in members}
        found.append(_added(key, parts, terms.columns[members[0]] * terms.outputs))
    return Encrypted(found[0].key, np.concatenate([part.body for part in found]))


def _added(key: PublicKey, parts: Mapping[str, Encrypted], count: int | None) -> Encrypted:
    """The sums of several silos' ciphertexts; ``count`` of each, by default as many as the first one sent."""
    due = len(next(iter(parts.values())).body) if count is None else count
    return send_ciphers(hand_on(reduce(add, (receive_ciphers(key, p, due, name) for name, p in parts.items()))))


_Start = tuple[Descent, Vector, list[float]]


@dataclass(slots=True)
class _LabelRun:
    """What a silo of the label holder keeps through all rounds."""

    hub: Link[DataParty, Coordinator]
    siblings: Siblings
    key: PublicKey | PrivateKey = field(repr=False)
    pool: ObfuscatorPool = field(repr=False)
    setup: Setup
    plan: InnerProductPlan
    masks: RowMasks
    start: _Start  # weights, scores of the own rows and losses, after as many rounds as are done already
    keeper: Keeper = field(repr=False)

    def gradient(
        self,
        own: Placed,
        terms: Terms,
        target: Target,
        z: Vector,
        number: int,
        w: Vector,
        then: Callable[[], None] = lambda: None,
    ) -> Vector:
        """Send [[r]] of the own rows; the gradient of the label holder's own columns over all its silos.

        ``then`` is called in between, while the others compute.
        """
        residuals = quantised(target.residual(z), self.setup) if len(z) else np.zeros(z.shape, np.int64)
        placed = own.spread(residuals)
        packed = [value for column in placed.T for value in pack_rows(self.plan, np.ascontiguousarray(column))]
        self.hub.send(Wire.residual, send_ciphers(encrypt(self.key, packed, pool=self.pool)))
        then()
        parts = [value for column in glm.own_products(own.block, residuals) for value in column]
        summed = self.siblings.integers(f"gradient|{number}", parts)
        width = own.block.width
        columns = [summed[i * width : (i + 1) * width] for i in range(terms.outputs)]
        return glm.mean_gradient(own.whole, columns, self.setup.residual_scale) + own.block.penalty[:, None] * w

    def evaluate(self, own: Placed, terms: Terms, weights: Vector, number: int) -> Vector:
        """Scores of the own rows at ``weights``: those of the own columns and the opened sum of the passive ones."""
        total, label = self.hub.recv(Wire.score_sums), f"scores|{number}"
        passive = self.masks.open(label, total, own.places, terms.rows, terms.outputs, self.hub.peer)
        return glm.to_scores(glm.forward(own.block, weights) + passive)

    def loss(self, target: Target, z: Vector, number: int) -> float:
        """Mean loss over all silos' rows after a round, without penalty."""
        return mean_loss(self.siblings, target, z, self.plan.rows, f"loss|{number}")

    def slope(self, target: Target, z: Vector, dz: Vector, t: float, label: str) -> tuple[float, bool]:
        """As `vfl.silo_sums.slope_at`, in this run."""
        bound, rows = self.setup.bound_bits, self.plan.rows
        return slope_at(self.siblings, target, z, dz, t, bound, rows, f"probe|{label}")

    def save(self, at: Descent, z: Vector, losses: Sequence[float]) -> None:
        """Keep the state after a round."""
        arrays = at.arrays() | {"z": z, "losses": np.array(losses)}
        self.keeper.save_round(len(losses) - 1, {"setup": asdict(self.setup)}, arrays)


@dataclass(slots=True)
class _ActiveRun:
    """What the active party keeps beside what every silo of the label holder does."""

    labels: _LabelRun
    key: PrivateKey = field(repr=False)
    hub: Link[Active, Coordinator]
    siblings: list[Link[Active, LabelSilo]]
    everybody: list[Link[Active, DataParty]]
    passives: list[list[Link[Active, Passive]]]  # the silos of each passive holder
    scalar_masks: Masks


def _start_active(endpoint: Endpoint, terms: Terms, own: Placed, target: Target, siblings: Siblings) -> _ActiveRun:
    """Make the key, settle the packing and the residuals' bound, and tell the others."""
    job, privacy = terms.job, terms.job.privacy
    everybody = [endpoint.link(Active, DataParty, name) for name in endpoint.peers(DataParty)]
    hub = endpoint.link(Active, Coordinator, COORDINATOR)
    key = generate_keypair(
        privacy.key_bits, exponent_bits=privacy.exponent_bits, insecure_test_mode=privacy.insecure_test_mode
    )
    hub.send(Wire.key_copy, send_key(key.public))
    for link in everybody:
        link.send(Wire.key, send_key(key.public))
    packing = choose_rows_per_ciphertext(
        key.public.bits, terms.rows, product_bound(terms), max(terms.passive_columns), key.public.kernel.costs
    )
    bits, start = _begin(endpoint, terms, own, target, siblings)
    labels = _label_run(endpoint, terms, siblings, key, Setup(bits, target.label_bits, packing), start)
    for link in everybody:
        link.send(Wire.setup, Revealed(labels.setup.facts(), np.zeros(0)))
    firsts = [members[0] for members in job.passive_holders.values()]
    return _ActiveRun(
        labels=labels,
        key=key,
        hub=hub,
        siblings=[endpoint.link(Active, LabelSilo, name) for name in job.labelled[1:]],
        everybody=everybody,
        passives=[[endpoint.link(Active, Passive, name) for name in silos] for silos in job.passive_holders.values()],
        scalar_masks=pairwise_masks(endpoint, "glm scalars", firsts),
    )


def _label_run(
    endpoint: Endpoint,
    terms: Terms,
    siblings: Siblings,
    key: PublicKey | PrivateKey,
    setup: Setup,
    start: _Start,
) -> _LabelRun:
    """What a silo of the label holder needs for its rounds."""
    public = key.public if isinstance(key, PrivateKey) else key
    plan = make_plan(public, terms, setup.rows_per_ciphertext)
    others = [name for name in (*terms.job.labelled, *terms.job.passive) if name != endpoint.name]
    return _LabelRun(
        hub=endpoint.link(DataParty, Coordinator, COORDINATOR),
        siblings=siblings,
        key=key,
        pool=ObfuscatorPool(key, capacity=min(plan.ciphertexts * terms.outputs, _MAX_POOL)),
        setup=setup,
        plan=plan,
        masks=row_masks(endpoint, terms.job.labelled, pairwise_masks(endpoint, "glm scores", others)),
        start=start,
        keeper=endpoint.keeper,
    )


def _begin(endpoint: Endpoint, terms: Terms, own: Placed, target: Target, siblings: Siblings) -> tuple[int, _Start]:
    """The residuals' bound and the start, together with the other silos of the label holder, or from a checkpoint."""
    kept = endpoint.keeper.trained()
    if kept is not None:
        start = restore_descent(kept), kept.floats("z"), kept.floats("losses").tolist()
        return kept.fact("setup", Setup).bound_bits, start
    w = first_weights(own, terms, target, siblings)
    z = glm.to_scores(glm.forward(own.block, w))
    bits = largest_bound(siblings, bound_bits_of(target, float(np.abs(target.residual(z)).max())) if len(z) else None)
    return bits, (Descent(w), z, [mean_loss(siblings, target, z, own.rows, "start loss")])


def _open_gradients(run: _ActiveRun, terms: Terms) -> None:
    """Decrypt the masked products of every passive holder, and return to all its silos the agreed slots."""
    counts = [width * terms.outputs for width in terms.passive_columns]
    gathered = run.hub.recv(Wire.all_products)
    if len(gathered.body) != sum(counts):
        raise RemoteProtocolError(f"{run.hub.peer} sent {len(gathered.body)} products, expected {sum(counts)}")
    firsts = np.cumsum([0, *counts[:-1]]).tolist()
    for silos, at, count in zip(run.passives, firsts, counts, strict=True):
        part = Encrypted(gathered.key, gathered.body[at : at + count])
        vector = receive_ciphers(run.key.public, part, count, run.hub.peer)
        opened = Opened(open_products(run.labels.plan, run.key, vector, count=count))
        for link in silos:
            link.send(Wire.opened, opened)


def _opened(
    run: _ActiveRun,
    what: str,
    number: int,
    message: Message[Coordinator, Active, Masked],
    own: Sequence[float],
) -> list[float]:
    """Sums of scalars over all holders: the opened passive sum and the label holder's own part."""
    opened = run.scalar_masks.open_scalars(f"{what}|{number}", run.hub.recv(message), len(own))
    return [theirs + mine for theirs, mine in zip(opened, own, strict=True)]


def _tell(run: _ActiveRun, message: Message[Active, DataParty, Revealed], values: Sequence[float], stop: str) -> None:
    """Tell everybody a direction or a step, or that it stops here."""
    run.hub.send(Wire.proceed, Control({"go": not stop}))
    told = Revealed({"stop": bool(stop)}, np.zeros(0) if stop else np.array(values))
    for link in run.everybody:
        link.send(message, told)


def _search(
    run: _ActiveRun, target: Target, z: Vector, dz: Vector, slope: float, cross: float, at_d: float, number: int
) -> float:
    """Exact line search over all silos' rows; residuals stay within their bound."""
    tried: dict[float, tuple[float, bool]] = {}

    def tell(facts: dict[str, bool | int | float | str | None], values: list[float]) -> None:
        for link in run.siblings:
            link.send(Wire.probe, Revealed(facts, np.array(values)))

    def at(t: float) -> tuple[float, bool]:
        if t not in tried:
            tell({"go": True}, [t])
            tried[t] = run.labels.slope(target, z, dz, t, f"{number}|{len(tried)}")
        return tried[t]

    t = line_search(lambda t: at(t)[0] + cross + t * at_d, slope, lambda t: at(t)[1])
    tell({"go": False}, [])
    return t


def _answer_probes(
    lead: Link[LabelSilo, Active], labels: _LabelRun, target: Target, z: Vector, dz: Vector, number: int
) -> None:
    """Another label silo's part in the line search."""
    probes = 0
    while (told := lead.recv(Wire.probe)).facts.get("go") is True:
        (t,) = receive_values(told, 1, lead.peer)
        labels.slope(target, z, dz, t, f"{number}|{probes}")
        probes += 1


@dataclass(slots=True)
class _PassiveRun:
    """What a passive silo keeps through all rounds."""

    lead: Link[Passive, Active]
    hub: Link[Passive, Coordinator]
    pool: ObfuscatorPool = field(repr=False)
    setup: Setup
    plan: InnerProductPlan
    X: Integers = field(repr=False)
    product_masks: ProductMasks
    score_masks: Masks
    scalar_masks: Masks | None  # at the first silo, which speaks for the holder
    keeper: Keeper = field(repr=False)


def _start_passive(endpoint: Endpoint, terms: Terms, own: Placed, siblings: Siblings) -> _PassiveRun:
    """Hear the key and the packing; agree on masks."""
    job = terms.job
    lead, hub = endpoint.link(Passive, Active, job.active), endpoint.link(Passive, Coordinator, COORDINATOR)
    key = receive_key(lead.recv(Wire.key), lead.peer, job.privacy.key_bits)
    setup = read_setup(lead.recv(Wire.setup).facts, lead.peer)
    firsts = [members[0] for members in job.passive_holders.values()]
    everybody = [name for name in (*job.labelled, *job.passive) if name != endpoint.name]
    return _PassiveRun(
        lead=lead,
        hub=hub,
        pool=ObfuscatorPool(key, capacity=min(own.block.width * terms.outputs, _MAX_POOL), towards_owner=True),
        setup=setup,
        plan=make_plan(key, terms, setup.rows_per_ciphertext),
        X=own.spread(own.block.training),
        product_masks=_product_masks(endpoint, siblings),
        score_masks=pairwise_masks(endpoint, "glm scores", everybody),
        scalar_masks=pairwise_masks(endpoint, "glm scalars", [job.active, *firsts]) if siblings.first else None,
        keeper=endpoint.keeper,
    )


def _product_masks(endpoint: Endpoint, siblings: Siblings) -> ProductMasks:
    """Secrets of the silos of one holder for the masks of their products."""
    me = siblings.names.index(endpoint.name)
    pairs = {
        name: (endpoint.pair_secret(name, "silo products"), 1 if me < siblings.names.index(name) else -1)
        for name in siblings.others
    }
    return ProductMasks(siblings.secret(), pairs, siblings.first)


def _own_gradient(run: _PassiveRun, terms: Terms, own: Placed, number: int) -> Vector:
    """X'r / n over all silos of the holder: multiply, mask, have the sum opened, take the mask off."""
    plan, key, width = run.plan, run.pool.key, own.block.width
    residual = receive_ciphers(key, run.hub.recv(Wire.residual_copy), plan.ciphertexts * terms.outputs, run.hub.peer)
    products = [
        transposed_product(plan, residual[i * plan.ciphertexts : (i + 1) * plan.ciphertexts], run.X)
        for i in range(terms.outputs)
    ]
    masked, masks = run.product_masks.mask(plan, CipherVector.concat(products), str(number), pool=run.pool)
    run.hub.send(Wire.products, send_ciphers(masked))
    exact = receive_opened(plan, key, run.lead.recv(Wire.opened), masks, run.lead.peer)
    columns = [exact[i * width : (i + 1) * width] for i in range(terms.outputs)]
    return glm.mean_gradient(own.whole, columns, run.setup.residual_scale)
