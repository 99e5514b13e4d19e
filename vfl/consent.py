"""What others may learn from a party, message by message: asked before a run, and again before each message leaves.

A party's policy lists in ``disclosures`` the messages by which others may learn something from it. Two kinds count:

- messages of its own that say what they disclose in their protocol's `Wire` table;
- messages of others that open what it sent sealed, masked or encrypted, or that hand it on (`OPENED_BY`): the sum of
  all parties' scores, which the coordinator adds up, tells of each party's.

`disclosures_of` lists both for a job, `check_disclosures` refuses what the policy does not list, and `of` is what a
party's ``Endpoint.consent`` calls at the moment of sending, so that a peer cannot lead it further than its policy goes.

>>> from vfl.job import Job, Member
>>> members = Member(name="bank", role="active"), Member(name="shop", role="passive")
>>> job = Job(name="demo", model="linear", task="regression", parties=members)
>>> [message.name for message in disclosures_of(job, Passive, "active")][-4:]
['glm_exact.gradient_sums', 'glm_exact.score_sums', 'glm_exact.step_sums', 'scoring.total']
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import product

from parties.errors import RemoteProtocolError
from parties.link import COORDINATOR
from parties.policy import Guards, KeyHolder, Verdict, disclosure, embedding_exchange, protocol_use
from parties.spec import PartySpec, holder_of
from parties.wire import Active, Coordinator, DataParty, LabelSilo, Message, Passive, Role
from psi import silo_rows
from psi.settings import Protocol
from vfl import (
    alignment_consent,
    boosting,
    boosting_one_sided,
    boosting_scoring,
    boosting_scoring_one_sided,
    boosting_silos,
    boosting_silos_scoring,
    glm_exact,
    glm_quadratic,
    glm_silos,
    horizontal,
    importance,
    prepare,
    row_masks,
    scoring,
    scoring_one_sided,
    scoring_silos,
    secure_sum,
    siblings,
    silo_counts,
    split_learning,
    splitnn,
    splitnn_scoring,
)
from vfl.alignment_consent import AnyMessage, protocols_of
from vfl.job import COORDINATOR_MODELS, Job

OPENED_BY: Mapping[AnyMessage, tuple[AnyMessage, ...]] = {
    **alignment_consent.OPENED_BY,
    prepare.Wire.shape: (prepare.Wire.shapes,),
    glm_exact.Wire.gradient_scalars: (glm_exact.Wire.gradient_sums,),
    glm_exact.Wire.scores: (glm_exact.Wire.score_sums,),
    glm_exact.Wire.step_scalars: (glm_exact.Wire.step_sums,),
    glm_quadratic.Wire.deviation: (glm_quadratic.Wire.opened,),
    glm_quadratic.Wire.step_scores: (glm_quadratic.Wire.opened,),
    glm_quadratic.Wire.direction_scores: (glm_quadratic.Wire.opened,),
    glm_quadratic.Wire.scalars: (glm_quadratic.Wire.outcome,),
    glm_quadratic.Wire.training_scores: (glm_quadratic.Wire.training_sums,),
    scoring.Wire.partial: (scoring.Wire.total,),
    scoring_one_sided.Wire.scores: (scoring_one_sided.Wire.opened,),
    siblings.Wire.part: (siblings.Wire.total,),
    siblings.Wire.named: (siblings.Wire.all_named,),
    glm_silos.Wire.residual: (glm_silos.Wire.opened,),
    glm_silos.Wire.gradient_scalars: (glm_silos.Wire.gradient_sums,),
    glm_silos.Wire.scores: (glm_silos.Wire.score_sums,),
    glm_silos.Wire.step_scalars: (glm_silos.Wire.step_sums,),
    scoring_silos.Wire.partial: (scoring_silos.Wire.total,),
    boosting_silos.Wire.gradients: (boosting_silos.Wire.candidate_sums,),
    boosting_silos.Wire.candidates: (boosting_silos.Wire.candidate_sums, boosting_silos.Wire.gains),
    boosting_silos.Wire.sides: (boosting_silos.Wire.side_sums, boosting_silos.Wire.told),
    boosting_silos_scoring.Wire.sides: (boosting_silos_scoring.Wire.side_sums, boosting_silos_scoring.Wire.told),
    secure_sum.Wire.masked: (secure_sum.Wire.shares, horizontal.Wire.asked),
    splitnn.Wire.rests: (splitnn.Wire.sums,),
    splitnn_scoring.Wire.rests: (splitnn_scoring.Wire.sums,),
}
"""For what a party sends: the messages of others by which its receivers learn of it."""

_SINGLE_ROWS: tuple[AnyMessage, ...] = (
    split_learning.Wire.outputs,
    split_learning.Wire.gradients,
    split_learning.Wire.scored,
)
"""What never leaves a party without its policy's ``embedding_gradients``, whoever asks and wherever it runs."""

_WHOM: Mapping[type[Role], str] = {
    Active: "the active party",
    LabelSilo: "the other silos of the label holder",
    Passive: "the passive parties",
    Coordinator: "the coordinator",
    DataParty: "every party",
}
_TO_SOME: Mapping[AnyMessage, str] = {
    siblings.Wire.part: "the other silos of its party",
    siblings.Wire.total: "the other silos of its party",
    siblings.Wire.named: "the other silos of its party",
    siblings.Wire.all_named: "the other silos of its party",
    silo_counts.Wire.rows: "the other silos of its party",
    glm_silos.Wire.score_sums: "the silos of the label holder",
    scoring_silos.Wire.total: "the silos of the label holder",
    silo_rows.Wire.rows: "the silos of all parties",
}
"""Who learns from messages that go to some of the parties only."""


def of(job: Job, spec: PartySpec, guards: Guards, *, cardinality: bool = False) -> Callable[[AnyMessage], None]:
    """What a party's ``Endpoint.consent`` is set to: asked for every message that it is about to send.

    The function raises ``PolicyError`` for a message that the policy does not list, or whose protocol of alignment it
    does not list (where guards are not enforced it warns), and ``RemoteProtocolError`` where the coordinator asks for
    more rounds than the job has. With ``cardinality`` no more than a number is told.
    """
    sent: Counter[str] = Counter()
    aligned_by, role = alignment_consent.protocol_of(job), _role(job, spec)
    unsaid = alignment_consent.unsaid(job, role, cardinality=cardinality, party=spec.name)
    most = {glm_quadratic.Wire.scalars.name: job.training.newton_steps + 1 + 2 * job.training.max_iter}

    def consent(message: AnyMessage) -> None:
        if message in _SINGLE_ROWS:
            guards.heed(embedding_exchange(party=spec.name, consent=spec.policy.embedding_gradients))
        if message in aligned_by:
            guards.heed(protocol_use(spec.policy, party=spec.name, protocols=[aligned_by[message]]))
        for told in _told(message, role):
            if told not in unsaid:
                guards.heed(_judge(spec, told))
        sent[message.name] += 1
        if sent[message.name] > most.get(message.name, sent[message.name]):
            raise RemoteProtocolError(
                f"{COORDINATOR} asks party '{spec.name}' for more rounds than the job's training.max_iter = "
                f"{job.training.max_iter}, up to which max_rounds in its policy consents; nothing more was sent"
            )

    return consent


def disclosures_of(
    job: Job,
    role: type[DataParty],
    key_holder: KeyHolder,
    protocol: Protocol | None = None,
    party: str | None = None,
) -> list[AnyMessage]:
    """Every message of a job by which others may learn something from a party of a role.

    Parameters
    ----------
    role : type
        `Active`, `LabelSilo` or `Passive`.
    key_holder : KeyHolder
        Who holds the key, never "auto".
    protocol : str, optional
        Of the alignment, never "auto"; by default the first of those that the job may take.
    party : str, optional
        Its name; by default the first one of the role.

    Returns
    -------
    list of Message
        Those that the party sends itself, and those that open what it sends; in the order of a run.
    """
    name = party or next(name for name, its in alignment_consent.roles_of(job).items() if its is role)
    aligned = () if job.horizontal else alignment_consent.tables_of(protocol or protocols_of(job)[0])
    among = (siblings.Wire,) if len(job.holders[holder_of(name)]) > 1 else ()
    unused = (*_unused(job), *alignment_consent.unsaid(job, role, party=name))
    return [m for m in _told_by(_messages(*aligned, *among, *_tables(job, key_holder)), role) if m not in unused]


def check_disclosures(job: Job, spec: PartySpec, guards: Guards, key_holder: KeyHolder | None = None) -> None:
    """Refuse a job that would tell others what the party's policy does not list.

    Parameters
    ----------
    key_holder : KeyHolder, optional
        None: not known yet; only what is disclosed whoever holds the key is refused.

    Raises
    ------
    PolicyError
        Naming message, what it discloses, to whom, and the line ``disclosures``; where guards are enforced.
    """
    holders = _possible_holders(job, spec) if key_holder is None else (key_holder,)
    protocols = protocols_of(job, spec.policy)
    ways = product(holders, protocols)
    _heed(spec, guards, [disclosures_of(job, _role(job, spec), *way, party=spec.name) for way in ways])


def check_alignment(job: Job, spec: PartySpec, guards: Guards, *, cardinality: bool = False) -> None:
    """Refuse an alignment alone if it would tell others what the party's policy does not list, or is no protocol of it.

    Raises
    ------
    PolicyError
        As `check_disclosures`.
    """
    guards.heed(protocol_use(spec.policy, party=spec.name, protocols=protocols_of(job)))
    role = _role(job, spec)
    unsaid = alignment_consent.unsaid(job, role, cardinality=cardinality, party=spec.name)
    ways = [_told_by(_messages(*alignment_consent.tables_of(way)), role) for way in protocols_of(job, spec.policy)]
    _heed(spec, guards, [[message for message in told if message not in unsaid] for told in ways])


def check_scoring(job: Job, spec: PartySpec, guards: Guards) -> None:
    """Refuse the scoring of new rows if it would tell others what the party's policy does not list.

    Raises
    ------
    PolicyError
        As `check_disclosures`.
    """
    check_alignment(job, spec, guards)
    if job.in_the_clear and spec.role == "passive":
        guards.heed(embedding_exchange(party=spec.name, consent=spec.policy.embedding_gradients))
    # the one table of mode split has the messages of training too
    messages = [split_learning.Wire.scored] if job.in_the_clear else _messages(*_scoring_tables(job))
    if job.model == "boosting" and spec.role == "active" and len(job.labelled) > 1:
        messages += [siblings.Wire.part, siblings.Wire.total]  # sides of the label holder's own splits
    _heed(spec, guards, [_told_by(messages, _role(job, spec))])


def _heed(spec: PartySpec, guards: Guards, ways: list[list[AnyMessage]]) -> None:
    """Refuse what is told whichever way the job takes, and a job that the policy lets take none of them."""
    certain = [message for message in ways[0] if all(message in others for others in ways)]
    none_left = len(ways) > 1 and not any(_allowed(spec, messages) for messages in ways)
    for message in ways[0] if none_left else certain:  # the first way stands for all
        guards.heed(_judge(spec, message))


def _role(job: Job, spec: PartySpec) -> type[DataParty]:
    return alignment_consent.roles_of(job)[spec.name]


def _allowed(spec: PartySpec, messages: list[AnyMessage]) -> bool:
    return all(_judge(spec, message) is None for message in messages)


def _judge(spec: PartySpec, message: AnyMessage) -> Verdict | None:
    """The policy's word on one message."""
    to = _TO_SOME.get(message) or _WHOM[message.dst]
    return disclosure(spec.policy, party=spec.name, message=message.name, discloses=message.discloses, to=to)


def _told_by(messages: list[AnyMessage], role: type[DataParty]) -> list[AnyMessage]:
    """The messages by which others learn something of a party of a role where these are sent."""
    sent = [message for message in messages if issubclass(role, message.src)]
    return list(dict.fromkeys(told for message in sent for told in _told(message, role)))


def _told(message: AnyMessage, role: type[DataParty]) -> Iterator[AnyMessage]:
    """The messages by which others learn something of a party of a role where it sends this one."""
    if message.discloses:
        yield message
    for opened in OPENED_BY.get(message, ()):
        if not (role is Active and opened.dst is Active):  # there is one active party, and what it hears is of others
            yield opened


def _tables(job: Job, key_holder: KeyHolder) -> tuple[type, ...]:
    """Wire tables of all protocols that the job runs once rows are aligned."""
    if job.horizontal:
        return (silo_counts.Wire, horizontal.Wire, secure_sum.Wire)
    if job.has_silos and job.model == "boosting":
        return (prepare.Wire, boosting_silos.Wire, importance.Wire, *_scoring_tables(job))
    if job.has_silos:
        return (prepare.Wire, glm_silos.Wire, *_scoring_tables(job))
    if job.model == "splitnn":
        return (prepare.Wire, *(() if job.in_the_clear else (splitnn.Wire,)), *_scoring_tables(job))
    if job.model == "boosting":
        trees = boosting_one_sided.Wire if job.alignment.one_sided else boosting.Wire
        return (prepare.Wire, trees, importance.Wire, *_scoring_tables(job))
    return (prepare.Wire, (glm_exact if key_holder == "active" else glm_quadratic).Wire, *_scoring_tables(job))


def _scoring_tables(job: Job) -> tuple[type, ...]:
    if job.has_silos:
        return (boosting_silos_scoring.Wire,) if job.model == "boosting" else (row_masks.Wire, scoring_silos.Wire)
    if job.model == "splitnn":
        return (split_learning.Wire if job.in_the_clear else splitnn_scoring.Wire,)
    if job.model == "boosting":
        return (boosting_scoring_one_sided.Wire if job.alignment.one_sided else boosting_scoring.Wire,)
    return (scoring_one_sided.Wire if job.alignment.one_sided else scoring.Wire,)


def _messages(*tables: type) -> list[AnyMessage]:
    return [entry for table in tables for entry in vars(table).values() if isinstance(entry, Message)]


def _unused(job: Job) -> Iterator[AnyMessage]:
    """Messages of these tables that the job's own lines rule out."""
    if job.split.test_fraction == 0:
        yield from (
            scoring.Wire.total,
            scoring_one_sided.Wire.opened,
            scoring_silos.Wire.total,
            boosting_silos_scoring.Wire.rows,
            boosting_silos_scoring.Wire.side_sums,
            boosting_silos_scoring.Wire.told,
            boosting_scoring.Wire.rows,
            boosting_scoring.Wire.sides,
            boosting_scoring_one_sided.Wire.above,
            boosting_scoring_one_sided.Wire.sides,
            splitnn_scoring.Wire.sums,
            split_learning.Wire.scored,
        )
    if job.training.newton_steps == 0:
        yield glm_quadratic.Wire.training_sums
    if job.boosting.top_rate is None:
        yield boosting.Wire.drawn
    if job.boosting.max_depth == 1:
        yield from (boosting.Wire.outcome, boosting_one_sided.Wire.outcome, boosting_silos.Wire.outcome)
    if len(job.labelled) == 1:
        yield from (glm_silos.Wire.probe, boosting_silos.Wire.gains)
        yield from (boosting_silos.Wire.told, boosting_silos_scoring.Wire.told)
    if job.alignment.one_sided:
        yield importance.Wire.own_gains


def _possible_holders(job: Job, spec: PartySpec) -> tuple[KeyHolder, ...]:
    """Who may turn out to hold the key, as far as the party consents to it."""
    setting = job.privacy.key_holder
    if setting != "auto":
        return (setting,)
    if job.has_silos or job.model not in COORDINATOR_MODELS:
        return ("active",)
    return spec.policy.key_holder
