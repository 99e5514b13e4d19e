"""The terminal: progress and tables at any width, help with examples that parse, and what a shell offers on Tab."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.runs.companies import VFL, Companies, make_companies
from tests.runs.conftest import Command
from vfl.cli import app
from vfl.commands import completing
from vfl.display import Display, show_metrics, show_summary
from vfl.events import PHASES, Event
from vfl.job import Boosting, Job, Member, ScenarioFile, SplitNN
from vfl.progress import TITLES, Pace, Phases
from vfl.report.summary import AlignmentPart, CryptoPart, PartyPart, RunReport, TrainingPart

ROOT = Path(__file__).parents[2]
GROUP = typer.main.get_command(app)
COMMANDS = list(GROUP.commands)
MEMBERS = (Member(name="bank", role="active"), Member(name="shop", role="passive"))
GLM = Job(name="trial", task="binary", model="logistic", parties=MEMBERS)
TREES = Job(name="trial", task="binary", model="boosting", boosting=Boosting(n_estimators=40), parties=MEMBERS)
ESCAPE = "\x1b"


class Screen(io.StringIO):
    """A file that says of itself that it is a terminal."""

    def isatty(self) -> bool:
        return True


def report_of(**changes: object) -> RunReport:
    """What a run with intervals reports; its last warning is wider than any terminal."""
    auc = {"auc": 0.75, "ks": 0.5}
    report = RunReport(
        name="trial",
        task="binary",
        model="logistic",
        version="1",
        seed=0,
        parties=[PartyPart("bank", "active", 400, 3), PartyPart("shop", "passive", 390, 2)],
        alignment=AlignmentPart("ecdh", {"bank": 400, "shop": 390}, 370, 1.0, 1000),
        rows={"train": 259, "test": 111},
        training=TrainingPart("active", "the job says so", 1, True, [0.6, 0.5], 1.0, 1000, 10, []),
        crypto=CryptoPart("paillier", 512, "gmpy2", 1, 1),
        metrics={"active_only": auc, "joint": auc, "pooled": auc},
        seconds={"total": 2.0, "alignment": 1.0, "training": 1.0, "evaluation": 0.1},
        disclosures=[],
        warnings=["guard: " + "between companies this would be refused " * 5],
        confidence={"joint": {"auc": (0.7, 0.8), "ks": (0.4, 0.6)}},
    )
    return msgspec.structs.replace(report, **changes)


def terminal(width: int, **environment: str) -> tuple[Console, Screen]:
    screen = Screen()
    return Console(file=screen, width=width, _environ={"TERM": "xterm-256color"} | environment), screen


def plain(text: str) -> list[str]:
    """Lines without colours and movements."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).splitlines()


def frame(phases: Phases, console: Console) -> list[str]:
    """What the bars show at the moment."""
    with console.capture() as capture:
        console.print(phases.bars)
    return [line.rstrip() for line in plain(capture.get())]


def train(phases: Phases, rounds: int, loss: float | None = 0.123456) -> None:
    phases.finish()
    phases.begin("training")
    for number in range(1, rounds + 1):
        phases._pace.begun -= 10
        phases.advance(number, loss)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_buckets_of_an_alignment_have_a_bar_of_their_own(width: int) -> None:
    console, _ = terminal(width)
    phases = Phases(TREES, console)
    phases.finish()
    phases.begin("aligning")
    for number in range(1, 4):
        phases._pace.begun -= 10
        phases.advance(number, None, 25)
    lines = frame(phases, console)
    assert max(map(len, lines)) <= width
    assert ("bucket 3 of 25" in lines[1]) == (width >= 60)
    assert ("left" in lines[1]) == (width >= 60)
    phases.finish()
    assert "3 buckets" in frame(phases, console)[1]
    phases.begin("training")
    phases.advance(1, None)
    assert ("tree 1 of" in frame(phases, console)[2]) == (width >= 60)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("job", [GLM, TREES], ids=["glm", "trees"])
def test_progress_fits_the_terminal(job: Job, width: int) -> None:
    console, _ = terminal(width)
    phases = Phases(job, console)
    train(phases, 7)
    lines = frame(phases, console)
    assert len(lines) == 2 and max(map(len, lines)) <= width
    assert [line.split()[1] for line in lines] == ["Starting", "Training"]


@pytest.mark.parametrize(("width", "loss", "bar"), [(60, False, False), (80, True, True), (120, True, True)])
def test_what_does_not_fit_is_left_out(width: int, loss: bool, bar: bool) -> None:
    console, _ = terminal(width)
    phases = Phases(GLM, console)
    train(phases, 7)
    line = frame(phases, console)[-1]
    assert "round 7" in line and "left" in line
    assert ("loss 0.123456" in line) is loss
    assert ("━" in line) is bar


def test_trees_are_counted_to_their_number() -> None:
    console, _ = terminal(100)
    phases = Phases(TREES, console)
    train(phases, 10)
    assert "tree 10 of 40, loss 0.123456" in frame(phases, console)[-1]
    phases.finish()
    assert "10 trees, loss 0.123456" in frame(phases, console)[-1]
    classes = msgspec.structs.replace(TREES, task="multiclass", boosting=Boosting(n_estimators=40, multi_output=False))
    phases = Phases(classes, console)
    train(phases, 10)
    assert "round 10 of 40" in frame(phases, console)[-1], "a round grows a tree per class"


def test_lines_keep_their_places() -> None:
    console, _ = terminal(100)
    phases = Phases(GLM, console)
    columns = set()
    for phase in PHASES[1:]:
        phases.finish()
        phases.begin(phase)
        columns |= {re.search(r" s\b", line).end() for line in frame(phases, console)}
    assert len(columns) == 1, "seconds stand one below the other, whatever the titles"


def test_every_phase_has_a_title() -> None:
    assert list(TITLES) == list(PHASES)


def test_rounds_of_slower_roles_do_not_count_back() -> None:
    console, _ = terminal(100)
    phases = Phases(GLM, console)
    train(phases, 3)
    phases.advance(2, 0.9)
    assert "round 3, loss 0.123456" in frame(phases, console)[-1]


def test_an_error_is_marked_where_it_happened() -> None:
    console, screen = terminal(80)
    with pytest.raises(ZeroDivisionError), Display(GLM, console) as display:
        display.report(Event("bank", "training"))
        display.report(Event("bank", "training", 1, 0.5))
        raise ZeroDivisionError
    last = [line.strip() for line in plain(screen.getvalue()) if line.strip()][-2:]
    assert [line.split()[:2] for line in last] == [["✓", "Starting"], ["✗", "Training"]]
    assert last[-1].endswith("round 1, loss 0.5"), "there is no time left of it"


def test_others_save_while_the_active_party_evaluates() -> None:
    out = io.StringIO()
    with Display(GLM, Console(file=out, _environ={})) as display:
        for event in (Event("bank", "evaluating"), Event("shop", "saving"), Event("coordinator", "comparing")):
            display.report(event)
    titles = [line.partition(":")[0] for line in out.getvalue().splitlines()]
    assert titles == ["Starting the roles", "Evaluating", "Comparing models"]


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"TERM": "unknown"}], ids=["dumb", "unknown"])
def test_simple_terminals_get_lines(environment: dict[str, str]) -> None:
    console, screen = terminal(80, **environment)
    with Display(GLM, console) as display:
        display.report(Event("bank", "training"))
        display.report(Event("bank", "training", 1, 0.5))
    assert ESCAPE not in screen.getvalue()
    assert [line.partition(":")[0] for line in screen.getvalue().splitlines()] == ["Starting the roles", "Training"]


def test_colours_in_a_file_are_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = io.StringIO()
    with Display(GLM, Console(file=out)) as display:
        display.report(Event("bank", "aligning"))
    assert [line.partition(":")[0] for line in out.getvalue().splitlines()] == ["Starting the roles", "Aligning ids"]


def test_no_colour_where_none_is_wanted() -> None:
    console, screen = terminal(80, NO_COLOR="1")
    with Display(GLM, console) as display:
        display.report(Event("bank", "aligning"))
    assert "✓" in screen.getvalue()
    assert not re.findall(r"\x1b\[(?:3[0-7]|9[0-7]|38;)[0-9;]*m", screen.getvalue())


def test_terminals_of_ascii_alone() -> None:
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii"), force_terminal=True, width=100, _environ={})
    phases = Phases(GLM, console)
    train(phases, 3)
    lines = frame(phases, console)
    show_metrics(report_of(), console)
    console.file.flush()
    assert lines[0].startswith("+ Starting") and all(line.isascii() for line in lines)
    assert raw.getvalue().decode("ascii")


@given(
    gaps=st.lists(st.floats(0.001, 1000), min_size=1, max_size=20),
    more=st.integers(1, 1000),
    waited=st.floats(0, 10_000),
)
def test_time_left_is_that_of_the_rounds_so_far(gaps: list[float], more: int, waited: float) -> None:
    pace, now = Pace(begun=0.0), 0.0
    for number, gap in enumerate(gaps, 1):
        now += gap
        pace.advance(number, now)
    total = len(gaps) + more
    left, later = pace.left(total, now), pace.left(total, now + waited)
    assert more * min(gaps) * 0.999 <= left <= more * max(gaps) * 1.001 + 1e-9
    assert later == pytest.approx(max(0.0, left - waited))
    assert pace.left(len(gaps), now) is None


def test_a_run_that_goes_on_tells_no_time_before_its_second_round() -> None:
    pace = Pace(begun=0.0)
    pace.advance(30, 1.0)
    assert pace.left(40, 2.0) is None
    pace.advance(31, 3.0)
    assert pace.left(40, 3.0) == 18.0


@pytest.mark.parametrize(("width", "intervals"), [(60, False), (80, True), (120, True)])
def test_the_table_leaves_intervals_out_before_it_wraps(width: int, intervals: bool) -> None:
    console, screen = terminal(width)
    show_metrics(report_of(), console)
    lines = plain(screen.getvalue())
    assert max(map(len, lines)) <= width
    assert len([line for line in lines if "alone" in line]) == 1
    assert any("0.7000 to 0.8000" in line for line in lines) is intervals
    assert len([line for line in lines if "auc" in line or "ks" in line]) == 2, "a line per metric"


def test_the_summary_names_page_and_audit_and_breaks_between_words(tmp_path: Path) -> None:
    (tmp_path / "report.html").touch()
    console, screen = terminal(60)
    show_summary(report_of(), tmp_path, console)
    text = screen.getvalue()
    assert f"Results: {tmp_path}  (for people: {tmp_path / 'report.html'})\n" in text
    assert f"Who learnt what: vfl audit {tmp_path}\n" in text
    assert "; 1 round, key" in " ".join(plain(text))
    warning = text[text.index("guard") : text.index("Results")]
    assert {len(line) <= 60 for line in warning.splitlines()} == {True}
    assert set(warning.split()) <= {"guard:", *"between companies this would be refused".split()}


def test_the_summary_elsewhere_keeps_a_line_per_sentence(tmp_path: Path) -> None:
    out = io.StringIO()
    show_summary(report_of(), tmp_path, Console(file=out, width=60, _environ={}))
    assert len([line for line in out.getvalue().splitlines() if line.startswith("warning: guard: ")]) == 1
    assert out.getvalue().splitlines()[-2] == f"Results: {tmp_path}", "no page, none named"


@pytest.fixture(scope="module")
def companies(tmp_path_factory: pytest.TempPathFactory) -> Companies:
    companies = make_companies(tmp_path_factory.mktemp("companies"), rows=200)
    companies.write()
    return companies


def test_json_is_the_report_and_nothing_else(
    vfl: Command, companies: Companies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    said = vfl("run", companies.folder, "--in-process", "--no-baselines", "--json", "--out", tmp_path / "out")
    assert said.code == 0, said.stderr
    assert said.stdout.encode() == (tmp_path / "out" / "report.json").read_bytes()
    assert "Training: " in said.stderr and "━━━━╸" not in said.stderr
    assert not re.findall(r"\x1b\[[0-9?]*[A-HJKhl]", said.stderr), "nothing moves in a file"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_parses(name: str) -> None:
    command = GROUP.commands[name]
    lead, _, example = (command.epilog or "").partition(": ")
    assert lead == "Example"
    program, called, *arguments = shlex.split(example)
    assert (program, called) == ("vfl", name)
    with command.make_context(name, arguments) as context:
        assert context.params


def test_an_example_with_a_wrong_option_would_be_noticed() -> None:
    with pytest.raises(Exception, match="--no-such"):
        GROUP.commands["run"].make_context("run", ["scenarios/a9a", "--no-such"])


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained(name: str) -> None:
    command = GROUP.commands[name]
    assert (command.help or "").rstrip().endswith(".")
    for parameter in command.params:
        text = parameter.help or ""
        assert text.endswith("."), parameter.name
        assert not re.search(r"(?<!\\)\[[a-z/]", text), f"{parameter.name}: the terminal takes [...] for markup"


def test_help_is_sorted_by_what_commands_are_for(vfl: Command) -> None:
    panels = {name: command.rich_help_panel for name, command in GROUP.commands.items()}
    together = ["Train", "Use a model", "Look", "Between companies"]
    assert list(dict.fromkeys(panels.values())) == together
    assert list(panels) == sorted(panels, key=lambda name: together.index(panels[name])), "a panel's are together"
    said = vfl("--help").stdout
    assert sorted(together, key=said.index) == together
    assert vfl().stdout == said, "vfl alone shows the help"
    assert "vfl[mlflow]" in vfl("run", "--help").stdout


@pytest.mark.parametrize(("typed", "meant"), [("rnu", "run"), ("audti", "audit"), ("coordinate", "coordinator")])
def test_the_nearest_command_is_named(vfl: Command, typed: str, meant: str) -> None:
    said = vfl(typed)
    assert said.code == 2
    assert said.error == f"error: No such command '{typed}'. Did you mean '{meant}'? see 'vfl --help'"


def complete(line: str, cwd: Path = ROOT) -> list[str]:
    """What bash is offered for the last word of a line."""
    words = line.split(" ")
    environment = {"_VFL_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run([VFL], capture_output=True, text=True, cwd=cwd, env=os.environ | environment, check=False)
    assert not done.stderr, done.stderr
    return done.stdout.split()


def test_commands_options_and_choices_complete() -> None:
    assert complete("vfl ") == COMMANDS
    assert complete("vfl e") == ["estimate", "evaluate"]
    assert complete("vfl run --no") == ["--no-baselines"]
    assert complete("vfl join bank.toml --log-level ") == ["debug", "info", "warning", "error"]


def test_scenarios_complete() -> None:
    offered = complete("vfl run ")
    assert "scenarios/credit_default" in offered
    assert all((ROOT / path / "scenario.toml").is_file() for path in offered)
    assert complete("vfl check scenarios/cr") == ["scenarios/credit_default"]


def test_keys_of_the_job_complete_for_its_model_and_parties() -> None:
    glm = complete("vfl run scenarios/credit_default --set training.")
    assert "training.l2=" in glm and "training.max_depth=" not in glm
    assert complete("vfl run scenarios/credit_default --set training.l2") == ["training.l2=0.001"]
    assert complete("vfl run scenarios/credit_default --set party.bank.da") == ["party.bank.data="]


class Typed:
    """As much of a command line's context as completing looks at."""

    def __init__(self, *words: str, **params: object) -> None:
        self.args, self.params = list(words), params


def test_every_key_completes_once_its_file_is_known(tmp_path: Path) -> None:
    (tmp_path / "trees.toml").write_text('model = "boosting"\n[[party]]\nname = "bank"\n', encoding="utf-8")
    offered = {text for text, _ in completing.complete_key(Typed(str(tmp_path / "trees.toml")), "")}
    assert {f"training.{key}=" for key in Boosting.__struct_fields__} <= offered
    assert "training.l2=" not in offered and "party.bank.label=" in offered
    sections = {text.partition(".")[0].rstrip("=") for text in offered}
    assert sections == set(ScenarioFile.__struct_fields__), "every key and section of a scenario"


def test_without_a_model_each_key_is_offered_once() -> None:
    offered = [text for text, _ in completing.complete_key(Typed(), "training.")]
    assert {"training.l2=", "training.max_depth=", "training.units="} <= set(offered)
    assert len(offered) == len(set(offered)), "boosting and splitnn have keys in common"


def test_a_network_has_its_own_keys(tmp_path: Path) -> None:
    (tmp_path / "network.toml").write_text('model = "splitnn"\n', encoding="utf-8")
    offered = {text for text, _ in completing.complete_key(Typed(str(tmp_path / "network.toml")), "training.")}
    assert offered == {f"training.{key}=" for key in SplitNN.__struct_fields__}


def test_values_of_a_key_complete() -> None:
    def offers(typed: str) -> list[str]:
        return [text for text, _ in completing.complete_key(Typed(), typed)]

    assert offers("alignment.duplicates") == [f"alignment.duplicates={way}" for way in ("refuse", "first", "drop")]
    assert offers("alignment.duplicates=f") == ["alignment.duplicates=first"]
    assert offers("privacy.enforce=") == ["privacy.enforce=true", "privacy.enforce=false"]
    assert offers("privacy.exponent_bits") == ["privacy.exponent_bits="]
    assert offers("privacy.key_bits=3") == [], "a value of one's own"
    assert offers("no.such") == []


def test_keys_complete_with_their_meaning() -> None:
    ((_, meaning),) = completing.complete_key(Typed(), "training.tol")
    assert meaning.startswith("Stop when")


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[[party]]\nname = 3\n", b"party = 3\n", b"["])
def test_files_that_cannot_be_read_offer_what_all_have(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scenario.toml").write_bytes(content)
    offered = {text for text, _ in completing.complete_key(Typed(str(tmp_path)), "")}
    assert {"training.l2=", "training.max_depth="} <= offered


def test_runs_and_their_parties_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("runs/first/report.json", "runs/first/bank/run.json", "runs/first/shop/run.json", "new.csv", "x.txt"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).touch()
    Path("runs/unfinished").mkdir()
    assert completing.complete_run("") == ["runs/first"]
    assert completing.complete_run("runs/x") == []
    assert completing.complete_data(Typed("runs/first"), "") == ["bank=", "shop="]
    assert completing.complete_data(Typed("runs/first", data=["bank=new.csv"]), "") == ["shop="]
    assert completing.complete_data(Typed("runs/first"), "bank=n") == ["bank=new.csv"]
    assert completing.complete_data(Typed(), "") == []
    assert complete("vfl predict runs/first --data ", tmp_path) == ["bank=", "shop="]


def test_completing_keys_imports_nothing_slow() -> None:
    code = (
        "import sys; sys.argv[0] = 'vfl'\n"
        "from vfl import cli\n"
        "try: cli.execute([])\n"
        "finally: print(*sys.modules, file=sys.stderr)"
    )
    line = {"_VFL_COMPLETE": "complete_bash", "COMP_WORDS": "vfl run x --set training.", "COMP_CWORD": "4"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | line, check=False
    )
    assert "training.l2=" in done.stdout.split(), done.stderr
    assert not {"sklearn", "pandas", "matplotlib", "gmpy2", "phe", "mlflow"} & set(done.stderr.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_for_shells(shell: str) -> None:
    done = subprocess.run(
        [VFL], capture_output=True, text=True, env=os.environ | {"_VFL_COMPLETE": f"source_{shell}"}, check=False
    )
    assert "_VFL_COMPLETE" in done.stdout and f"complete_{shell}" in done.stdout


def test_a_real_bash_completes() -> None:
    script = (
        'PATH="$1:$PATH"; eval "$(_VFL_COMPLETE=source_bash vfl)"; '
        "COMP_WORDS=(vfl run --over); COMP_CWORD=2; _vfl_completion vfl; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script, "bash", str(Path(VFL).parent)], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["--overwrite"], done.stderr


def test_help_and_values_of_zsh() -> None:
    environment = {"_VFL_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "vfl run x --set split.t"}
    done = subprocess.run([VFL], capture_output=True, text=True, env=os.environ | environment, check=False)
    assert '"split.test_fraction=0.3":"Share of the aligned rows' in done.stdout
