"""Small federations for tests of boosting: mixed columns with missing cells, played over the local network."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from parties.ledger import Ledger
from parties.link import COORDINATOR
from parties.local import run_local
from parties.policy import Guards, Policy
from parties.wire import Active, Coordinator, Passive
from vfl import boosting
from vfl.boosting_scoring import score_as_active, score_as_passive
from vfl.job import Boosting, Job, Member, Privacy
from vfl.terms import Terms
from vfl.trees.bins import fit_binning
from vfl.trees.forest import predict_plain
from vfl.trees.grow import Limits, PlainPart
from vfl.trees.objective import make_objective
from vfl.trees.rounds import Labels, boost_plainly


def make_frames(rows, seed=0, parties=2, missing=0.1, columns=3):
    """One table per party: numbers with few and many values, missing cells, categories of two and of many values."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(parties):
        frame = pd.DataFrame({f"x{j}": rng.normal(size=rows) for j in range(columns)})
        frame["few"] = rng.integers(0, 4, rows).astype(float)
        frame["flag"] = (rng.random(rows) < 0.1).astype(float)
        frame["city"] = pd.Series(
            rng.choice(list("abcdefg"), rows, p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05]), dtype=object
        )
        frame["sex"] = pd.Series(rng.choice(["f", "m"], rows), dtype=object)
        frame.loc[rng.random(rows) < missing, "x0"] = np.nan
        frame.loc[rng.random(rows) < missing, "city"] = None
        frames.append(frame)
    return frames


def make_labels(task, frames, classes=3, seed=0):
    """Labels that depend on all parties' columns and on missing cells."""
    rng = np.random.default_rng(seed + 1)
    score = sum(
        np.sin(2 * frame["x1"]) + frame["x0"].fillna(1.5) * (1 + i) / 2 + frame["city"].isin(["a", "c"]) - 0.5
        for i, frame in enumerate(frames)
    ).to_numpy()
    score = score + 0.5 * rng.normal(size=len(score))
    if task == "binary":
        return (score > np.median(score)).astype(float)
    if task == "multiclass":
        return np.digitize(score, np.quantile(score, np.arange(1, classes) / classes)).astype(np.int64)
    if task == "count":
        return rng.poisson(np.exp(np.clip(score / 4, -3, 2))).astype(float)
    return 10 * score + 3


def columns(frame):
    """Kinds of a frame's columns."""
    return {name: "numeric" if frame[name].dtype == float else "categorical" for name in frame}


@dataclass
class Forests:
    """One problem, fitted jointly and by the reference on pooled columns."""

    task: str
    frames: list
    y: Any
    outputs: int = 1
    validation: int = 0
    weights: Any = None
    limits: Limits = Limits()
    signs: Any = None
    key_bits: int = 512
    seed: int = 0
    settings: dict = field(default_factory=dict)
    tell: bool = True
    deliveries: list = field(default_factory=list)
    frames_sent: list = field(default_factory=list)
    ledgers: dict = field(default_factory=dict)

    @property
    def names(self):
        return ["bank", *(f"shop-{i}" for i in range(1, len(self.frames)))]

    @property
    def boosting(self):
        return Boosting(**{"n_estimators": 3, "max_depth": 3, "max_bin": 16} | self.settings)

    @property
    def job(self):
        members = [Member(name=n, role="passive" if i else "active") for i, n in enumerate(self.names)]
        privacy = Privacy(key_bits=self.key_bits, insecure_test_mode=self.key_bits < 2048)
        return Job(
            name="test",
            model="boosting",
            task=self.task,
            seed=self.seed,
            boosting=self.boosting,
            privacy=privacy,
            parties=tuple(members),
        )

    @property
    def training(self):
        return len(self.y) - self.validation

    def binning(self, number):
        frame, settings = self.frames[number], self.boosting
        return fit_binning(
            frame.iloc[: self.training],
            columns(frame),
            max_bin=settings.max_bin,
            max_cat_to_onehot=settings.max_cat_to_onehot,
        )

    def binned(self, number, frame=None):
        binning = self.binning(number)
        return binning.features, binning.transform(self.frames[number] if frame is None else frame)[0]

    def objective(self):
        return make_objective(self.task, self.outputs, self.boosting.max_delta_step)

    def labels(self):
        return Labels(self.y, self.weights, self.training)

    def parts(self):
        parts, first = [], 0
        for number in range(len(self.frames)):
            features, codes = self.binned(number)
            limits = self.limits if number else Limits()
            parts.append(PlainPart(features, codes, first, limits, None if number else self.signs))
            first += len(features)
        return parts

    def reference(self):
        parts = self.parts()
        objective = self.objective()
        return boost_plainly(objective, self.labels(), self.boosting, self.seed, parts), parts

    def terms(self):
        widths = {name: len(part.features) for name, part in zip(self.names, self.parts(), strict=True)}
        return Terms(self.job, "active", "", self.training, self.outputs, widths, True, self.validation)

    def plays(self):
        terms, parts = self.terms(), self.parts()
        objective = self.objective()

        def active(endpoint):
            return boosting.active(endpoint, terms, parts[0], objective, self.labels(), lambda *_: None)

        def passive(endpoint):
            part = parts[self.names.index(endpoint.name)]
            return boosting.passive(endpoint, terms, part.features, part.codes, self.limits, tell_columns=self.tell)

        def coordinator(endpoint):
            return boosting.coordinator(endpoint, terms)

        return {COORDINATOR: coordinator, "bank": active} | dict.fromkeys(self.names[1:], passive)

    def fit(self):
        roles = {COORDINATOR: Coordinator, "bank": Active} | dict.fromkeys(self.names[1:], Passive)
        self.ledgers = {name: Ledger() for name in roles}
        return run_local(
            self.plays(), roles=roles, ledgers=self.ledgers, observe=self.deliveries.append, frames=self.frames_sent
        )

    def check(self):
        """Fit both ways and compare: structure, splits by owner, values, scores."""
        fits = self.fit()
        boosted, parts = self.reference()
        joint = fits["bank"].boosted
        assert len(joint.trees) == len(boosted.trees)
        for mine, theirs in zip(joint.trees, boosted.trees, strict=True):
            assert mine.owner.tolist() == theirs.owner.tolist()
            assert mine.left.tolist() == theirs.left.tolist()
            np.testing.assert_array_equal(mine.values, theirs.values)
            np.testing.assert_array_equal(mine.gain, theirs.gain)
            np.testing.assert_array_equal(mine.cover, theirs.cover)
            assert mine.output == theirs.output
        for name, part in zip(self.names, parts, strict=True):
            key = lambda split: (split.tree, split.node)  # noqa: E731
            assert sorted(fits[name].splits, key=key) == sorted(part.splits, key=key), name
            assert {(split.tree, split.node, split.depth) for split in part.splits} <= tree_depths(joint.trees)
        np.testing.assert_array_equal(joint.start, boosted.start)
        assert joint.losses == boosted.losses
        assert joint.validation_losses == boosted.validation_losses
        assert (joint.rounds, joint.warnings) == (boosted.rounds, boosted.warnings)
        return fits, boosted, parts

    def predict(self, fits, frames=None):
        """Scores of the rows fitted, or of others, with everything in one place."""
        return predict_plain(
            fits["bank"].boosted.trees,
            [fits[name].splits for name in self.names],
            self.coded(frames),
            fits["bank"].boosted.start,
        )

    def coded(self, frames=None):
        return [self.binned(i, None if frames is None else frames[i]) for i in range(len(self.frames))]

    def score(self, fits, frames=None, deliveries=None):
        """The same scores over the local network."""
        terms, parts = self.terms(), dict(zip(self.names, self.coded(frames), strict=True))

        def active(endpoint):
            return score_as_active(endpoint, terms, fits["bank"], *parts["bank"])

        def passive(endpoint):
            guards = Guards(enforce=True, small_data=True)
            score_as_passive(endpoint, terms, fits[endpoint.name].splits, *parts[endpoint.name], guards, Policy())

        roles = {COORDINATOR: Coordinator, "bank": Active} | dict.fromkeys(self.names[1:], Passive)
        plays = {COORDINATOR: lambda _: None, "bank": active} | dict.fromkeys(self.names[1:], passive)
        observe = (lambda _: None) if deliveries is None else deliveries.append
        return run_local(plays, roles=roles, ledgers={name: Ledger() for name in roles}, observe=observe)["bank"]


def tree_depths(trees):
    """(tree, node, depth) of every node."""
    found = set()
    for number, tree in enumerate(trees):
        depth = {0: 0}
        for node in range(len(tree.owner)):
            if tree.owner[node] >= 0:
                depth[int(tree.left[node])] = depth[int(tree.left[node]) + 1] = depth[node] + 1
        found |= {(number, node, at) for node, at in depth.items()}
    return found


def splits_by_owner(boosted):
    """How many splits each party has, by its number."""
    owner = np.concatenate([tree.owner for tree in boosted.trees])
    return {number: int((owner == number).sum()) for number in np.unique(owner[owner >= 0]).tolist()}
