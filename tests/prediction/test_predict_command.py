"""``vfl predict`` on one machine: every model's scores to the last bit, and every mistake in one line."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.runs.companies import Companies, files_in, make_boosted, make_companies
from tests.runs.conftest import Command, vfl  # noqa: F401 - the fixture
from tests.splitnn.trials import make_split

Make = Callable[[Path], Companies]
BOTTOMS = {"mode": "split", "bottom_hidden": [4], "dropout": 0.2}
MODELS: dict[str, Make] = {
    "logistic": lambda folder: make_companies(folder, messy=True),
    "logistic, key at the coordinator": lambda folder: make_companies(folder, key_holder="coordinator"),
    "logistic, label only": lambda folder: make_companies(folder, label_only=True, composite=True),
    "softmax": lambda folder: make_companies(folder, "softmax", passive=1),
    "linear": lambda folder: make_companies(folder, "linear", weights=True),
    "poisson": lambda folder: make_companies(folder, "poisson"),
    "trees, binary": lambda folder: make_boosted(folder, messy=True),
    "trees, multiclass": lambda folder: make_boosted(folder, "multiclass", passive=1),
    "trees, regression": lambda folder: make_boosted(folder, "regression"),
    "network, binary": lambda folder: make_split(folder, messy=True),
    "network, label only": lambda folder: make_split(folder, "multiclass", passive=1, label_only=True),
    "network, counts": lambda folder: make_split(folder, "count", weights=True),
    "network, mode split": lambda folder: make_split(folder, "regression", training=BOTTOMS),
}


def train(vfl: Command, companies: Companies, *options: object) -> Path:  # noqa: F811
    out = companies.folder.parent / "run"
    done = vfl("run", companies.write(), "--in-process", "--no-baselines", "--out", out, *options)
    assert done.code == 0, done.stderr
    return out


def data_of(companies: Companies, tables: dict[str, pd.DataFrame] | None = None) -> list[str]:
    """``--data`` for every party: its training CSV, or another table, written beside it."""
    given = []
    for name, party in companies.parties.items():
        file = companies.folder / str(party["data"])
        if tables is not None:
            file = companies.folder / f"new {name}.csv"
            tables[name].to_csv(file, index=False)
        given += ["--data", f"{name}={file}"]
    return given


def scores(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, dtype=str)


@pytest.fixture
def trained(vfl: Command, tmp_path: Path) -> tuple[Companies, Path]:  # noqa: F811
    companies = make_companies(tmp_path / "companies", messy=True)
    return companies, train(vfl, companies)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_scores_are_those_of_the_run(vfl: Command, tmp_path: Path, make: Make) -> None:  # noqa: F811
    companies = make(tmp_path / "companies")
    run = train(vfl, companies)
    moved = run.rename(tmp_path / "moved")  # the shards are all that is needed
    done = vfl("predict", moved, *data_of(companies), "--out", tmp_path / "scores.csv")
    assert done.code == 0, done.stderr
    new, old = scores(tmp_path / "scores.csv"), scores(moved / "bank" / "test_scores.csv")
    keys = companies.parties["bank"]["id"]
    keys = keys if isinstance(keys, list) else [keys]
    both = old.merge(new, on=keys, suffixes=(" then", ""))
    assert len(both) == len(old) > 50
    for column in [column for column in old if column.startswith("score")]:
        assert (both[f"{column} then"] == both[column]).all()
    # in the order of the CSV; who is not scored stands in a file of its own
    bank = companies.tables["bank"].astype(str)
    common = set.intersection(*(set(table.iloc[:, 0]) for table in companies.tables.values()))
    if len(keys) == 1:
        assert list(new[keys[0]]) == [one for one in bank[keys[0]] if one in common]
        left = scores(tmp_path / "scores_unscored.csv")
        assert list(left[keys[0]]) == [one for one in bank[keys[0]] if one not in common]


def test_classes_are_those_of_the_scores(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    companies = make_companies(tmp_path / "two", classes=("no", "yes"))
    run = train(vfl, companies)
    assert vfl("predict", run, *data_of(companies), "--out", tmp_path / "s.csv").code == 0
    table = pd.read_csv(tmp_path / "s.csv")
    assert (table["class"] == np.where(table["score"] >= 0.5, "yes", "no")).all()
    assert set(table["class"]) == {"no", "yes"}


def test_several_classes(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    companies = make_companies(tmp_path / "several", "softmax")
    run = train(vfl, companies)
    assert vfl("predict", run, *data_of(companies), "--out", tmp_path / "s.csv").code == 0
    table = pd.read_csv(tmp_path / "s.csv")
    each = table[["score_a", "score_b", "score_c"]]
    assert np.allclose(each.sum(axis=1), 1)
    assert list(table["class"]) == [name[-1] for name in each.idxmax(axis=1)]


def test_new_rows_in_any_order_without_labels(vfl: Command, trained: tuple[Companies, Path], tmp_path: Path) -> None:  # noqa: F811
    companies, run = trained
    assert vfl("predict", run, *data_of(companies), "--out", tmp_path / "all.csv").code == 0
    every = scores(tmp_path / "all.csv").set_index("customer")
    tables = {name: table.sample(frac=0.5, random_state=5) for name, table in companies.tables.items()}
    tables["bank"] = tables["bank"].drop(columns="outcome").assign(extra="not used")
    done = vfl("predict", run, *data_of(companies, tables), "--out", tmp_path / "some.csv", "--json")
    assert done.code == 0, done.stderr
    some = scores(tmp_path / "some.csv").set_index("customer")
    assert 10 < len(some) < len(every)
    assert (every.loc[some.index, "score"] == some["score"]).all()
    said = json.loads(done.stdout)
    assert said["scored"] == len(some)
    assert said["unscored"] == len(tables["bank"]) - len(some)
    assert said["run"] == json.loads((run / "bank" / "run.json").read_text())["run"]
    assert sum(said["classes"].values()) == len(some)


def test_rows_that_others_lack_are_scored_alone(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    companies = make_companies(tmp_path / "companies", rows=300)
    companies.parties["bank"]["policy"] = {"key_bits": 512, "unmatched_rows": "score"}
    run = train(vfl, companies)
    assert vfl("predict", run, *data_of(companies), "--out", tmp_path / "s.csv").code == 0
    table = pd.read_csv(tmp_path / "s.csv", dtype={"customer": str})
    assert not (tmp_path / "s_unscored.csv").exists()
    assert list(table["customer"]) == list(companies.tables["bank"]["customer"])
    # the other parties' columns at their training means, which are 0 once standardised
    shard = json.loads((run / "bank" / "model.json").read_text())
    arrays = np.load(run / "bank" / "model.npz")
    encoder = shard["preprocessor"]
    raw = companies.tables["bank"][shard["columns"]].astype(float).to_numpy()
    z = ((raw - encoder["means"]) / encoder["scales"]) @ arrays["coef"] + arrays["intercept"]
    alone = (~table["joint"].astype(bool)).to_numpy()
    assert 0 < alone.sum() < len(table)
    assert np.allclose(table["score"][alone], (1 / (1 + np.exp(-z[:, 0])))[alone], atol=1e-4)
    assert not np.allclose(table["score"][~alone], (1 / (1 + np.exp(-z[:, 0])))[~alone], atol=1e-2)


def test_what_is_left_behind(vfl: Command, trained: tuple[Companies, Path], tmp_path: Path) -> None:  # noqa: F811
    companies, run = trained
    before = files_in(run)
    assert vfl("predict", run, *data_of(companies), "--out", tmp_path / "s.csv").code == 0
    (folder,) = (run / "predictions").iterdir()
    roles = ("bank", "biller", "card-network", "coordinator")
    kept = {"ledger.jsonl", "prediction.json", *roles, *(f"{role}/ledger.jsonl" for role in roles)}
    assert files_in(folder) == kept
    assert files_in(run) - before == {"predictions", f"predictions/{folder.name}"} | {
        f"predictions/{folder.name}/{name}" for name in kept
    }
    secrets = companies.secrets()
    for file in (path for path in folder.rglob("*") if path.is_file()):
        text = file.read_text()
        assert not [secret for secret in secrets if secret in text]
    said = json.loads((folder / "prediction.json").read_text())
    told = {(line["to"], line["from"]) for line in said["disclosures"]}
    assert ("bank", "coordinator") in told
    assert vfl("audit", folder).code == 0


# -- what is refused ---------------------------------------------------------------------------------------------------


def change_table(name: str, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Companies, Path], None]:
    def apply(companies: Companies, run: Path) -> None:
        companies.tables[name] = change(companies.tables[name])
        companies.write()

    return apply


def edit_json(file: str, **changes: object) -> Callable[[Companies, Path], None]:
    def apply(companies: Companies, run: Path) -> None:
        lines = json.loads((run / file).read_text())
        (run / file).write_text(json.dumps(lines | changes))

    return apply


def overwrite(file: str, content: bytes) -> Callable[[Companies, Path], None]:
    return lambda companies, run: (run / file).write_bytes(content) and None


def flip_a_byte(file: str) -> Callable[[Companies, Path], None]:
    def apply(companies: Companies, run: Path) -> None:
        content = bytearray((run / file).read_bytes())
        content[len(content) // 2] ^= 1
        (run / file).write_bytes(content)

    return apply


def cut_in_half(file: str) -> Callable[[Companies, Path], None]:
    return lambda companies, run: (run / file).write_bytes((run / file).read_bytes()[:200]) and None


def remove(file: str) -> Callable[[Companies, Path], None]:
    def apply(companies: Companies, run: Path) -> None:
        path = run / file
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return apply


REFUSED = {
    "missing column": (
        change_table("biller", lambda table: table.drop(columns="x1")),
        ["party biller", 'column "x1"', "was used in training"],
    ),
    "new category": (
        change_table("biller", lambda table: table.assign(**{"farbe größe": ["violet"] * len(table)})),
        ["party biller", 'column "farbe größe"', "category", "unknown_category"],
    ),
    "text for numbers": (
        change_table("bank", lambda table: table.assign(x0="much")),
        ["party bank", 'column "x0"', "text", "numbers"],
    ),
    "some text among numbers": (
        change_table("bank", lambda table: table.assign(x0=["much", *table["x0"][1:]])),
        ["party bank", 'column "x0"', "1 of"],
    ),
    "no id column": (
        change_table("bank", lambda table: table.rename(columns={"customer": "somebody"})),
        ["party bank", '"customer"', "not in the header"],
    ),
    "repeated ids": (
        change_table("bank", lambda table: pd.concat([table, table[:3]])),
        ["party 'bank'", "3 ids occur more than once"],
    ),
    "nobody in common": (
        change_table("bank", lambda table: table.assign(customer=[f"n{at}" for at in range(len(table))])),
        ["no common ids"],
    ),
    "another version": (edit_json("bank/run.json", format=7, version="9.9"), ["run.json", "format 7", "9.9"]),
    "another run": (edit_json("biller/run.json", run="f" * 32), ["biller", "another run", "same run"]),
    "another party's folder": (
        lambda companies, run: shutil.copytree(run / "biller", run / "card-network", dirs_exist_ok=True) and None,
        ["part of 'biller'", "expected that of 'card-network'"],
    ),
    "a shard of another run": (edit_json("biller/model.json", label_bits=3), ["biller", "model.json", "of this run"]),
    "run.json is no JSON": (overwrite("bank/run.json", b"{"), ["run.json", "damaged"]),
    "run.json is cut": (cut_in_half("bank/run.json"), ["run.json", "damaged"]),
    "run.json is nonsense": (overwrite("bank/run.json", b'{"format": 1, "run": 7}'), ["run.json", "damaged"]),
    "model.json is cut": (cut_in_half("bank/model.json"), ["bank", "model.json"]),
    "model.npz has another byte": (flip_a_byte("biller/model.npz"), ["biller", "cannot be read"]),
    "model.npz is not there": (remove("biller/model.npz"), ["biller", "cannot be read"]),
    "model.json is not there": (remove("biller/model.json"), ["biller", "model.json", "cannot be read"]),
    "a party's folder is not there": (remove("biller"), ["'biller'", "--join"]),
    "no run at all": (
        lambda companies, run: [shutil.rmtree(path) for path in run.iterdir() if path.is_dir()] and None,
        ["RUN_DIR", "expected the directory of a finished run"],
    ),
}


@pytest.mark.parametrize(("spoil", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals(
    vfl: Command,  # noqa: F811
    trained: tuple[Companies, Path],
    tmp_path: Path,
    spoil: Callable[[Companies, Path], None],
    said: list[str],
) -> None:
    companies, run = trained
    spoil(companies, run)
    before, values = files_in(run), companies.secrets()
    done = vfl("predict", run, *data_of(companies), "--out", tmp_path / "s.csv", "--json")
    assert done.code == 2
    assert all(text in done.error for text in said), done.error
    assert done.stdout == ""
    assert not [value for value in values if value in done.stderr]
    assert not (tmp_path / "s.csv").exists()
    assert files_in(run) == before


def test_new_category_is_ignored_where_the_party_says_so(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    companies = make_companies(tmp_path / "companies", messy=True)
    companies.parties["biller"]["unknown_category"] = "ignore"
    run = train(vfl, companies)
    tables = dict(companies.tables)
    tables["biller"] = tables["biller"].assign(**{"farbe größe": "violet"})
    done = vfl("predict", run, *data_of(companies, tables), "--out", tmp_path / "s.csv")
    assert done.code == 0
    assert "category" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "bank"], "expected PARTY=CSV"),
        (["--data", "stranger=x.csv"], "got one for 'stranger'"),
        (["--data", "bank=a.csv", "--data", "bank=b.csv"], "got two for party 'bank'"),
        (["--data", "bank=a.csv"], "--data missing for party"),
        ([], "--data missing for party"),
        ([f"--data={name}=no.csv" for name in ("bank", "biller", "card-network")], "no such file; correct the path"),
    ],
    ids=["no path", "stranger", "twice", "one only", "none", "no files"],
)
def test_wrong_data_options(
    vfl: Command,  # noqa: F811
    trained: tuple[Companies, Path],
    tmp_path: Path,
    arguments: list[str],
    said: str,
) -> None:
    done = vfl("predict", trained[1], *arguments, "--out", tmp_path / "s.csv")
    assert done.code == 2
    assert said in done.error


def test_out_is_never_lost(vfl: Command, trained: tuple[Companies, Path], tmp_path: Path) -> None:  # noqa: F811
    companies, run = trained
    data = data_of(companies)
    assert "--out missing" in vfl("predict", run, *data).error
    assert "got a directory" in vfl("predict", run, *data, "--out", tmp_path).error
    mine = companies.folder / str(companies.parties["bank"]["data"])
    content = mine.read_bytes()
    assert "one of the files of --data" in vfl("predict", run, *data, "--out", mine, "--overwrite").error
    assert mine.read_bytes() == content
    beside = mine.rename(mine.with_name("s_unscored.csv"))
    named = [one.replace(str(mine), str(beside)) for one in data]
    done = vfl("predict", run, *named, "--out", beside.with_name("s.csv"), "--overwrite")
    assert "one of the files of --data" in done.error
    assert beside.read_bytes() == content
    beside.rename(mine)
    out = tmp_path / "s.csv"
    out.write_text("precious")
    assert "there already" in vfl("predict", run, *data, "--out", out).error
    assert out.read_text() == "precious"
    assert vfl("predict", run, *data, "--out", out, "--overwrite").code == 0
    assert out.read_text().startswith("customer,score,class\n")


def test_ids_without_a_score_are_those_of_this_prediction(
    vfl: Command,  # noqa: F811
    trained: tuple[Companies, Path],
    tmp_path: Path,
) -> None:
    companies, run = trained
    out, beside = tmp_path / "deep" / "s.csv", tmp_path / "deep" / "s_unscored.csv"
    beside.parent.mkdir()
    beside.write_text("precious")
    assert "there already" in vfl("predict", run, *data_of(companies), "--out", out).error
    assert beside.read_text() == "precious"
    assert vfl("predict", run, *data_of(companies), "--out", out, "--overwrite").code == 0
    assert beside.read_text().startswith("customer\n")
    common = set.intersection(*(set(table.iloc[:, 0]) for table in companies.tables.values()))
    tables = {name: table[table.iloc[:, 0].isin(common)] for name, table in companies.tables.items()}
    assert vfl("predict", run, *data_of(companies, tables), "--out", out, "--overwrite").code == 0
    assert not beside.exists()


def test_a_refused_prediction_makes_no_directory(
    vfl: Command,  # noqa: F811
    trained: tuple[Companies, Path],
    tmp_path: Path,
) -> None:
    companies, run = trained
    data = data_of(companies)
    assert vfl("predict", run, *data[:-1], "--data=biller=no.csv", "--out", tmp_path / "new" / "s.csv").code == 2
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    assert "no directory to write in" in vfl("predict", run, *data, "--out", tmp_path / "file" / "s.csv").error
    assert vfl("predict", run, *data, "--out", tmp_path / "new" / "s.csv").code == 0


# -- what policies bound -----------------------------------------------------------------------------------------------


def strict_companies(folder: Path, **policy: object) -> Companies:
    """Companies whose guards are enforced; ``policy`` is every party's."""
    companies = make_companies(folder, privacy={"key_bits": 512, "insecure_test_mode": True, "small_data": True})
    for party in companies.parties.values():
        party["policy"] = {"key_bits": 512, "small_data": True} | policy
    return companies


def test_few_rows_are_refused_where_guards_are_enforced(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    companies = strict_companies(tmp_path / "companies")
    run = train(vfl, companies, "--strict")
    common = set.intersection(*(set(table.iloc[:, 0]) for table in companies.tables.values()))
    few = sorted(common)[:20]
    tables = {name: table[table.iloc[:, 0].isin(few)] for name, table in companies.tables.items()}
    done = vfl("predict", run, *data_of(companies, tables), "--out", tmp_path / "s.csv")
    assert done.code == 2
    assert "min_intersection = 100" in done.error


def test_few_rows_are_a_warning_on_one_machine(vfl: Command, trained: tuple[Companies, Path], tmp_path: Path) -> None:  # noqa: F811
    companies, run = trained
    common = set.intersection(*(set(table.iloc[:, 0]) for table in companies.tables.values()))
    one = sorted(common)[:1]
    tables = {name: table[table.iloc[:, 0].isin(one)] for name, table in companies.tables.items()}
    done = vfl("predict", run, *data_of(companies, tables), "--out", tmp_path / "s.csv")
    assert done.code == 0
    assert "between companies this would be refused because policy min_prediction_rows" in done.stdout
    assert len(scores(tmp_path / "s.csv")) == 1


def test_scored_rows_of_the_policy_hold(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    companies = strict_companies(tmp_path / "companies", scored_rows=200)
    run = train(vfl, companies, "--strict")
    done = vfl("predict", run, *data_of(companies), "--out", tmp_path / "s.csv")
    assert done.code == 2
    assert "scored_rows" in done.error
    assert "at most 200" in done.error
    assert not (tmp_path / "s.csv").exists()


def test_scores_are_rounded_as_the_policy_says(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    exact = strict_companies(tmp_path / "exact")
    run = train(vfl, exact, "--strict")
    assert vfl("predict", run, *data_of(exact), "--out", tmp_path / "exact.csv").code == 0
    shutil.rmtree(run)
    rounded = strict_companies(tmp_path / "rounded", score_bits=2)
    run = train(vfl, rounded, "--strict")
    assert vfl("predict", run, *data_of(rounded), "--out", tmp_path / "rounded.csv").code == 0
    a, b = (pd.read_csv(tmp_path / f"{name}.csv")["score"].to_numpy() for name in ("exact", "rounded"))
    apart = np.log(a / (1 - a)) - np.log(b / (1 - b))
    assert 0.05 < np.abs(apart).max() <= 2 * 2**-3 + 1e-6  # two parties, each off by half of a quarter at most


def test_rounding_is_a_warning_on_one_machine(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    companies = make_companies(tmp_path / "companies")
    companies.parties["biller"]["policy"] = {"key_bits": 512, "score_bits": 2}
    run = train(vfl, companies)
    done = vfl("predict", run, *data_of(companies), "--out", tmp_path / "s.csv")
    assert "between companies scores would be rounded because policy score_bits" in done.stdout


def test_a_policy_that_lists_no_scoring_refuses(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    allowed = ["align.*", "ecdh.*", "verdict.*", "prepare.*", "glm_exact.*", "glm_quadratic.*"]
    companies = strict_companies(tmp_path / "companies")
    companies.sections["split"] = {"test_fraction": 0}
    companies.parties["biller"]["policy"]["disclosures"] = allowed  # type: ignore[index]
    run = train(vfl, companies, "--strict")
    done = vfl("predict", run, *data_of(companies), "--out", tmp_path / "s.csv")
    assert done.code == 2
    assert "policy disclosures (scoring.total)" in done.error


def test_csv_is_what_pandas_reads(vfl: Command, tmp_path: Path) -> None:  # noqa: F811
    """Ids with commas, quotes and line breaks come back as they are; an id column called score gives way."""
    companies = make_companies(tmp_path / "companies")
    ids = companies.tables["bank"]["customer"].iloc[:3].tolist()
    odd = {ids[0]: 'a,"b"', ids[1]: "two\nlines", ids[2]: " é"}
    for name, table in companies.tables.items():
        column = table.columns[0]
        companies.tables[name] = table.assign(**{column: table[column].map(lambda one: odd.get(one, one))})
    companies.tables["bank"] = companies.tables["bank"].rename(columns={"customer": "score"})
    companies.parties["bank"]["id"] = "score"
    run = train(vfl, companies)
    assert vfl("predict", run, *data_of(companies), "--out", tmp_path / "s.csv").code == 0
    text = (tmp_path / "s.csv").read_text()
    table = pd.read_csv(io.StringIO(text), dtype=str)
    assert list(table.columns) == ["CSV score", "score", "class"]
    assert set(odd.values()) & set(companies.tables["biller"].iloc[:, 0]) <= set(table["CSV score"])
