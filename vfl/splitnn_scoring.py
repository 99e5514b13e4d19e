"""First-layer outputs of rows that took no part in training: the forward pass of `vfl.splitnn` once more."""

from __future__ import annotations

from parties.wire import Active, Coordinator, Encrypted, Masked, Message, PaillierKey, Passive


class Wire:
    """Messages of scoring."""

    key = Message(Active, Passive, PaillierKey)
    key_copy = Message(Active, Coordinator, PaillierKey)
    weights = Message(Active, Passive, Encrypted)
    products = Message(Passive, Coordinator, Encrypted)
    all_products = Message(Coordinator, Active, Encrypted)
    rests = Message(Passive, Coordinator, Masked)
    sums = Message(
        Coordinator,
        Active,
        Masked,
        discloses="the scored rows' first-layer outputs, summed over the passive parties",
    )
