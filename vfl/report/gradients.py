"""What the gradients of mode split tell of labels: the attack on them, where the job asks for it, and their noise."""

from __future__ import annotations

from dataclasses import dataclass

from vfl.events import LabelInference
from vfl.report.headline import Cell, Dot
from vfl.report.run_directory import RunDirectory
from vfl.report.words import fixed, significant

_GUESS = 0.5


@dataclass(frozen=True, slots=True)
class Gradients:
    """The section of the page: what crossed, how the attack fared on a scale from guessing to all labels, the noise."""

    verdict: str
    dots: list[Dot]
    noise: str


def gradients(run: RunDirectory) -> Gradients | None:
    """What gradients in the clear tell; None where none crossed."""
    if run.report.evaluates or not run.in_the_clear:
        return None
    attacks = run.report.training.label_inference
    return Gradients(_verdict(run, attacks), _dots(attacks), _noise(run))


def _verdict(run: RunDirectory, attacks: list[LabelInference]) -> str:
    """How well labels can be inferred, as far as this page's owner knows."""
    if not attacks and run.report.task != "binary":
        return "How well can be tried for two classes only (label_inference)."
    if not attacks:
        asked = "The job did not ask for it to be tried (label_inference)."
        known = next((kept.job.splitnn.label_inference for kept in run.kept.values()), False)
        return "The active party's report says how well." if known else asked
    best = max(max(attack.norm_auc, attack.direction_auc) for attack in attacks)
    able = "tell almost all labels" if best >= 0.9 else "tell many labels"
    able = able if best >= 0.6 else "hardly do better than guess"
    return (
        "Tried on the gradients as they were sent, ranking rows by their size and by their direction: a passive party "
        f"could {able}. The best AUC is {significant(best)}; {_GUESS} is guessing, 1 knows every label."
    )


def _dots(attacks: list[LabelInference]) -> list[Dot]:
    """Both scorings of every epoch attacked, as bars that begin at guessing."""
    lines = [
        (f"by {what}", f"{how}, epoch {attack.epoch}", value)
        for attack in attacks
        for what, how, value in (
            ("size", "norm of a row's gradient", attack.norm_auc),
            ("direction", "angle to a positive row's gradient", attack.direction_auc),
        )
    ]
    return [
        Dot("alone", label, note, Cell(fixed(value, 3)), _place(value), 0.0, _place(value))
        for label, note, value in lines
    ]


def _place(auc: float) -> float:
    """Percent of the way from guessing to 1."""
    return round(100 * min(1.0, max(0.0, (auc - _GUESS) / (1 - _GUESS))), 2)


def _noise(run: RunDirectory) -> str:
    """What the noise on the gradients amounts to."""
    noise = run.report.training.gradient_noise
    if noise is not None:
        bound = "no bound" if noise.epsilon is None else f"ε = {significant(noise.epsilon)}"
        return (
            "Each row's gradient was cut to a largest norm and had Gaussian noise added. All gradients of one row over "
            "the whole training are so differentially private, given all other rows, with "
            f"{bound} at δ = {significant(noise.delta, 1)}. The trace that its label leaves "
            "in later models is not covered."
        )
    if any(kept.job.splitnn.gradient_noise for kept in run.kept.values()):
        return "Each row's gradient was cut to a largest norm and had Gaussian noise added."
    return "No noise was added to the gradients."
