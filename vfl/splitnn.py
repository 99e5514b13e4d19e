"""Train a split neural network whose first layer all parties hold together, under encryption."""

from __future__ import annotations

from parties.wire import Active, Control, Coordinator, Encrypted, Masked, Message, PaillierKey, Passive, Revealed


class Wire:
    """Every message of the protocol; nothing else can be sent."""

    key = Message(Active, Passive, PaillierKey)
    key_copy = Message(Active, Coordinator, PaillierKey)
    share = Message(Passive, Active, Masked)
    weights = Message(Active, Passive, Encrypted)
    products = Message(Passive, Coordinator, Encrypted)
    all_products = Message(Coordinator, Active, Encrypted)
    rests = Message(Passive, Coordinator, Masked)
    sums = Message(
        Coordinator,
        Active,
        Masked,
        discloses="the rows' first-layer outputs, summed over the passive parties, in every epoch",
    )
    gradients = Message(Active, Coordinator, Encrypted)
    gradients_copy = Message(Coordinator, Passive, Encrypted)
    updates = Message(Passive, Active, Encrypted)
    epoch = Message(
        Active,
        Passive,
        Revealed,
        discloses="which epochs were the best so far, and when training ends",
    )
    proceed = Message(Active, Coordinator, Control)
