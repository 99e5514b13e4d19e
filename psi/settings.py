"""What a job says about alignment, and what follows from it once the sizes of all lists are known.

>>> choose_protocol("auto", {"bank": 5_000, "shop": 900_000}), choose_protocol("auto", {"bank": 5_000, "shop": 9_000})
('kkrt', 'ecdh')
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from parties.errors import ConfigError
from parties.spec import holder_of
from psi.ids import Duplicates
from psi.verdict import Limit

Protocol = Literal["ecdh", "kkrt", "mpsi", "server-aided"]
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
Fact = bool | int | float | str | None

KKRT_FROM = 200_000
"""With two parties, and more ids than this at one of them, ``auto`` is kkrt."""
BUCKET_IDS = 2_000_000


@dataclass(frozen=True)
class AlignmentSettings:
    """What the job says about alignment; equal at all roles.

    Parameters
    ----------
    seed : int
        Decides the order of the rows.
    protocol : str
        "auto", or one of `PROTOCOLS`.
    min_intersection : int
        With fewer common ids nobody learns which they are.
    tell_small_count : bool
        Tell the parties how many ids they share even when that is below ``min_intersection``: only where all CSVs
        lie on one machine anyway.
    pad_to : int, optional
        Every list is padded with dummies to so many ids, so that nobody learns how many ids another party has.
    one_sided : bool
        The active party alone learns which ids are common; for one passive party.
    cardinality : bool
        How many ids are common is told, and nobody learns which.
    bucket_ids : int
        Longer lists than twice this are aligned bucket by bucket, each of about so many ids.
    duplicates : {"refuse", "first", "drop"}
        Ids that two silos of one party have: an error, the first silo's, or nobody's.
    """

    seed: int = 0
    protocol: str = "auto"
    min_intersection: int = 100
    tell_small_count: bool = False
    pad_to: int | None = None
    one_sided: bool = False
    cardinality: bool = False
    bucket_ids: int = BUCKET_IDS
    duplicates: Duplicates = "refuse"

    def __post_init__(self) -> None:
        if self.protocol not in ("auto", *PROTOCOLS):
            names = ", ".join(f"'{name}'" for name in PROTOCOLS)
            raise ConfigError(f"[alignment] protocol: got '{self.protocol}', expected 'auto', {names}")
        for name, value in (("min_intersection", self.min_intersection), ("bucket_ids", self.bucket_ids)):
            if value < 1:
                raise ConfigError(f"[alignment] {name}: got {value}, expected 1 or more")
        if self.pad_to is not None and self.pad_to < 1:
            raise ConfigError(f"[alignment] pad_to: got {self.pad_to}, expected 1 or more")

    @property
    def limit(self) -> Limit:
        """The verdict's share of the settings."""
        return Limit(self.min_intersection, self.tell_small_count)

    def facts(self) -> dict[str, Fact]:
        """What all roles must agree on, by the name in which a difference is reported."""
        return {
            "seed": str(self.seed),
            "protocol": self.protocol,
            "min_intersection": self.min_intersection,
            "tell_small_count": self.tell_small_count,
            "pad_to": self.pad_to,
            "one_sided": self.one_sided,
            "cardinality": self.cardinality,
            "bucket_ids": self.bucket_ids,
            "duplicates": self.duplicates,
        }


def check_parties(
    protocol: str, one_sided: bool, parties: int, where: str = "[alignment]", *, silos: bool = False
) -> None:
    """Refuse settings that do not work with so many lists, or with those of silos among them.

    Raises
    ------
    ConfigError
    """
    if silos and protocol in ("kkrt", "mpsi"):
        raise ConfigError(
            f"protocol in {where}, got '{protocol}' for a party made of silos, expected 'auto', 'ecdh' or "
            "'server-aided', which can put the lists of its silos together"
        )
    if silos and one_sided:
        raise ConfigError(
            f"one_sided in {where}, got true for a party made of silos, expected false: each silo has to learn which "
            "of its rows are common"
        )
    if protocol == "kkrt" and parties != 2:
        raise ConfigError(
            f"protocol in {where}, got 'kkrt' for {parties} parties, expected two parties, or 'mpsi' or 'ecdh' for more"
        )
    if one_sided and parties != 2:
        raise ConfigError(
            f"one_sided in {where}, got true for {parties - 1} passive parties, expected one passive party: the rows "
            "of several cannot be matched unless each learns which are common; set it to false"
        )
    if one_sided and protocol == "mpsi":
        raise ConfigError(
            f"one_sided in {where}, got true with protocol 'mpsi', expected 'auto', 'ecdh', 'kkrt' or 'server-aided'"
        )


def possible_protocols(protocol: str, parties: int, *, silos: bool = False) -> tuple[Protocol, ...]:
    """What may run with so many lists, as far as it is known before the sizes are.

    >>> possible_protocols("auto", 2), possible_protocols("auto", 3)
    (('ecdh', 'kkrt'), ('ecdh',))
    """
    if protocol == "auto":
        return ("ecdh", "kkrt") if parties == 2 and not silos else ("ecdh",)
    return (choose_protocol(protocol, {}),)


def choose_protocol(protocol: str, sizes: Mapping[str, int]) -> Protocol:
    """The protocol that runs, never "auto"; ``sizes`` are public. With a party made of silos "auto" is ecdh."""
    if protocol == "auto":
        few = len(sizes) == 2 and not any(holder_of(name) != name for name in sizes)
        return "kkrt" if few and max(sizes.values()) > KKRT_FROM else "ecdh"
    return next(name for name in PROTOCOLS if name == protocol)
