"""The rounds of boosting at the active party: gradients, rows drawn, trees, scores, early stopping.

It is the same whether trees are grown on one's own columns, on pooled data (the reference) or with passive parties:
`grow` is told by the parts that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from parties.checkpoint import Keeper, Snapshot
from vfl.job import Boosting
from vfl.trees.forest import Split, Tree, add_tree
from vfl.trees.grow import PlainPart, TreeTask, grow
from vfl.trees.kept import restore_splits, restore_trees, splits_to_arrays, trees_to_arrays
from vfl.trees.objective import Objective
from vfl.trees.sampling import FixedGradients, draw_columns, draw_goss, draw_rows, fix_gradients
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


@dataclass(slots=True)
class _State:
    """What the rounds so far have come to; ``ends`` counts the trees at the start and after every round."""

    scores: Floats
    losses: list[float]
    watched: list[float]
    trees: list[Tree] = field(default_factory=list)
    ends: list[int] = field(default_factory=lambda: [0])

    @property
    def rounds(self) -> int:
        return len(self.ends) - 1


def boost(
    objective: Objective,
    labels: Labels,
    settings: Boosting,
    seed: int,
    columns: int,
    grow_tree: Callable[[int, TreeTask], tuple[Tree, Integers]],
    progress: Progress,
    keeper: Keeper,
    splits: list[Split],
    fix: Callable[[Floats, Floats, Integers], FixedGradients] = fix_gradients,
) -> Boosted:
    """Train, or go on after the rounds that the keeper restores.

    Parameters
    ----------
    columns : int
        All parties' columns, among which ``colsample_bytree`` draws.
    grow_tree : callable
        Grows a tree of the round given; see `vfl.trees.grow.grow`.
    splits : list of Split
        Where the splits of the active party's own columns are kept as trees are grown.
    fix : callable
        Rounds the gradients of rows drawn to integers; several silos do it with the same scales.
    """
    n = labels.training
    y, weights = labels.y[:n], None if labels.weights is None else labels.weights[:n]
    start = objective.start(y, weights, settings.base_score)
    rules = make_rules(settings, objective.max_delta_step)
    kept = keeper.trained()
    at = _begin(objective, labels, start) if kept is None else _restore(kept, splits)
    while at.rounds < settings.n_estimators and not _enough(settings, at.watched):
        g, h = objective.gradients(at.scores[:n], y)
        if weights is not None:
            g, h = g * weights[:, None], h * weights[:, None]
        rows, factors = _drawn(settings, g, y, seed, at.rounds)
        g, h = g[rows] * factors[:, None], h[rows] * factors[:, None]
        together = settings.multi_output or objective.outputs == 1
        for output in [-1] if together else range(objective.outputs):
            own = slice(None) if together else slice(output, output + 1)
            task = TreeTask(
                number=len(at.trees),
                output=output,
                gradients=fix(g[:, own], h[:, own], rows),
                columns=draw_columns(columns, settings.colsample_bytree, seed, len(at.trees)),
                rules=rules,
                max_depth=settings.max_depth,
                rows=len(labels.y),
                learning_rate=settings.learning_rate,
            )
            tree, leaves = grow_tree(at.rounds, task)
            at.trees.append(tree)
            add_tree(at.scores, tree, leaves)
        at.ends.append(len(at.trees))
        at.losses.append(objective.loss(at.scores[:n], y, weights))
        at.watched.append(_validation_loss(objective, labels, at.scores))
        _save(keeper, at, splits)
        progress(at.rounds, at.losses[-1])
    return _best(settings, start, at, labels)


def _begin(objective: Objective, labels: Labels, start: Floats) -> _State:
    n, weights = labels.training, labels.weights
    scores = np.tile(start, (len(labels.y), 1))
    loss = objective.loss(scores[:n], labels.y[:n], None if weights is None else weights[:n])
    return _State(scores, [loss], [_validation_loss(objective, labels, scores)])


def _save(keeper: Keeper, at: _State, splits: Sequence[Split]) -> None:
    numbers = {"scores": at.scores, "losses": np.array(at.losses), "watched": np.array(at.watched)}
    ends = {"ends": np.array(at.ends, dtype=np.int64)}
    keeper.save_round(at.rounds, {}, {**numbers, **ends, **trees_to_arrays(at.trees), **splits_to_arrays(splits)})


def _restore(kept: Snapshot, splits: list[Split]) -> _State:
    splits[:] = restore_splits(kept)
    losses, watched = kept.floats("losses").tolist(), kept.floats("watched").tolist()
    return _State(kept.floats("scores"), losses, watched, restore_trees(kept), kept.integers("ends").tolist())


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
    patience, rounds = settings.early_stopping_rounds, len(watched) - 1
    return patience is not None and rounds > 0 and rounds - int(np.argmin(watched[1:])) - 1 >= patience


def _best(
    settings: Boosting,
    start: Floats,
    at: _State,
    labels: Labels,
) -> Boosted:
    """Keep all rounds, or with early stopping those up to the best one."""
    best = at.rounds if settings.early_stopping_rounds is None else int(np.argmin(at.watched[1:])) + 1
    stopped = f"training stopped early after {at.rounds} rounds: the first {best}, of least validation loss, are kept"
    return Boosted(
        start=start,
        trees=tuple(at.trees[: at.ends[best]]),
        losses=tuple(at.losses[: best + 1]),
        validation_losses=tuple(at.watched[: best + 1]) if labels.validation else (),
        rounds=best,
        warnings=(stopped,) if best < at.rounds else (),
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

    boosted = boost(objective, labels, settings, seed, columns, grow_tree, progress, Keeper(), [])
    for part in parts:
        part.splits[:] = [split for split in part.splits if split.tree < len(boosted.trees)]
    return boosted
