"""What binds the keys of a split neural network: contradictions, and keys of the mode that is not the job's.

`vfl.job_checks` refuses a job for the first of them. `check_torch` asks what no line of a job says: whether torch, or
what counts epsilons of noisy gradients, is there for those who need it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from parties.spec import PartySpec
from vfl.job import Job, SplitNN
from vfl.torch_parts import need_torch

SPLIT_KEYS = ("bottom_hidden", "local_steps", "gradient_clip", "gradient_noise", "label_inference")
"""Keys that act in mode split only."""

Odds = tuple[str, object, str]


def network_at_odds(job: Job) -> Iterator[Odds]:
    """Keys of splitnn that contradict each other, the mode or the task: (where, got, expected) each.

    >>> from vfl.job import Member
    >>> members = Member(name="bank", role="active"), Member(name="shop", role="passive")
    >>> job = Job(name="demo", model="splitnn", task="binary", parties=members, splitnn=SplitNN(momentum=0.9))
    >>> list(network_at_odds(job))
    [('momentum in [training]', "0.9 for optimizer 'adam'", "0: it acts with optimizer 'sgd' only")]
    """
    settings = job.splitnn
    if settings.momentum and settings.optimizer != "sgd":
        got = f"{settings.momentum} for optimizer '{settings.optimizer}'"
        yield "momentum in [training]", got, "0: it acts with optimizer 'sgd' only"
    if settings.mode == "split":
        yield from _split_at_odds(job)
    else:
        yield from _keys_of_split(settings)


def check_torch(job: Job, specs: Iterable[PartySpec]) -> None:
    """Refuse to begin where torch is not installed and one of these parties, which run here, needs it.

    The active party of a network does, in mode split every party; the first layers of mode source-layer take none.
    Likewise dp-accounting, which silos with ``privacy.dp`` need.

    Raises
    ------
    ConfigError
        Naming the party and how to install what it lacks.
    """
    for spec in specs:
        if job.model == "splitnn" and (spec.role == "active" or job.splitnn.mode == "split"):
            need_torch(f"party '{spec.name}': model 'splitnn'")
        if job.privacy.dp != "none":
            from vfl.silo_privacy import need_accountant  # it reads what few jobs need

            need_accountant(f"party '{spec.name}': privacy.dp = '{job.privacy.dp}'")


def _keys_of_split(settings: SplitNN) -> Iterator[Odds]:
    """Keys that would be ignored in mode source-layer."""
    plain = SplitNN()
    for key in SPLIT_KEYS:
        got, default = getattr(settings, key), getattr(plain, key)
        if got != default:
            expected = f"{_text(default)}: it acts in mode 'split' only, which every policy must allow; remove the line"
            yield f"{key} in [training]", f"{_text(got)} for mode 'source-layer'", expected


def _split_at_odds(job: Job) -> Iterator[Odds]:
    """Keys that would be ignored in mode split, and what its own keys need."""
    settings, privacy = job.splitnn, job.privacy
    if settings.source_learning_rate is not None:
        got = f"{settings.source_learning_rate} for mode 'split'"
        expected = "no such line: it acts in mode 'source-layer' only; here learning_rate is every party's"
        yield "source_learning_rate in [training]", got, expected
    if settings.gradient_noise and settings.gradient_clip is None:
        expected = "gradient_clip too: the noise is in units of the largest norm that it lets through"
        yield "gradient_noise in [training]", f"{settings.gradient_noise} without gradient_clip", expected
    if settings.label_inference and job.task != "binary":
        expected = "false: the attack tells two classes apart, remove the line"
        yield "label_inference in [training]", f"true for task '{job.task}'", expected
    if privacy.key_holder == "active":
        yield "key_holder in [privacy]", "'active' for mode 'split'", "'auto': no key is made, remove the line"
    if privacy.exponent_bits is not None:
        got = f"{privacy.exponent_bits} for mode 'split'"
        yield "exponent_bits in [privacy]", got, "no such line: no key is made"


def _text(value: object) -> str:
    """As a line of the file has it; "none" where there is no line."""
    return "none" if value is None else msgspec.json.encode(value).decode()
