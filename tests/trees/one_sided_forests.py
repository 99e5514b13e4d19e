"""Federations of two for tests of one-sided boosting: members of the active party among all rows of a list."""

from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from parties.ledger import Ledger
from parties.link import COORDINATOR
from parties.local import run_local
from parties.policy import Guards, Policy
from parties.wire import Active, Coordinator, Passive
from tests.trees.forests import Forests, columns, make_frames, make_labels
from vfl import boosting_one_sided
from vfl.boosting_scoring_one_sided import score_as_active, score_as_passive
from vfl.job import Alignment
from vfl.terms import Terms
from vfl.trees.bins import fit_binning
from vfl.trees.grow import Listed
from vfl.trees.shuffle import tie_key

ROLES = {COORDINATOR: Coordinator, "bank": Active, "shop-1": Passive}


@dataclass
class OneSidedForests(Forests):
    """One problem: ``frames`` are the members' rows, ``listed`` the passive party's all, members at ``places``."""

    listed: Any = None
    places: Any = None

    @property
    def job(self):
        return msgspec.structs.replace(super().job, alignment=Alignment(one_sided=True))

    def binning(self, number):
        if number == 0:
            return super().binning(number)
        settings = self.boosting
        options = {"max_bin": settings.max_bin, "max_cat_to_onehot": settings.max_cat_to_onehot}
        return fit_binning(self.listed, columns(self.listed), **options)

    def parts(self):
        bank, shop = super().parts()
        codes = self.listed_codes()
        return [bank, replace(shop, listed=Listed(codes, tie_key(codes, self.seed)))]

    def listed_codes(self):
        return self.binning(1).transform(self.listed)[0]

    def terms(self):
        widths = {name: len(part.features) for name, part in zip(self.names, super().parts(), strict=True)}
        return Terms(self.job, "active", "", len(self.listed), self.outputs, widths, True, 0)

    def plays(self):
        terms, (bank, _) = self.terms(), super().parts()
        binning = self.binning(1)

        def active(endpoint):
            return boosting_one_sided.active(
                endpoint, terms, bank, self.places, self.objective(), self.labels(), self.limits, lambda *_: None
            )

        def passive(endpoint):
            codes = binning.transform(self.listed)[0]
            return boosting_one_sided.passive(
                endpoint, terms, binning.features, codes, self.limits, tell_columns=self.tell
            )

        return {
            COORDINATOR: lambda endpoint: boosting_one_sided.coordinator(endpoint, terms),
            "bank": active,
            "shop-1": passive,
        }

    def fit(self):
        self.ledgers = {name: Ledger() for name in ROLES}
        return run_local(
            self.plays(), roles=ROLES, ledgers=self.ledgers, observe=self.deliveries.append, frames=self.frames_sent
        )


def make_one_sided(task="binary", members=150, others=100, seed=0, classes=3, **options):
    """Members and other rows of the same kind, all in a random order."""
    whole = make_frames(members + others, seed=seed)
    places = np.random.default_rng(seed + 7).permutation(members + others)[:members]
    frames = [frame.iloc[places].reset_index(drop=True) for frame in whole]
    return OneSidedForests(
        task,
        frames,
        make_labels(task, frames, classes, seed),
        outputs=classes if task == "multiclass" else 1,
        listed=whole[1],
        places=places,
        **options,
    )


def score_one_sidedly(forests, fits, frame, listed, places, policy=None, deliveries=None):
    """Scores of new rows of the bank's at ``places`` of a new list of the shop's, over the local network."""
    terms = forests.terms()
    observe = (lambda _: None) if deliveries is None else deliveries.append

    def active(endpoint):
        features, codes = forests.binned(0, frame)
        return score_as_active(endpoint, terms, fits["bank"], features, codes, places, len(listed))

    def passive(endpoint):
        binning = forests.binning(1)
        codes = binning.transform(listed)[0]
        guards = Guards(enforce=True, small_data=True)
        splits = fits["shop-1"].splits
        score_as_passive(endpoint, terms, splits, binning.features, codes, guards, policy or Policy())

    plays = {COORDINATOR: lambda _: None, "bank": active, "shop-1": passive}
    ledgers = {name: Ledger() for name in ROLES}
    return run_local(plays, roles=ROLES, ledgers=ledgers, observe=observe)["bank"]
