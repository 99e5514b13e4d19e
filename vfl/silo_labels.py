"""Labels that several silos hold: the same classes in the same order everywhere, though none may have all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parties.columns import EncodedLabels, encode_known_labels, encode_labels
from parties.errors import DataError
from parties.spec import PartySpec
from vfl.parts import Parts
from vfl.siblings import Siblings

MOST_CLASSES = 1000
"""Different labels that a silo tells the others of; with more of them the column is no class."""


def silo_labels(labels: Sequence[str], parts: Parts, task: str, spec: PartySpec, siblings: Siblings) -> EncodedLabels:
    """Encode a silo's labels by the classes of all silos of its party.

    Parameters
    ----------
    labels : sequence of str
        Of the silo's own rows, the training rows' first; there may be none.
    parts : Parts
        How many of them are for what.
    task : {"binary", "multiclass", "regression", "count"}

    Raises
    ------
    DataError
        As `parties.columns.encode_labels`, over all silos' labels; or a class is in one part of the rows only. All
        silos raise the same.
    """
    holder = spec.holder
    if task in ("regression", "count"):
        return EncodedLabels(encode_known_labels(labels, task, [], spec.name), [])
    different = sorted({label.strip() for label in labels})
    if len(different) > MOST_CLASSES:
        raise DataError(
            f"party {spec.name}: the label has {len(different):,} different values, expected at most {MOST_CLASSES:,} "
            f"classes for task {task}; correct the column or choose another task"
        )
    classes = encode_labels(siblings.texts(different), task, spec.positive_text, holder).classes
    values = encode_known_labels(labels, task, classes, spec.name)
    codes = np.arange(len(classes))
    held = [
        np.sum(values[rows][:, None] == codes, axis=0)
        for rows in (slice(parts.train), slice(parts.train + parts.validation, None))
    ]
    training, test = siblings.words("classes", np.stack(held).astype(np.int64))
    for part, counts in (("training", training), ("test", test)):
        absent = int((counts == 0).sum())
        if absent and (part == "training" or counts.any()):
            raise DataError(
                f"party {holder}: {absent} of {len(classes)} classes have no row among the {int(counts.sum()):,} "
                f"{part} rows; expected every class in both parts; change test_fraction or seed, or merge rare classes"
            )
    return EncodedLabels(values, classes)
