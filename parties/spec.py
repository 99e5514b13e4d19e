"""One party as a scenario file or its own file writes it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from parties.errors import ConfigError
from parties.policy import Policy

_WORD = r"[a-z0-9][a-z0-9_-]{0,63}"
SiloName = Annotated[str, Meta(pattern=rf"^{_WORD}\Z", description="Name of the silo, unique in its party.")]
PartyName = Annotated[
    str,
    Meta(
        pattern=rf"^{_WORD}(\.{_WORD})?\Z",
        description="Unique name of the party; 'coordinator' is taken. A silo is called PARTY.SILO.",
    ),
]
PartyRole = Literal["active", "passive"]
Column = Annotated[str, Meta(min_length=1)]


class PartySpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One party: its part, its CSV, which columns mean what, and what it consents to.

    `check_spec` holds the rules that bind several keys.
    """

    name: PartyName
    role: Annotated[PartyRole, Meta(description="The active party has the label; passive parties have features only.")]
    data: Annotated[str, Meta(min_length=1, description="Its CSV, relative to this file.")]
    id: Annotated[
        Column | Annotated[tuple[Column, ...], Meta(min_length=1)] | None,
        Meta(
            description="Id column, or a list of columns for a composite key; none only where all parties are silos of "
            "one holder, which align nothing."
        ),
    ] = None
    label: Annotated[Column | None, Meta(description="Label column; active party only, and needed there.")] = None
    positive: Annotated[
        str | int | float | bool | None,
        Meta(description="Positive class of a binary task, compared as text; none: the greater; active party only."),
    ] = None
    sample_weight: Annotated[Column | None, Meta(description="Column of row weights; active party only.")] = None
    features: Annotated[
        tuple[Column, ...] | None, Meta(description="Columns to use; none: every column but id, label and weight.")
    ] = None
    drop: Annotated[tuple[Column, ...], Meta(description="Columns to leave out.")] = ()
    categorical: Annotated[tuple[Column, ...], Meta(description="Columns to treat as categories.")] = ()
    monotone_constraints: Annotated[
        dict[Column, Literal[-1, 0, 1]],
        Meta(
            description="Boosting: columns whose predictions may only rise (1) or fall (-1), such as "
            "`{ income = 1 }`; active party only, for only it sees the sums."
        ),
    ] = msgspec.field(default_factory=dict)
    missing_values: Annotated[
        tuple[str, ...], Meta(description="Further cell texts that mean missing, beside empty, NA, NaN, null, N/A.")
    ] = ()
    encoding: Annotated[str, Meta(min_length=1, description="Text encoding of the CSV.")] = "utf-8"
    unknown_category: Annotated[
        Literal["refuse", "ignore"],
        Meta(
            description="A category of new data that the training rows lack; kept in the model shard for scoring. "
            "Within a run the test rows' unknown categories are all zeros, with a warning."
        ),
    ] = "refuse"
    categories: Annotated[
        dict[Column, Annotated[tuple[str, ...], Meta(min_length=1)]],
        Meta(
            description='Silos: categories of text columns, such as `{ sex = ["f", "m"] }`; of columns not listed '
            "the silos of a holder tell each other theirs."
        ),
    ] = msgspec.field(default_factory=dict)
    silo_weight: Annotated[
        Annotated[float, Meta(gt=0, le=1e6)] | None,
        Meta(description="Silos with aggregation 'weighted': how much the silo counts; none: as many rows as it has."),
    ] = None
    policy: Annotated[Policy, Meta(description="What the party consents to.")] = msgspec.field(default_factory=Policy)

    @property
    def holder(self) -> str:
        """The party that a silo belongs to; of any other party its own name."""
        return holder_of(self.name)

    @property
    def id_columns(self) -> tuple[str, ...]:
        """The id columns in order, one or several; none where nothing is aligned."""
        if self.id is None:
            return ()
        return (self.id,) if isinstance(self.id, str) else self.id

    @property
    def positive_text(self) -> str | None:
        """The positive class as text: ``1`` is "1", ``true`` is "true"."""
        if isinstance(self.positive, bool):
            return "true" if self.positive else "false"
        return None if self.positive is None else str(self.positive)


def holder_of(name: str) -> str:
    """The party that a silo called PARTY.SILO belongs to; of any other party its own name.

    >>> holder_of("hospitals.north"), holder_of("bank")
    ('hospitals', 'bank')
    """
    return name.partition(".")[0]


def check_spec(spec: PartySpec, file: str = "its file", *, labelled: bool = True) -> None:
    """Check what binds several keys of one party.

    Parameters
    ----------
    labelled : bool
        The active party must have a label; not where ids are aligned and nothing is trained.

    Raises
    ------
    ConfigError
        A key that its role forbids or lacks, a column with two meanings, an unknown encoding.
    """
    where = f"party '{spec.name}' of {file}"
    if spec.name == "coordinator":
        raise ConfigError(f"name of {where}, got 'coordinator', expected another one: the coordinator has it")
    if "\0" in spec.data:
        raise ConfigError(f"data in {where}, got a path with a zero byte, expected the path of a CSV")
    if isinstance(spec.positive, int) and abs(spec.positive) >= 2**63:
        raise ConfigError(f"positive in {where}, got a number beyond 64 bits, expected it as text, in quotes")
    if labelled and spec.role == "active" and spec.label is None:
        raise ConfigError(f"label missing in active {where}, got none, expected the name of its label column")
    for key in ("label", "positive", "sample_weight"):
        if spec.role == "passive" and getattr(spec, key) is not None:
            raise ConfigError(f"{key} in passive {where}, expected on the active party only, remove the line")
    _check_columns(spec, where)
    _check_monotone(spec, where)
    try:
        "a".encode(spec.encoding)
    except (LookupError, ValueError):
        got = repr(spec.encoding[:60])
        raise ConfigError(f"encoding in {where}, got {got}, expected one such as 'utf-8' or 'cp1252'") from None


def _check_columns(spec: PartySpec, where: str) -> None:
    """Refuse a column that the file gives two meanings."""
    named = list(spec.id_columns)
    named += [column for column in (spec.label, spec.sample_weight) if column is not None]
    twice = [column for column in named if named.count(column) > 1]
    if twice:
        raise ConfigError(
            f"column {twice[0]!r} in {where} is named twice among id, label, sample_weight, expected once"
        )
    for key in ("features", "drop", "categorical"):
        columns: tuple[str, ...] = getattr(spec, key) or ()
        if both := sorted(set(columns) & set(named)):
            raise ConfigError(f"{key} in {where}, got {both[0]!r}, which is its id, label or weight, remove it there")
    if both := sorted(set(spec.features or ()) & set(spec.drop)):
        raise ConfigError(f"column {both[0]!r} in {where} is in features and in drop, expected in one of them")
    if spec.features is not None and (lost := sorted(set(spec.categorical) - set(spec.features))):
        raise ConfigError(f"categorical in {where}, got {lost[0]!r}, expected columns that features lists")


def _check_monotone(spec: PartySpec, where: str) -> None:
    """Constraints are the active party's, on numeric columns that it uses."""
    for column in spec.monotone_constraints:
        if spec.role == "passive":
            raise ConfigError(
                f"monotone_constraints in passive {where}, got {column!r}, expected on the active party only, remove "
                "the line: the order of a passive party's candidates is not known to the active party, which alone "
                "sees the sums"
            )
        if column in (*spec.id_columns, spec.label, spec.sample_weight):
            other = "its id, label or weight"
        elif column in spec.drop:
            other = "in drop"
        elif spec.features is not None and column not in spec.features:
            other = "not in features"
        elif column in spec.categorical:
            other = "in categorical, where values have no order"
        else:
            continue
        raise ConfigError(
            f"monotone_constraints in {where}, got {column!r}, which is {other}, expected numeric columns to use, "
            "remove it there"
        )
