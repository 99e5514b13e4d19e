"""What silos rule out, and what only silos can have: keys of a job that contradict who its parties are.

`vfl.job_checks` refuses a job for the first of them. Three kinds of jobs differ in what acts:

- no party is made of silos: nothing of `vfl.job.Averaging` acts, nor does differential privacy of gradients;
- silos beside a passive party (hybrid): their sums are exact, so that nothing is averaged either, and the protocols for
  them are those of GLMs and boosting with the key at the active party;
- all parties are silos of one holder (horizontal): nothing is aligned or encrypted, and models are averaged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from parties.spec import PartySpec
from vfl.job import Alignment, Averaging, Boosting, Job, Member, Privacy, Split

Odds = tuple[str, object, str]
"""Where, what it got, and what was expected."""
_Lines = Alignment | Averaging | Boosting | Privacy | Split

_AVERAGING: tuple[str, ...] = Averaging.__struct_fields__
_DP_KEYS = ("dp_clip", "dp_epsilon", "dp_noise", "dp_delta")


def members_at_odds(members: Iterable[Member]) -> Iterator[Odds]:
    """Silos of one party that differ in their role, and a party that is whole and made of silos at once.

    >>> people = Member(name="clinics.north", role="active"), Member(name="clinics", role="passive")
    >>> list(members_at_odds(people))
    [('party name', "'clinics' beside 'clinics.north'", 'a party, or silos of it, not both')]
    """
    first: dict[str, Member] = {}
    for member in members:
        other = first.setdefault(member.holder, member)
        if (member.name == member.holder) != (other.name == other.holder):
            expected = "a party, or silos of it, not both"
            yield "party name", f"'{member.name}' beside '{other.name}'", expected
        elif member.role != other.role:
            got = f"'{member.role}' for '{member.name}' and '{other.role}' for '{other.name}'"
            yield "role", got, "one role for all silos of a party"


def silos_at_odds(job: Job) -> Iterator[Odds]:
    """Lines of [alignment], [training] and [privacy] that do not act in this job, or not together.

    >>> from vfl.job import Training
    >>> members = Member(name="clinics.north", role="active"), Member(name="bank", role="passive")
    >>> training = Training(aggregation="fedavg")
    >>> job = Job(name="demo", model="logistic", task="binary", parties=members, training=training)
    >>> next(silos_at_odds(job))[2]
    "'fedsgd': silos beside passive parties are added up exactly, remove the line"
    """
    if job.horizontal:
        yield from _horizontal_at_odds(job)
        return
    if job.has_silos:
        yield from _hybrid_at_odds(job)
        why = "silos beside passive parties are added up exactly, remove the line"
    else:
        why = "it acts where all parties are silos of one holder, remove the line"
    keys = _AVERAGING if job.model == "splitnn" else (*_AVERAGING, "learning_rate", "batch_size")
    if job.model != "boosting":
        yield from _not_default(job.averaging, keys, "training", why)
    yield from _not_default(job.privacy, ("dp", *_DP_KEYS), "privacy", why)


def _hybrid_at_odds(job: Job) -> Iterator[Odds]:
    """What the exact protocols for silos do not have."""
    if job.model == "splitnn":
        expected = "a GLM or 'boosting': networks need parties without silos, or silos of one holder alone"
        yield "model at the top", "'splitnn' with silos beside passive parties", expected
    if job.privacy.key_holder == "coordinator":
        expected = "'auto' or 'active': with silos the active party holds the key"
        yield "key_holder in [privacy]", "'coordinator' with [[party.silo]]", expected
    why = "it acts only where the coordinator holds the key, which silos rule out, remove the line"
    yield from _not_default(job.training, ("newton_steps", "curvature"), "training", why)
    if job.model == "boosting":
        why = "GOSS needs the gradients of all rows in one place; use training.subsample"
        yield from _not_default(job.boosting, ("top_rate", "other_rate"), "training", why)


def party_at_odds(job: Job, spec: PartySpec) -> Iterator[Odds]:
    """Lines of a party that act on silos only, or with a rule of averaging that is not the job's."""
    rules = {job.averaging.aggregation, *job.averaging.aggregation_by_layer.values()}
    if spec.silo_weight is not None and not (job.horizontal and "weighted" in rules):
        expected = "no such line: it acts where silos of one holder train with aggregation 'weighted'"
        yield "weight of a silo (silo_weight)", f"{spec.silo_weight:g}", expected
    if spec.categories and not job.has_silos:
        expected = "no such line: it acts in federations with silos, others learn categories from the rows"
        yield "categories", f"those of {', '.join(sorted(spec.categories))[:60]}", expected


def _horizontal_at_odds(job: Job) -> Iterator[Odds]:
    """What silos without a passive party do not have: alignment, a key, trees, parts of a network."""
    if job.model == "boosting":
        expected = "'logistic', 'softmax', 'linear', 'poisson' or 'splitnn': averaging needs weights"
        yield "model at the top", "'boosting' for silos of one holder", expected
        return
    why = "silos of one holder align nothing, remove the line"
    yield from _not_default(job.alignment, Alignment.__struct_fields__, "alignment", why)
    why = "silos of one holder make no key, remove the line"
    yield from _not_default(job.privacy, ("key_holder", "exponent_bits"), "privacy", why)
    why = "labels stay as they are in their silo; use dp = 'local' or 'central'"
    yield from _not_default(job.privacy, ("label_dp_epsilon",), "privacy", why)
    if job.model == "splitnn":
        why = "no network is split where there is no passive party, remove the line"
        yield from _not_default(job.splitnn, ("mode", "source_learning_rate"), "training", why)
        why = "no loss of held-out rows is watched where there is no passive party, remove the line"
        yield from _not_default(job.splitnn, ("early_stopping_rounds",), "training", why)
        yield from _not_default(job.split, ("validation_fraction",), "split", why)
    else:
        why = "it acts only where the coordinator holds a key, remove the line"
        yield from _not_default(job.training, ("newton_steps", "curvature"), "training", why)
    yield from _silos_short(job)
    yield from _averaging_at_odds(job)
    yield from _privacy_at_odds(job)


def _silos_short(job: Job) -> Iterator[Odds]:
    """More silos asked for than there are."""
    least, silos = job.averaging.min_silos, len(job.parties)
    if least is not None and least > silos:
        yield "min_silos in [training]", f"{least} of {silos} silos", f"at most {silos}, or no such line: all"
    if least is None:
        why = "it acts with min_silos, which lets a round go on without a silo"
        yield from _not_default(job.averaging, ("round_timeout",), "training", why)


def _averaging_at_odds(job: Job) -> Iterator[Odds]:
    """Keys that the rule of averaging does not heed."""
    rule, noisy = job.averaging.aggregation, job.privacy.dp != "none"
    if noisy:
        why = "with dp no loss is told that could be compared, remove the line"
        yield from _not_default(job.training, ("tol",), "training", why)
    if rule != "fedsgd":
        why = f"with aggregation '{rule}' training.rounds decides, remove the line"
        yield from _not_default(job.training, ("max_iter",), "training", why)
        yield from _not_default(job.splitnn, ("epochs",), "training", why)
        yield from _layers_at_odds(job)
        return
    why = "with aggregation 'fedsgd' every round adds up gradients; use 'fedavg', 'weighted' or 'simple'"
    yield from _not_default(job.averaging, ("aggregation_by_layer", "local_epochs", "proximal"), "training", why)
    if noisy:
        why = "with dp training.rounds decides, remove the line"
        yield from _not_default(job.training, ("max_iter",), "training", why)
        yield from _not_default(job.splitnn, ("epochs",), "training", why)
        return
    decides = "epochs" if job.model == "splitnn" else "max_iter"
    why = f"with aggregation 'fedsgd' training.{decides} decides, remove the line"
    yield from _not_default(job.averaging, ("rounds",), "training", why)
    yield from _exact_at_odds(job)


def _exact_at_odds(job: Job) -> Iterator[Odds]:
    """With fedsgd and without noise silos train as pooled rows would: a GLM by L-BFGS, a network by its optimizer."""
    if job.model == "splitnn":
        settings = job.splitnn
        why = "with aggregation 'fedsgd' training.optimizer steps, as on pooled rows, remove the line"
        yield from _not_default(settings, ("server_optimizer", "server_learning_rate"), "training", why)
        yield from _not_default(settings, ("client_fraction",), "training", _ALL_TAKE_PART)
        return
    yield from _not_default(job.training, ("batch_size",), "training", "each round takes all rows, remove the line")
    if job.training.server_optimizer == "average":
        yield from _not_default(job.training, ("client_fraction",), "training", _ALL_TAKE_PART)
        why = "silos' gradients are added up for L-BFGS, which has no such rate; use another server_optimizer"
        yield from _not_default(job.training, ("learning_rate", "server_learning_rate"), "training", why)


_ALL_TAKE_PART = "with aggregation 'fedsgd' all silos take part, as pooled rows would, remove the line"


def _layers_at_odds(job: Job) -> Iterator[Odds]:
    """Rules for layers that a GLM does not have; those of a network are known once it is built."""
    layers = ("coefficients", "intercept") if job.training.fit_intercept else ("coefficients",)
    for name in () if job.model == "splitnn" else job.training.aggregation_by_layer:
        if name not in layers:
            expected = f"{' or '.join(layers)}, the layers of model '{job.model}'"
            yield "aggregation_by_layer in [training]", f"'{name[:60]}'", expected


def _privacy_at_odds(job: Job) -> Iterator[Odds]:
    """Noise on gradients: one of epsilon and noise says how much; with averaging it can only be each silo's own."""
    lines = job.privacy
    if lines.dp == "none":
        why = "it acts with dp = 'central' or 'local'"
        yield from _not_default(lines, _DP_KEYS, "privacy", why)
        return
    if (lines.dp_epsilon is None) == (lines.dp_noise is None):
        got = "none" if lines.dp_epsilon is None else f"{lines.dp_epsilon:g} beside dp_noise {lines.dp_noise:g}"
        yield "dp_epsilon in [privacy]", got, "either dp_epsilon or dp_noise, which says how much noise is added"
    rule = job.averaging.aggregation
    if lines.dp == "central" and rule != "fedsgd":
        expected = "'local', or aggregation 'fedsgd': local steps need all of the noise at each silo"
        yield "dp in [privacy]", f"'central' with aggregation '{rule}'", expected


def _not_default(lines: _Lines, keys: Iterable[str], section: str, why: str) -> Iterator[Odds]:
    """Keys that act nowhere in the job and yet are not as they are without a line."""
    plain = type(lines)()
    for key in keys:
        got, default = getattr(lines, key), getattr(plain, key)
        if got != default:
            yield f"{key} in [{section}]", _text(got), f"{_text(default)}: {why}"


def _text(value: object) -> str:
    """As a line of the file has it; "none" where there is no line."""
    if isinstance(value, dict):
        return "a table" if value else "no table"
    return "none" if value is None else f"'{value}'" if isinstance(value, str) else msgspec.json.encode(value).decode()
