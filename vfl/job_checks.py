"""What binds several keys of a job: contradictions, and parties that cannot train together, refused in one line.

The keys themselves stand in `vfl.job`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import get_args

from parties.errors import ConfigError
from parties.policy import KeyHolder, Model
from psi.settings import check_parties
from vfl.job import (
    COORDINATOR_MODELS,
    KEY_BITS,
    ONE_SIDED_MODELS,
    TASKS,
    TEST_KEY_BITS,
    VALIDATED_MODELS,
    Alignment,
    Boosting,
    Job,
    Member,
    Privacy,
    Task,
    Training,
)
from vfl.network_checks import network_at_odds
from vfl.silo_checks import members_at_odds, silos_at_odds


def resolve_task(model: Model, task: Task | None, file: str = "the job") -> Task:
    """Task that a model implies, or an error where another one is asked for; boosting and splitnn must be told.

    >>> resolve_task("poisson", None), resolve_task("boosting", "count")
    ('count', 'count')
    """
    implied = TASKS.get(model)
    if implied is None:
        if task is None:
            *most, last = (f"'{one}'" for one in get_args(Task))
            raise ConfigError(
                f"task missing at the top of {file}, got none, expected {', '.join(most)} or {last}: "
                f"model '{model}' fits all of them, add the line"
            )
        return task
    if task not in (None, implied):
        fitting = next(name for name, its_task in TASKS.items() if its_task == task)
        raise ConfigError(
            f"task at the top of {file}, got '{task}', expected '{implied}' for model '{model}', "
            f"or model '{fitting}', 'boosting' or 'splitnn' for task '{task}'"
        )
    return implied


def check_job(job: Job, file: str = "the job") -> None:
    """Check what binds several keys of a job.

    Raises
    ------
    ConfigError
        Two lines that contradict each other, or parties that cannot train together.
    """
    resolve_task(job.model, job.task, file)
    check_alignment(job, file)
    _check_one_sided(job, file)
    _check_key(job.privacy, file)
    for place, got, expected in (*silos_at_odds(job), *_parts_at_odds(job), *_training_at_odds(job)):
        raise ConfigError(f"{place} of {file}, got {got}, expected {expected}")
    if job.privacy.key_holder == "coordinator" and job.model not in COORDINATOR_MODELS:
        raise ConfigError(
            f"key_holder in [privacy] of {file}, got 'coordinator' for model '{job.model}', expected 'auto' or "
            f"'active': a key at the coordinator works for {' and '.join(COORDINATOR_MODELS)} only"
        )
    if job.model not in COORDINATOR_MODELS:
        _check_no_quadratic(job.training, f"with model '{job.model}'", file)
    elif job.privacy.key_holder == "active":
        _check_no_quadratic(job.training, "with key_holder 'active'", file)


def check_alignment(job: Job, file: str = "the job") -> None:
    """Check what an alignment takes, whatever is trained on it.

    Raises
    ------
    ConfigError
        Two lines that contradict each other, or parties that cannot align.
    """
    _check_members(job.parties, file)
    lines, where = job.alignment, f"[alignment] of {file}"
    check_parties(lines.protocol, lines.one_sided, len(job.parties), where, silos=job.has_silos)
    for place, got, expected in _padding_at_odds(job.alignment):
        raise ConfigError(f"{place} of {file}, got {got}, expected {expected}")


def check_alignment_alone(job: Job, file: str = "the job") -> None:
    """Check an alignment of which nothing is trained.

    Raises
    ------
    ConfigError
        As `check_alignment`; or there is nothing to align.
    """
    check_alignment(job, file)
    if job.horizontal:
        raise ConfigError(
            f"role in {file}, got no passive party, expected at least one beside '{job.parties[0].holder}': silos of "
            "one party have rows of their own, and nothing to align"
        )


def check_key_holder(job: Job, holder: KeyHolder, reason: str = "", file: str = "the job") -> None:
    """Refuse options of the coordinator's protocol once it is known that the active party holds the key."""
    if holder == "active":
        _check_no_quadratic(job.training, f"with the key at the active party ({reason})", file)


def _check_members(members: tuple[Member, ...], file: str) -> None:
    """One holder of labels, one passive party or more unless it has silos, unique names."""
    names = [member.name for member in members]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigError(f"party name in {file}, got '{twice[0]}' twice, expected unique names")
    for place, got, expected in members_at_odds(members):
        raise ConfigError(f"{place} in {file}, got {got}, expected {expected}")
    active = list(dict.fromkeys(member.holder for member in members if member.role == "active"))
    if len(active) > 1:
        raise ConfigError(
            f"role in {file}, got {len(active)} active parties ('{active[0]}', '{active[1]}'), expected one, "
            "the holder of the labels; make the others passive"
        )
    if not active:
        raise ConfigError(f"role in {file}, got no active party, expected one, the holder of the labels")
    if len(members) < 2:
        raise ConfigError(
            f"role in {file}, got no passive party, expected at least one beside '{active[0]}', or two [[party.silo]] "
            "of it"
        )


def _check_one_sided(job: Job, file: str) -> None:
    """Models that can train without the passive party's learning which of its rows take part."""
    if job.alignment.one_sided and job.model not in ONE_SIDED_MODELS:
        *most, last = (f"'{model}'" for model in ONE_SIDED_MODELS)
        raise ConfigError(
            f"one_sided in [alignment] of {file}, got true for model '{job.model}', expected false: one_sided works "
            f"with models {', '.join(most)} and {last} only"
        )
    if job.alignment.one_sided and job.model != "boosting":
        _check_one_sided_linear(job, file)


def _check_one_sided_linear(job: Job, file: str) -> None:
    """Nobody may read scores of the passive party's rows: most of them may be strangers to the active party."""
    if job.privacy.key_holder == "active":
        raise ConfigError(
            f"key_holder in [privacy] of {file}, got 'active' with alignment.one_sided = true, expected 'auto' or "
            "'coordinator': the active party would read the scores of all rows of the passive party"
        )
    if job.training.newton_steps:
        raise ConfigError(
            f"newton_steps in [training] of {file}, got {job.training.newton_steps} with alignment.one_sided = true, "
            "expected 0: a Newton step opens scores of all rows of the passive party"
        )


def _check_key(privacy: Privacy, file: str) -> None:
    """Key sizes that exist, insecure ones in test mode only, exponents no longer than the key."""
    got = f"key_bits in [privacy] of {file}, got {privacy.key_bits}"
    if privacy.key_bits not in KEY_BITS + TEST_KEY_BITS:
        raise ConfigError(f"{got}, expected 2048, 3072 or 4096")
    if privacy.key_bits in TEST_KEY_BITS and not privacy.insecure_test_mode:
        raise ConfigError(f"{got}, expected at least 2048 (smaller only for tests, with insecure_test_mode = true)")
    if privacy.exponent_bits is not None and privacy.exponent_bits > privacy.key_bits:
        raise ConfigError(
            f"exponent_bits in [privacy] of {file}, got {privacy.exponent_bits}, "
            f"expected at most key_bits, {privacy.key_bits}"
        )


def _padding_at_odds(alignment: Alignment) -> Iterator[tuple[str, object, str]]:
    """A length of all lists that other lines rule out: (where, got, expected) each."""
    least, length = alignment.min_intersection, alignment.pad_to
    if length is not None and length < least:
        got = f"{length:,} beside min_intersection {least:,}"
        yield "pad_to in [alignment]", got, "at least min_intersection: so many ids could never be common"
    if length is not None and alignment.one_sided:
        got = f"{length:,} beside one_sided = true"
        expected = "none: the passive party trains on its whole list, whose length is therefore told; remove one line"
        yield "pad_to in [alignment]", got, expected


def _parts_at_odds(job: Job) -> Iterator[tuple[str, object, str]]:
    """Held-out parts and randomised labels that the model or the task cannot have: (where, got, expected) each."""
    test, validation, epsilon = job.split.test_fraction, job.split.validation_fraction, job.privacy.label_dp_epsilon
    if validation > 0 and job.model not in VALIDATED_MODELS:
        got = f"{validation} for model '{job.model}'"
        yield "validation_fraction in [split]", got, "0: it acts with models 'boosting' and 'splitnn' only"
    if validation > 0 and test + validation > 1 - 1e-9:  # 0.7 + 0.3 need not be 1
        got = f"{validation} beside test_fraction {test}"
        yield "validation_fraction in [split]", got, "less than 1 together: nothing would be left to train on"
    if epsilon is not None and job.task in ("regression", "count"):
        got = f"{epsilon} for task '{job.task}'"
        yield "label_dp_epsilon in [privacy]", got, "none: randomised response needs classes, remove the line"


def _training_at_odds(job: Job) -> Iterator[tuple[str, object, str]]:
    """What the model's own checks find: (where, got, expected) each."""
    if job.model == "boosting":
        yield from _stopping_at_odds(job, job.boosting.early_stopping_rounds)
        yield from _trees_at_odds(job)
    elif job.model == "splitnn":
        yield from _stopping_at_odds(job, job.splitnn.early_stopping_rounds)
        yield from network_at_odds(job)


def _stopping_at_odds(job: Job, rounds: int | None) -> Iterator[tuple[str, object, str]]:
    """Early stopping watches the loss of a validation part."""
    if rounds is not None and job.split.validation_fraction == 0:
        expected = "split.validation_fraction above 0, which holds rows out to watch"
        yield "early_stopping_rounds in [training]", f"{rounds} without a validation part", expected


def _trees_at_odds(job: Job) -> Iterator[tuple[str, object, str]]:
    """Keys of boosting that contradict each other or the task: (where, got, expected) each."""
    boosting, task = job.boosting, job.task
    if boosting.scale_pos_weight != 1 and task != "binary":
        got = f"{boosting.scale_pos_weight} for task '{task}'"
        yield "scale_pos_weight in [training]", got, "1: only binary tasks have a positive class"
    if boosting.scale_pos_weight != 1 and job.privacy.label_dp_epsilon is not None:
        got = f"{boosting.scale_pos_weight} beside privacy.label_dp_epsilon"
        yield "scale_pos_weight in [training]", got, "1: weights that depend on true labels would tell them"
    if boosting.max_cat_to_onehot is not None and task == "multiclass" and boosting.multi_output:
        got = f"{boosting.max_cat_to_onehot} for trees of all classes"
        expected = "none: sorted categories need one output, set multi_output = false or leave max_cat_to_onehot out"
        yield "max_cat_to_onehot in [training]", got, expected
    if not boosting.multi_output and task != "multiclass":
        yield "multi_output in [training]", f"false for task '{task}'", "true: it acts on task 'multiclass' only"
    yield from _sampling_at_odds(boosting)
    yield from _base_score_at_odds(boosting.base_score, task)


def _sampling_at_odds(boosting: Boosting) -> Iterator[tuple[str, object, str]]:
    """GOSS has two rates, of at most all rows, and replaces ``subsample``."""
    top, other = boosting.top_rate, boosting.other_rate
    if top is None and other is None:
        return
    if top is None or other is None:
        lacking, given = ("top_rate", "other_rate") if top is None else ("other_rate", "top_rate")
        yield f"{lacking} in [training]", f"none beside {given} {other or top}", "both, for GOSS, or neither"
    elif top + other > 1:
        yield "other_rate in [training]", f"{other} beside top_rate {top}", "at most 1 together"
    elif boosting.subsample < 1:
        expected = "1: GOSS (top_rate, other_rate) samples the rows already, use one of the two"
        yield "subsample in [training]", boosting.subsample, expected


def _base_score_at_odds(base_score: float | None, task: Task) -> Iterator[tuple[str, object, str]]:
    """The first prediction is one that the label's unit has."""
    if base_score is None:
        return
    good, expected = {
        "binary": (0 < base_score < 1, "a probability above 0 and below 1"),
        "multiclass": (False, "none: every class starts from its share of the labels, remove the line"),
        "count": (0 < base_score < math.inf, "a number above 0"),
        "regression": (math.isfinite(base_score), "a number"),
    }[task]
    if not good:
        yield "base_score in [training]", f"{base_score} for task '{task}'", expected


def _check_no_quadratic(training: Training, beside: str, file: str) -> None:
    """Options of the coordinator's protocol keep their defaults where it does not run."""
    for key, got, default in (
        ("newton_steps", training.newton_steps, 0),
        ("curvature", training.curvature, "mean"),
    ):
        if got != default:
            raise ConfigError(
                f"{key} in [training] of {file}, got {got!r} {beside}, expected {default!r}: it acts only where the "
                "coordinator holds the key (privacy.key_holder = 'coordinator'; logistic and linear)"
            )
