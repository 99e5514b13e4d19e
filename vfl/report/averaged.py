"""What ``report.json`` says of silos that averaged their models: by which rule, without whom, and how noisy."""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from parties.link import COORDINATOR
from vfl.events import LeftOut, RoleResult
from vfl.job import Job


class PrivacyPart(msgspec.Struct, frozen=True):
    """Differential privacy of a row's part in the whole training, by silo.

    ``epsilon`` is the largest of the silos', null where whoever writes this cannot state one; ``noise`` is what the job
    gave, null where it gave an epsilon.
    """

    kind: str
    epsilon: float | None
    delta: float
    clip: float
    noise: float | None
    by_silo: dict[str, float | None]


class AveragingPart(msgspec.Struct, frozen=True, omit_defaults=True):
    """How silos without a passive party trained together.

    Attributes
    ----------
    rule : str
        "fedsgd", "fedavg", "weighted" or "simple"; ``by_layer`` has those of layers that have another.
    silos : int
        How many there are; ``least``: with how many a round goes on, 0 where it takes all.
    left_out : list of LeftOut
        Rounds that went on without a silo; ``lost`` are silos that did not come to the end.
    """

    rule: str
    rounds: int
    local_epochs: int
    silos: int
    client_fraction: float
    server_optimizer: str
    proximal: float
    least: int
    left_out: list[LeftOut]
    lost: list[str]
    dp: PrivacyPart | None
    by_layer: dict[str, str] = {}


def averaging_part(job: Job, results: Mapping[str, RoleResult], rounds: int) -> AveragingPart | None:
    """What the results at hand say of it, all roles' or a role's own; None where there is a passive party."""
    if not job.horizontal:
        return None
    lines, hub = job.averaging, results.get(COORDINATOR)
    told = [hub] if hub is not None else list(results.values())
    return AveragingPart(
        rule=lines.aggregation,
        rounds=rounds,
        local_epochs=lines.local_epochs if lines.aggregation != "fedsgd" else 1,
        silos=len(job.labelled),
        client_fraction=lines.client_fraction,
        server_optimizer=lines.server_optimizer,
        proximal=lines.proximal,
        least=lines.min_silos or 0,
        left_out=[one for result in told for one in result.left_out],
        lost=[name for name in job.labelled if name not in results] if hub is not None and len(results) > 1 else [],
        dp=_privacy(job, results),
        by_layer=dict(lines.aggregation_by_layer),
    )


def _privacy(job: Job, results: Mapping[str, RoleResult]) -> PrivacyPart | None:
    if job.privacy.dp == "none":
        return None
    known = {name: results[name].dp_epsilon for name in job.labelled if name in results}
    finite = {name: None if value is None or not math.isfinite(value) else value for name, value in known.items()}
    bounds = [value for value in finite.values() if value is not None]
    return PrivacyPart(
        kind=job.privacy.dp,
        epsilon=max(bounds) if bounds and len(bounds) == len(finite) else None,
        delta=job.privacy.dp_delta,
        clip=job.privacy.dp_clip,
        noise=job.privacy.dp_noise,
        by_silo=finite,
    )
