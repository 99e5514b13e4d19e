"""Train a split neural network whose parties' outputs and gradients are exchanged in the clear."""

from __future__ import annotations

from parties.wire import Active, Control, Coordinator, Message, Passive, Revealed


class Wire:
    """Every message of the protocol; nothing else can be sent."""

    outputs = Message(Passive, Active, Revealed, discloses="its bottom network's outputs for every row, in every epoch")
    gradients = Message(
        Active,
        Passive,
        Revealed,
        discloses="every row's gradient of the loss by these outputs, which tells of its label",
    )
    epoch = Message(Active, Passive, Revealed, discloses="which epochs were the best so far, and when training ends")
    proceed = Message(Active, Coordinator, Control)
    scored = Message(Passive, Active, Revealed, discloses="its bottom network's outputs for the scored rows")
