"""Vertical federated learning: several companies train one model on the columns each of them keeps."""

__version__ = "0.1.0"
