"""Averaging rules side by side on the three hospitals' data: ``python side_by_side.py``.

Beside them the model of all rows in one place, and each hospital's own, all judged on the same test rows of all three.
"""

from __future__ import annotations

from pathlib import Path

from vfl import Federation, LogisticRegression, Party, Silo

HERE = Path(__file__).parent
RULES = {  # two passes over each hospital's rows per round, where models are averaged
    "fedsgd": {},
    "fedavg": {"rounds": 40, "local_epochs": 2},
    "weighted": {"rounds": 40, "local_epochs": 2},
    "simple": {"rounds": 40, "local_epochs": 2},
}
WEIGHTS = {"university": 3.0, "county": 2.0, "rural": 1.0}
SHOWN = ("auc", "accuracy", "recall", "log_loss")


def hospitals(rule: str) -> Federation:
    """The federation; declared weights count with the rule of that name only."""
    silos = {
        name: Silo(HERE / f"{name}.csv", weight=weight if rule == "weighted" else None)
        for name, weight in WEIGHTS.items()
    }
    return Federation(Party("hospitals", silos=silos, id="patient", label="diagnosis", positive="malignant"))


def main() -> None:
    lines = {}
    for rule, options in RULES.items():
        model = hospitals(rule).fit(LogisticRegression(l2=0.01, aggregation=rule, **options), test_fraction=0.3, seed=1)
        report = model.report
        lines[f"{rule}, {report.training.rounds} rounds"] = report.metrics["joint"]
    lines["pooled"] = report.metrics["pooled"]
    lines |= {f"{name.partition('.')[2]} alone": metrics for name, metrics in report.alone.items()}
    print(f"{'':24}" + "".join(f"{name:>10}" for name in SHOWN))
    for name, metrics in lines.items():
        print(f"{name:24}" + "".join(f"{metrics[key]:10.4f}" for key in SHOWN))


if __name__ == "__main__":
    main()
