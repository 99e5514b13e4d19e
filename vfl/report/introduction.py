"""The page's first sentences: what was trained, by whom, on what, and what that let whom see."""

from __future__ import annotations

from vfl.report.run_directory import RunDirectory
from vfl.report.words import MODELS, RULES, listed, percent, plural, round_word

_NUMBERS = {2: "Two", 3: "Three", 4: "Four", 5: "Five", 6: "Six", 7: "Seven", 8: "Eight"}
_TASKS = {
    "binary": "to tell two classes apart",
    "multiclass": "to tell several classes apart",
    "regression": "to predict a number",
    "count": "to predict a count",
}
_NAMED = 6  # silos; of more their number is enough


def introduction(run: RunDirectory) -> str:
    """What was trained, by whom, on what."""
    report = run.report
    model = MODELS.get(report.model, report.model)
    if report.evaluates:
        return (
            f"A joint model of {listed(list(run.holders))}, trained before ({model}), scored "
            f"{plural(report.rows['test'] or 0, 'new row')} whose labels {run.label_holder} has."
        )
    if run.horizontal:
        return _horizontal(run)
    count = len(run.holders)
    passive = listed([holder_text(run, name) for name in run.passive])
    holders = f"{'holds' if len(run.passive) == 1 else 'hold'} further columns about the same people or things"
    common = report.alignment.intersection
    if common is None:
        shared = f"{run.label_holder} alone knows which rows they have in common"
    else:
        shared = f"They have {plural(common, 'row')} in common"
    return (
        f"{_NUMBERS.get(count, str(count))} parties trained one {model} {_TASKS[report.task]}: "
        f"{holder_text(run, run.label_holder)}, which holds the labels, and {passive}, which {holders}. "
        f"{shared}; {_kept(run)}."
    )


def holder_text(run: RunDirectory, name: str) -> str:
    """A party with its silos, e.g. "hospitals (3 silos: north, south and west)"."""
    silos = [party.name.partition(".")[2] for party in run.holders[name] if party.holder]
    if not silos:
        return name
    named = f": {listed(silos)}" if len(silos) <= _NAMED else ""
    return f"{name} ({plural(len(silos), 'silo')}{named})"


def _horizontal(run: RunDirectory) -> str:
    """The same where silos of one holder trained among themselves."""
    report, silos = run.report, run.holders[run.label_holder]
    names = [party.name.partition(".")[2] for party in silos]
    who = f"{_NUMBERS.get(len(silos), str(len(silos)))} silos of {run.label_holder}"
    who += f" ({listed(names)})" if len(silos) <= _NAMED else ""
    model = "neural network" if report.model == "splitnn" else MODELS.get(report.model, report.model)
    rule = "" if report.training.aggregation is None else RULES[report.training.aggregation.rule][1]
    return (
        f"{who}, which have the same columns of different rows, trained one {model} {_TASKS[report.task]}. {rule} The "
        "coordinator learnt sums over silos, and so the joint model, but no silo's own part; no row left its silo."
    )


def _kept(run: RunDirectory) -> str:
    """What became of rows: of what guards say that more can be worked out than was sent, the page says so first."""
    if run.in_the_clear:
        return (
            "no column left its owner, but what its own network makes of every row did, readable to "
            f"{run.label_holder}, and so did the gradients that came back"
        )
    exposed = exposure(run)
    if exposed == "all":
        return (
            f"no row was sent, but {run.active.name} learnt so many sums over the others' columns that their rows can "
            "be worked out, as a guard says below"
        )
    if exposed == "half":
        return (
            f"no row left its owner, though {run.active.name} learnt more than half as many sums over the others' "
            "columns as it takes to work rows out, as a guard says below"
        )
    if run.has_silos:
        return "no row left its owner, and nobody but a silo knows which of them are its own"
    return "no row left its owner"


def exposure(run: RunDirectory) -> str:
    """What guards say that the active party can work out of the others' rows: "all", "half" of it, or "" for nothing.

    A budget that is spent with every party's consent stops nothing on one machine, nor are scores rounded there: the
    rounds then say how much was opened, where the guard speaks of half only.
    """
    views = [line for line in run.report.warnings if line.startswith("guard:") and "first-layer views: " in line]
    scores = [line for line in run.report.warnings if line.startswith("guard:") and "score budget: " in line]
    if any("more than half" not in line for line in (*views, *scores)):
        return "all"
    kept = next(iter(run.kept.values()), None)
    if scores and kept is not None and run.role is None and not kept.job.privacy.enforce:
        columns = sum(kept.columns[silos[0]] for silos in kept.job.passive_holders.values())
        if run.report.training.rounds * kept.outputs >= columns:
            return "all"
    return "half" if views or scores else ""


def training_line(run: RunDirectory) -> str:
    """How the training went, in one sentence or two."""
    report = run.report
    verb, what = "grew" if report.model == "boosting" else "took", round_word(report.model, rounds=run.in_rounds)
    end = "" if report.training.converged else ", and stopped before it had converged"
    if report.evaluates:
        return f"Of the run that trained the model: {plural(report.training.rounds, what)}{end}; {_key(run, 'key')}."
    held, trained = report.rows["test"], report.rows["train"]
    course = f"Training {verb} {plural(report.training.rounds, what)}{end}; {_key(run, 'Paillier key')}."
    if held is None or trained is None:
        return course
    share = f" ({percent(held / sum(rows or 0 for rows in report.rows.values()), 0)})" if held else ""
    return f"{course} {plural(held, 'row')}{share} were held out for the test figures."


def _key(run: RunDirectory, what: str) -> str:
    """Who had the key, or that nobody needed one."""
    if run.horizontal or run.in_the_clear:
        if what == "key":
            return "no key was needed"
        return "nothing was encrypted with Paillier" if run.in_the_clear else "updates were added under masks"
    holder = "the active party" if run.report.training.key_holder == "active" else "the coordinator"
    if run.has_silos and holder == "the active party":
        holder = run.active.name
    return f"{holder} held the {what}"
