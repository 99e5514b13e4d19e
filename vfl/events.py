"""What a role tells whoever watches it: events on the way, and its result at the end."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

Metrics = dict[str, float | None]
Intervals = dict[str, tuple[float, float]]
PHASES = (
    *("starting", "aligning", "preparing", "training", "evaluating", "scoring", "saving"),
    *("comparing", "reporting"),  # on one machine, when all roles have ended
)


class Event(msgspec.Struct, frozen=True):
    """What a role is doing, for the progress display: a phase, or a round of the training with its loss.

    In other phases that are cut into parts ``round`` parts are done, of ``parts``.
    """

    role: str
    phase: str
    round: int = 0
    loss: float | None = None
    waiting: str = ""
    parts: int = 0


Report = Callable[[Event], None]


class FeatureImportance(msgspec.Struct, frozen=True):
    """How much one column matters in a boosted model: sums over the splits on it; its owner alone sees its name."""

    party: str
    feature: str
    gain: float
    cover: float
    count: int


class Comparison(msgspec.Struct, frozen=True):
    """The joint model beside another one on the same test rows: joint minus other, with its 95 % interval.

    ``p_value`` is that of no difference; ``test`` names the test, "delong" or "bootstrap".
    """

    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    test: str


class LabelInference(msgspec.Struct, frozen=True):
    """How well a passive party could guess binary labels from the gradients that one epoch sent it, as AUCs.

    By the norm of a row's gradient, and by its direction; 0.5 is guessing. ``epoch`` counts from 1.
    """

    norm_auc: float
    direction_auc: float
    epoch: int


class LeftOut(msgspec.Struct, frozen=True):
    """A silo that a round of averaging went on without, and why: "lost", "late" or "malformed"; rounds from 1 on."""

    silo: str
    round: int
    why: str


class RoleResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a role knows at its end and may write into its own report.

    ``sizes`` are the lengths of all parties' lists of ids, as all know them; ``ids`` are a party's own valid ids, less
    than that where lists are padded.
    ``intersection``, ``n_train`` and ``n_test`` are None at the passive party of a one-sided alignment, which is told
    none of them.
    ``spent`` are seconds of its main thread by what it did then: "kernel", "wire", "waiting", "python".
    ``confidence`` and ``comparison`` are those of ``joint`` and ``active_only``, as in the report.
    ``label_inference`` and ``gradient_epsilon`` are the active party's in mode split, where the job asks for them: the
    epochs attacked, and the epsilon of the noise on all gradients of a row.
    ``left_out`` is the coordinator's where silos average their models; ``dp_epsilon`` a silo's own epsilon, where its
    gradients are noisy, for ``privacy.dp_delta``.
    """

    role: str
    sizes: dict[str, int]
    intersection: int | None
    protocol: str
    n_train: int | None
    n_test: int | None
    key_holder: str
    key_holder_reason: str
    rounds: int
    converged: bool
    losses: list[float]
    warnings: list[str]
    seconds: dict[str, float]
    csv_rows: int = 0
    ids: int = 0
    features: int = 0
    joint: Metrics | None = None
    active_only: Metrics | None = None
    n_validation: int = 0
    validation_losses: list[float] = []
    importance: list[FeatureImportance] = []
    spent: dict[str, float] = {}
    confidence: dict[str, Intervals] = {}
    comparison: dict[str, Comparison] = {}
    label_inference: list[LabelInference] = []
    gradient_epsilon: float | None = None
    left_out: list[LeftOut] = []
    dp_epsilon: float | None = None


class Played(msgspec.Struct, frozen=True):
    """What all roles of a run together did; ``lost`` are silos that it went on without, and why, in a line each."""

    results: dict[str, RoleResult]
    encryptions: int
    decryptions: int
    kernel: str
    lost: dict[str, str] = {}
