"""The rounds of boosting at the active party: gradients, rows drawn, trees, scores, early stopping.

It is the same whether trees are grown on one's own columns, on pooled data (the reference) or with passive parties:
`grow` is told by the parts that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vfl.job import Boosting
from vfl.trees.forest import Tree, add_tree
from vfl.trees.grow import PlainPart, TreeTask, grow
from vfl.trees.objective import Objective
from vfl.trees.sampling import draw_columns, draw_goss, draw_rows, fix_gradients
from vfl.trees.splits import Floats, Integers, make_rules

Progress = Callable[[int, float | None], None]


@dataclass(frozen=True)
class Boosted:
    """The trees of a training, as the active party has them.

    Parameters
    ----------
    start : ndarray of shape (outputs,), float64
        Score of every row before the first tree.
    losses, validation_losses : tuples of float
        Mean loss at the start and after every round.
    """

    start: Floats
    trees: tuple[Tree, ...] = field(repr=False)
    losses: tuple[float, ...]
    validation_losses: tuple[float, ...]
    rounds: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Labels:
    """The active party's labels and weights, training rows first, then the validation part.

    Parameters
    ----------
    y : ndarray of shape (n,), or (n, classes) where labels are randomised
    weights : ndarray of shape (n,), float64, or None
    training : int
        Training rows.
    """

    y: Floats | Integers = field(repr=False)
    weights: Floats | None = field(repr=False)
    training: int

    @property
    def validation(self) -> int:
        """Rows of the validation part."""
        return len(self.y) - self.training


def boost(
    objective: Objective,
    labels: Labels,
    settings: Boosting,
    seed: int,
    columns: int,
    grow_tree: Callable[[int, TreeTask], tuple[Tree, Integers]],
    progress: Progress,
) -> Boosted:
    """Train.

    Parameters
    ----------
    columns : int
        All parties' columns, among which ``colsample_bytree`` draws.
    grow_tree : callable
        Grows a tree of the round given; see `vfl.trees.grow.grow`.
    """
    n = labels.training
    y, weights = labels.y[:n], None if labels.weights is None else labels.weights[:n]
    start = objective.start(y, weights, settings.base_score)
    scores = np.tile(start, (len(labels.y), 1))
    rules = make_rules(settings, objective.max_delta_step)
    trees: list[Tree] = []
    ends: list[int] = [0]
    losses = [objective.loss(scores[:n], y, weights)]
    watched = [_validation_loss(objective, labels, scores)]
    for round_number in range(settings.n_estimators):
        g, h = objective.gradients(scores[:n], y)
        if weights is not None:
            g, h = g * weights[:, None], h * weights[:, None]
        rows, factors = _drawn(settings, g, y, seed, round_number)
        g, h = g[rows] * factors[:, None], h[rows] * factors[:, None]
        together = settings.multi_output or objective.outputs == 1
        for output in [-1] if together else range(objective.outputs):
            own = slice(None) if together else slice(output, output + 1)
            task = TreeTask(
                number=len(trees),
                output=output,
                gradients=fix_gradients(g[:, own], h[:, own], rows),
                columns=draw_columns(columns, settings.colsample_bytree, seed, len(trees)),
                rules=rules,
                max_depth=settings.max_depth,
                rows=len(labels.y),
                learning_rate=settings.learning_rate,
            )
            tree, leaves = grow_tree(round_number, task)
            trees.append(tree)
            add_tree(scores, tree, leaves)
        ends.append(len(trees))
        losses.append(objective.loss(scores[:n], y, weights))
        watched.append(_validation_loss(objective, labels, scores))
        progress(round_number + 1, losses[-1])
        if _enough(settings, watched):
            break
    return _best(settings, start, trees, ends, losses, watched, labels)


def _drawn(
    settings: Boosting, g: Floats, y: Floats | Integers, seed: int, round_number: int
) -> tuple[Integers, Floats]:
    """Rows of a round, and the factors of their gradients."""
    if settings.top_rate is not None and settings.other_rate is not None:
        size = np.abs(g).sum(axis=1)
        return draw_goss(size, settings.top_rate, settings.other_rate, np.asarray(y, np.float64), seed, round_number)
    rows = draw_rows(len(g), settings.subsample, seed, round_number)
    return rows, np.ones(len(rows))


def _validation_loss(objective: Objective, labels: Labels, scores: Floats) -> float:
    """Mean loss of the validation part; 0 where there is none."""
    n = labels.training
    if not labels.validation:
        return 0.0
    return objective.loss(scores[n:], labels.y[n:], None if labels.weights is None else labels.weights[n:])


def _enough(settings: Boosting, watched: Sequence[float]) -> bool:
    """Whether the validation loss has not fallen for ``early_stopping_rounds``."""
    patience = settings.early_stopping_rounds
    return patience is not None and len(watched) - 1 - int(np.argmin(watched[1:])) - 1 >= patience


def _best(
    settings: Boosting,
    start: Floats,
    trees: Sequence[Tree],
    ends: Sequence[int],
    losses: Sequence[float],
    watched: Sequence[float],
    labels: Labels,
) -> Boosted:
    """Keep all rounds, or with early stopping those up to the best one."""
    done = len(ends) - 1
    kept = done if settings.early_stopping_rounds is None else int(np.argmin(watched[1:])) + 1
    stopped = f"training stopped early after {done} rounds: the first {kept}, of least validation loss, are kept"
    return Boosted(
        start=start,
        trees=tuple(trees[: ends[kept]]),
        losses=tuple(losses[: kept + 1]),
        validation_losses=tuple(watched[: kept + 1]) if labels.validation else (),
        rounds=kept,
        warnings=(stopped,) if kept < done else (),
    )


def boost_plainly(
    objective: Objective,
    labels: Labels,
    settings: Boosting,
    seed: int,
    parts: Sequence[PlainPart],
    progress: Progress = lambda *_: None,
) -> Boosted:
    """Train on columns that are all in one place: the reference, and the active party alone.

    The parts, the active party's first, keep their splits; those of trees beyond the best round are dropped.
    """
    columns = sum(len(part.features) for part in parts)

    def grow_tree(round_number: int, task: TreeTask) -> tuple[Tree, Integers]:
        alone = settings.first_tree_active_only and round_number == 0
        return grow(task, parts[:1] if alone else parts)

    boosted = boost(objective, labels, settings, seed, columns, grow_tree, progress)
    for part in parts:
        part.splits[:] = [split for split in part.splits if split.tree < len(boosted.trees)]
    return boosted
