"""Words for every common row, added up under masks, of which each silo can open its own rows' only.

The passive parties' words are summed by the coordinator under masks that cancel over them and all silos of the label
holder (`vfl.masking`). What stays on the sum are the label holder's masks::

    silo a                        silo b of the label holder
      lifted  {masks}  ------>      a's masks of all rows but a's own; random words in the places of these
              <------  lifted       and the other way round

So at its own rows a silo has everybody's masks, and takes them off. At a row of silo b it lacks b's, and cannot tell
that from what it was shown: masks and random words look alike. Where the label holder has one silo nothing is sent.

Leakage
-------
silos of the label holder : nothing beyond the sums of their own rows
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from parties.link import Endpoint, Link
from parties.wire import DataParty, Masked, Message, Words
from vfl.masking import Masks, check_words

Integers = NDArray[np.int64]


class Wire:
    """What silos of the label holder show each other."""

    lifted = Message(DataParty, DataParty, Masked)


@dataclass(frozen=True)
class RowMasks:
    """A label silo's side.

    Parameters
    ----------
    masks : Masks
        Streams with all other silos of the label holder and all passive ones.
    others : list of Link
        To the other silos of the label holder.
    """

    masks: Masks = field(repr=False)
    others: Sequence[Link[DataParty, DataParty]]

    def open(self, label: str, total: Masked, places: Integers, rows: int, outputs: int, sender: str) -> Integers:
        """The sums of the own rows.

        Parameters
        ----------
        label : str
            That of the passive parties' words; used once.
        total : Masked
            Their sum over the passive parties, of rows * outputs words.
        places : ndarray of shape (own,), int64
            The own ones among the rows.

        Returns
        -------
        ndarray of shape (own, outputs), int64

        Raises
        ------
        RemoteProtocolError
            Words of another shape.
        """
        count = rows * outputs
        check_words(total, count, 1, sender)
        whole = self._lift(label, places, rows, outputs)
        return (total.body[:, 0] + whole).view(np.int64).reshape(rows, outputs)[places]

    def _lift(self, label: str, places: Integers, rows: int, outputs: int) -> Words:
        """The masks of all label silos at the own rows; at others' rows they stay incomplete."""
        whole = self.masks.words(label, rows * outputs)
        shown = whole.copy().reshape(rows, outputs)
        shown[places] = np.frombuffer(os.urandom(8 * len(places) * outputs), np.uint64).reshape(-1, outputs)
        for link in self.others:
            link.send(Wire.lifted, Masked(np.ascontiguousarray(shown.reshape(-1, 1))))
        for link in self.others:
            theirs = link.recv(Wire.lifted)
            check_words(theirs, rows * outputs, 1, link.peer)
            whole = whole + theirs.body[:, 0]
        return whole


def row_masks(endpoint: Endpoint, labelled: Sequence[str], masks: Masks) -> RowMasks:
    """A label silo's side; ``labelled`` are all silos of the label holder."""
    others = [endpoint.link(DataParty, DataParty, name) for name in labelled if name != endpoint.name]
    return RowMasks(masks, others)
