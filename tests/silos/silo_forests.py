"""Small boosted federations whose parties are made of silos, played over the local network without alignment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from parties.ledger import Ledger
from parties.link import COORDINATOR, Delivery, Endpoint
from parties.local import run_local
from parties.policy import Guards, Policy
from parties.spec import holder_of
from parties.wire import Role
from tests.silos.federations import deal
from tests.trees.forests import Forests, make_frames, make_labels
from vfl import boosting_silos
from vfl.boosting_silos_scoring import Held, score_as_coordinator, score_as_labelled, score_as_passive
from vfl.job import Job, Member, Privacy
from vfl.play import role_types
from vfl.siblings import siblings_of
from vfl.silo_objective import spread
from vfl.terms import Terms
from vfl.trees.grow import PlainPart
from vfl.trees.rounds import Labels

OUTPUTS = {"binary": 1, "regression": 1, "count": 1, "multiclass": 3}


@dataclass
class SiloForests(Forests):
    """A problem of `Forests` whose parties' rows are dealt out to silos; ``cut[i]`` silos of party i, 0: none."""

    cut: tuple[int, ...] = ()

    @property
    def members(self) -> dict[str, list[str]]:
        """Members by holder, in job order."""
        return {
            holder: [f"{holder}.s{i}" for i in range(count)] if count else [holder]
            for holder, count in zip(self.names, self.cut, strict=True)
        }

    @property
    def job(self) -> Job:
        privacy = Privacy(key_bits=self.key_bits, insecure_test_mode=self.key_bits < 2048)
        parties = [
            Member(name=name, role="active" if holder == self.names[0] else "passive")
            for holder, silos in self.members.items()
            for name in silos
        ]
        return Job(
            name="test",
            model="boosting",
            task=self.task,
            seed=self.seed,
            boosting=self.boosting,
            privacy=privacy,
            parties=tuple(parties),
        )

    def terms(self) -> Terms:
        widths = [len(part.features) for part in self.parts()]
        columns = {name: width for width, silos in zip(widths, self.members.values(), strict=True) for name in silos}
        return Terms(self.job, "active", "", self.training, self.outputs, columns, True, self.validation)

    def places(self, rows: int | None = None) -> dict[str, Any]:
        """Rows of each member, ascending."""
        count = len(self.y) if rows is None else rows
        found = {}
        for number, silos in enumerate(self.members.values()):
            owner = deal(count, len(silos), np.random.default_rng([self.seed, number]))
            found.update({name: np.flatnonzero(owner == i) for i, name in enumerate(silos)})
        return found

    @property
    def roles(self) -> dict[str, type[Role]]:
        return role_types(self.job)

    def plays(self) -> dict[str, Callable[[Endpoint], Any]]:
        terms, parts, places = self.terms(), self.parts(), self.places()

        def labelled(endpoint: Endpoint) -> Any:
            own = places[endpoint.name]
            part = PlainPart(parts[0].features, parts[0].codes[own], signs=parts[0].signs)
            y = spread(np.asarray(self.y)[own], own, len(self.y))
            weights = None
            if self.weights is not None:
                weights = np.ones(len(self.y))
                weights[own] = self.weights[own]
            labels = Labels(y, weights, self.training)
            siblings = siblings_of(endpoint, "silos")
            objective = self.objective()
            return boosting_silos.labelled(endpoint, terms, part, own, objective, labels, siblings, lambda *_: None)

        def passive(endpoint: Endpoint) -> Any:
            part = parts[self.names.index(holder_of(endpoint.name))]
            own = places[endpoint.name]
            siblings = siblings_of(endpoint, "silos")
            return boosting_silos.passive(
                endpoint, terms, part.features, part.codes[own], own, self.limits, siblings, tell_columns=self.tell
            )

        def coordinator(endpoint: Endpoint) -> Any:
            return boosting_silos.coordinator(endpoint, terms)

        found: dict[str, Callable[[Endpoint], Any]] = {}
        for name in self.roles:
            if name == COORDINATOR:
                found[name] = coordinator
            else:
                found[name] = labelled if holder_of(name) == self.names[0] else passive
        return found

    def fit(self) -> dict[str, Any]:
        """Fits by member, and by holder what its first silo has."""
        self.ledgers = {name: Ledger() for name in self.roles}
        fits = run_local(
            self.plays(),
            roles=self.roles,
            ledgers=self.ledgers,
            observe=self.deliveries.append,
            frames=self.frames_sent,
        )
        return {**fits, **{holder: fits[silos[0]] for holder, silos in self.members.items()}}

    def score(self, fits: Any, frames: Any = None, deliveries: Any = None, guards: Any = None) -> dict[str, Any]:
        """Scores of rows, those fitted or others, over the local network: each label silo's own."""
        terms, coded = self.terms(), dict(zip(self.names, self.coded(frames), strict=True))
        rows = len(coded["bank"][1])
        places = self.places(rows)

        def held(endpoint: Endpoint) -> Held:
            features, codes = coded[holder_of(endpoint.name)]
            own = places[endpoint.name]
            return Held(features, codes[own], own, rows)

        def labelled(endpoint: Endpoint) -> Any:
            fit, siblings = fits[endpoint.name], siblings_of(endpoint, "scoring")
            boosted = fit.boosted
            return score_as_labelled(
                endpoint, terms, boosted.trees, fit.splits, boosted.start, held(endpoint), siblings
            )

        def passive(endpoint: Endpoint) -> Any:
            own = guards or Guards(enforce=True, small_data=True)
            score_as_passive(endpoint, terms, fits[endpoint.name].splits, held(endpoint), own, Policy())

        plays: dict[str, Callable[[Endpoint], Any]] = {}
        for name in self.roles:
            if name == COORDINATOR:
                plays[name] = lambda endpoint: score_as_coordinator(endpoint, terms, rows)
            else:
                plays[name] = labelled if holder_of(name) == self.names[0] else passive
        observe = (lambda _: None) if deliveries is None else deliveries.append
        found = run_local(plays, roles=self.roles, ledgers={name: Ledger() for name in self.roles}, observe=observe)
        return {name: found[name] for name in self.members["bank"]}

    def received(self, *names: str, to: str | None = None) -> list[Delivery]:
        """Messages of these names, or all of the protocols."""
        return [
            d
            for d in self.deliveries
            if (not names or d.message in names) and to in (None, d.receiver) and not d.message.startswith("greeting.")
        ]


def silo_forests(task: str = "binary", cut: tuple[int, ...] = (2, 3), rows: int = 120, **more: Any) -> SiloForests:
    """One problem; the label holder has ``cut[0]`` silos."""
    frames = make_frames(rows, seed=more.get("seed", 0), parties=len(cut), **more.pop("frames", {}))
    y = make_labels(task, frames, seed=more.get("seed", 0))
    return SiloForests(task, frames, y, outputs=OUTPUTS[task], cut=cut, **more)
