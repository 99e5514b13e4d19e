"""A split neural network on the vehicle scenario from Python, with layers of one's own above the shared one.

Run it from the project's root, with torch installed (``pip install 'vfl[nn]'``):
``.venv/bin/python scenarios/splitnn_from_python.py``
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pandas as pd
import torch

from vfl import Federation, Party, SplitClassifier, load_model

FOLDER = Path(__file__).parent / "vehicle"
UNITS, CLASSES = 16, 4


class Top(torch.nn.Module):
    """What the workshop puts on the first layer that both parties hold: a block with a way around it."""

    def __init__(self) -> None:
        super().__init__()
        self.block = torch.nn.Sequential(torch.nn.Linear(UNITS, 32), torch.nn.SiLU(), torch.nn.Linear(32, UNITS))
        self.last = torch.nn.Linear(UNITS, CLASSES)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """From the first layer's sums, (rows, UNITS), to (rows, CLASSES)."""
        start = torch.tanh(z)
        scores: torch.Tensor = self.last(start + self.block(start))
        return scores


def main() -> None:
    federation = Federation(
        Party("workshop", FOLDER / "workshop.csv", id="vehicle", label="model"),
        Party("camera", FOLDER / "camera.csv", id="silhouette"),
    )
    torch.manual_seed(7)  # a module of one's own comes with its first weights
    network = SplitClassifier(
        top=Top(), units=UNITS, batch_size=32, epochs=20, learning_rate=0.01, early_stopping_rounds=5
    )
    model = federation.fit(network, validation_fraction=0.1, test_fraction=0.3, seed=7, progress=True)
    print(f"\n{model.n_iter_} epochs, loss from {model.loss_curve_[0]:.3f} to {model.loss_curve_[-1]:.3f}")
    print(model.evaluate().to_frame().round(4).to_string())
    weights = sum(parameter.numel() for parameter in model.network_.parameters())
    print(f"The workshop's own layers have {weights:,} weights")

    with tempfile.TemporaryDirectory() as folder:
        model.save(f"{folder}/run")
        again = load_model(f"{folder}/run", modules={"workshop": Top()})  # the weights are the trained ones
    rows = {name: pd.read_csv(FOLDER / f"{name}.csv", dtype=str) for name in ("workshop", "camera")}
    predictions = again.predictions(rows)
    print(f"{len(predictions.index)} of {len(rows['workshop'])} vehicles scored again")
    print(predictions.to_frame().head(3).round(3).to_string())


if __name__ == "__main__":
    main()
