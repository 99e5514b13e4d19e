"""Silos in words, for the page and for the terminal: who was left out when, and what noise promises."""

from __future__ import annotations

import math

from vfl.report.averaged import AveragingPart, PrivacyPart
from vfl.report.words import listed, percent, significant

_STRENGTHS = {0.75: "a strong promise", 0.96: "a moderate promise", 0.995: "a weak promise", 1.0: "hardly a promise"}
"""What a promise is called by the largest share of right guesses that it leaves: epsilon up to 1, 3 and 5, and more."""
_REASONS = {"late": "late", "lost": "lost", "malformed": "left out for an update that was malformed"}


def averaging_lines(averaged: AveragingPart) -> list[str]:
    """What is to be said of silos that averaged: rounds without one, and noise."""
    return [*left_out(averaged), *([] if averaged.dp is None else [promise(averaged.dp)])]


def left_out(averaged: AveragingPart) -> list[str]:
    """Rounds without a silo, by silo and reason; and who did not come to the end."""
    rounds: dict[tuple[str, str], list[int]] = {}
    for one in averaged.left_out:
        rounds.setdefault((one.silo, one.why), []).append(one.round)
    lines = [
        f"{silo} was {_REASONS.get(why, why)}: the model went on without it in {_numbers(numbers)}."
        for (silo, why), numbers in rounds.items()
    ]
    lost = [
        f"{silo} did not come to the end: it has no part of the model, and no figures here." for silo in averaged.lost
    ]
    return [*lines, *lost]


def _numbers(rounds: list[int]) -> str:
    """Rounds in words, runs of them shortened.

    >>> _numbers([7]), _numbers([3, 4, 5, 9])
    ('round 7', 'rounds 3 to 5 and 9')
    """
    spans: list[list[int]] = []
    for number in sorted(set(rounds)):
        if spans and number == spans[-1][-1] + 1:
            spans[-1].append(number)
        else:
            spans.append([number])
    named = [f"{span[0]} to {span[-1]}" if len(span) > 2 else listed([str(one) for one in span]) for span in spans]
    return f"{'round' if rounds == [rounds[0]] * len(rounds) else 'rounds'} {listed(named)}"


def promise(dp: PrivacyPart) -> str:
    """What a reader who knows no formulas may take from epsilon."""
    if dp.epsilon is None:
        return "Gradients were cut to a largest norm and had Gaussian noise added; this page cannot state its epsilon."
    right = _guessed(dp.epsilon, dp.delta)
    strength = next(word for share, word in _STRENGTHS.items() if right <= share)
    return (
        f"Noise hides whether any single row took part in the training (ε = {significant(dp.epsilon)}, {strength}): "
        f"whoever guesses it from what was learnt, where tossing a coin is right in 50 %, is right in at most "
        f"{percent(right, _decimals(dp.epsilon))}."
    )


def _guessed(epsilon: float, delta: float) -> float:
    """Largest share of right guesses whether a row took part, both being as likely (Kairouz et al. 2015).

    >>> round(_guessed(1.0, 1e-5), 3), round(_guessed(0.0, 0.0), 3)
    (0.731, 0.5)
    """
    odds = math.exp(-epsilon)
    return (1 + delta * odds) / (1 + odds)


def _decimals(epsilon: float) -> int:
    """So many that a promise beyond 99.5 % does not read 100 %."""
    return 0 if epsilon < 4 else min(6, math.ceil(epsilon / math.log(10)))
