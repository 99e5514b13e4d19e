"""Scenario files: every bad input is one clear line, --set acts like a line of the file, and fuzz breaks nothing."""

from __future__ import annotations

import datetime
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parties.errors import ConfigError, VflError
from parties.spec import PartySpec
from vfl.job import Job, Scenario
from vfl.job_file import build_scenario, load_scenario
from vfl.tables import parse

TEXT = """\
name = "credit-default"
task = "binary"
model = "logistic"
seed = 7

[alignment]
protocol = "auto"

[split]
test_fraction = 0.3

[training]
l2 = 0.001

[privacy]
key_bits = 2048

[[party]]
name = "bank"
role = "active"
data = "bank.csv"
id = "customer_id"
label = "default"

[[party]]
name = "card-network"
role = "passive"
data = "sub/card_network.csv"
id = ["client", "branch"]
[party.policy]
min_intersection = 1000
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    (tmp_path / "scenario.toml").write_text(TEXT, "utf-8")
    return tmp_path


def refusal(folder: Path, old: str = "", new: str = "", *overrides: str) -> str:
    """Message for the scenario with one piece of text replaced, which must be one line."""
    assert old in TEXT
    (folder / "scenario.toml").write_text(TEXT.replace(old, new, 1), "utf-8")
    with pytest.raises(ConfigError) as caught:
        load_scenario(folder, overrides)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def test_reads_a_directory_and_a_file_alike(scenario: Path) -> None:
    loaded = load_scenario(scenario)
    assert loaded == load_scenario(scenario / "scenario.toml")
    assert (loaded.job.name, loaded.job.task, loaded.job.model, loaded.job.seed) == (
        "credit-default",
        "binary",
        "logistic",
        7,
    )
    assert loaded.job.active == "bank"
    assert loaded.job.passive == ("card-network",)
    assert loaded.parties[1].policy.min_intersection == 1000


def test_data_paths_are_absolute_and_relative_to_the_file(scenario: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = scenario.resolve()
    monkeypatch.chdir(scenario)
    for path in (scenario, Path("."), Path("scenario.toml")):
        loaded = load_scenario(path)
        assert [spec.data for spec in loaded.parties] == [
            str(real / "bank.csv"),
            str(real / "sub" / "card_network.csv"),
        ]
        assert loaded.directory.is_absolute()


def test_what_others_see_of_a_party_has_no_path_and_no_column(scenario: Path) -> None:
    shared = repr(load_scenario(scenario).job)
    assert [word for word in ("csv", "customer_id", "'client'", "'default'", "1000") if word in shared] == []


def test_the_task_may_be_left_out(scenario: Path) -> None:
    (scenario / "scenario.toml").write_text(TEXT.replace('task = "binary"\n', ""), "utf-8")
    assert load_scenario(scenario).job.task == "binary"


def test_strict_enforces(scenario: Path) -> None:
    assert not load_scenario(scenario).job.privacy.enforce
    assert load_scenario(scenario, strict=True).job.privacy.enforce
    assert load_scenario(scenario, ["privacy.enforce=false"], strict=True).job.privacy.enforce


def test_windows_line_ends_and_byte_order_mark(scenario: Path) -> None:
    plain = load_scenario(scenario)
    (scenario / "scenario.toml").write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert load_scenario(scenario) == plain


def test_defaults_of_what_is_to_come_are_accepted(scenario: Path) -> None:
    plain = load_scenario(scenario)
    options = ["alignment.one_sided=false"]
    assert load_scenario(scenario, options) == plain


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("l2 =", "l3 =", ["unknown key 'l3' in [training] of scenario.toml, got 'l3', did you mean 'l2'?"]),
        ("seed =", "sead =", ["unknown key 'sead' at the top of scenario.toml", "'seed'"]),
        ("[training]", "[trainign]", ["unknown key 'trainign'", "did you mean 'training'?"]),
        ("l2 =", "n_estimators =", ["n_estimators in [training]", "got 0.001", "'logistic'", "belongs to boosting"]),
        ("[training]", "[boosting]", ["unknown key 'boosting' at the top of scenario.toml", "training"]),
        ("label =", "lable =", ["unknown key 'lable' in [[party]] 'bank' of scenario.toml", "'label'"]),
        (
            "min_intersection =",
            "min_intersect =",
            ["unknown key 'min_intersect' in [party.policy] of party 'card-network'", "'min_intersection'"],
        ),
        ("[[party]]", "[[parties]]", ["unknown key 'parties'", "did you mean 'party'?"]),
        ('name = "credit-default"\n', "", ["missing key 'name' at the top of scenario.toml"]),
        (
            'model = "logistic"\n',
            "",
            ["missing key 'model'", "'logistic', 'softmax', 'linear', 'poisson', 'boosting' or 'splitnn'"],
        ),
        ('role = "active"\n', "", ["missing key 'role' in [[party]] 'bank'", "'active' or 'passive'"]),
        ('name = "bank"\n', "", ["missing key 'name' in [[party]] number 1", "matching [a-z0-9]"]),
        ('data = "bank.csv"\n', "", ["missing key 'data' in [[party]] 'bank'"]),
        ('id = "customer_id"\n', "", ["missing key 'id' in [[party]] 'bank'"]),
        ("l2 = 0.001", "l2 = -1", ["l2 in [training] of scenario.toml, got -1, expected a number, at least 0"]),
        ("l2 = 0.001", 'l2 = "0.1"', ["l2 in [training]", "got '0.1'", "expected a number"]),
        ("l2 = 0.001", "l2 = nan", ["l2 in [training]", "got nan"]),
        ("l2 = 0.001", "l2 = inf", ["l2 in [training]", "got inf"]),
        ("l2 = 0.001", "l2 = true", ["l2 in [training]", "got true"]),
        ("l2 = 0.001", "tol = 0", ["tol in [training]", "got 0", "above 0"]),
        ("l2 = 0.001", "max_iter = 0", ["max_iter", "got 0", "at least 1"]),
        ("l2 = 0.001", "max_iter = 1.5", ["max_iter", "got 1.5", "a whole number"]),
        ("l2 = 0.001", "fit_intercept = 1", ["fit_intercept", "got 1", "true or false"]),
        ("l2 = 0.001", "newton_steps = -1", ["newton_steps", "got -1", "at least 0"]),
        ("l2 = 0.001", 'curvature = "rows"', ["curvature", "got 'rows'", "'mean' or 'row'"]),
        ("seed = 7", "seed = -7", ["seed at the top", "got -7", "at least 0"]),
        ("seed = 7", f"seed = {10**30}", ["seed at the top", "at most"]),
        ("seed = 7", f"seed = 0x{'f' * 5000}", ["seed at the top", "a very long int", "at most"]),
        ("seed = 7", "seed = 2024-01-01", ["seed at the top", "got 2024-01-01"]),
        ("0.3", "1.0", ["test_fraction in [split]", "got 1.0", "below 1"]),
        ("0.3", "-0.1", ["test_fraction in [split]", "at least 0"]),
        ("2048", "1024", ["key_bits in [privacy]", "got 1024", "at least 2048"]),
        ("2048", "256", ["key_bits in [privacy]", "got 256", "at least 512"]),
        ("2048", "2048\nexponent_bits = 447", ["exponent_bits in [privacy]", "got 447", "at least 448"]),
        ("2048", '2048\nkey_holder = "bank"', ["key_holder", "'bank'", "'auto', 'active' or 'coordinator'"]),
        ('"logistic"', '"splitnn"', ["l2 in [training]", "model 'splitnn'", "logistic, softmax, linear and poisson"]),
        (
            '"logistic"',
            '"splitnet"',
            ["model at the top", "'poisson', 'boosting' or 'splitnn'; did you mean 'splitnn'?"],
        ),
        ('"logistic"', '"boosting"', ["l2 in [training]", "model 'boosting'", "logistic, softmax, linear and poisson"]),
        (
            '"logistic"',
            '"logit"',
            [
                "model at the top",
                "'logit'",
                "'logistic', 'softmax', 'linear', 'poisson', 'boosting' or 'splitnn'; did you mean 'logistic'?",
            ],
        ),
        ('"logistic"', '"Logistic"', ["model at the top", "got 'Logistic'", "did you mean 'logistic'?"]),
        ('"logistic"', '"poisson"', ["task", "'binary'", "'count'", "'poisson'"]),
        ('"binary"', '"ranking"', ["task", "'ranking'", "'binary', 'multiclass', 'regression' or 'count'"]),
        ('"auto"', '"hashes"', ["protocol in [alignment]", "'hashes'", "'ecdh', 'kkrt', 'mpsi' or 'server-aided'"]),
        ('"auto"', '"auto"\npad_to = 0', ["pad_to in [alignment]", "got 0", "at least 1"]),
        ('"auto"', '"auto"\nbucket_ids = 999', ["bucket_ids in [alignment]", "got 999", "at least"]),
        ('"auto"', '"mpsi"\none_sided = true', ["one_sided in [alignment]", "'mpsi'", "'ecdh'"]),
        ('"auto"', '"auto"\none_sided = 0', ["one_sided in [alignment]", "got 0"]),
        ('"auto"', '"auto"\nmin_intersection = 0', ["min_intersection in [alignment]", "got 0", "at least 1"]),
        ('"auto"', '"auto"\nduplicates = "keep"', ["duplicates", "'keep'", "'refuse', 'first' or 'drop'"]),
        (
            "0.3",
            "0.3\nvalidation_fraction = 0.1",
            ["validation_fraction in [split]", "0.1", "'logistic'", "expected 0"],
        ),
        ("2048", "2048\nlabel_dp_epsilon = 0.0", ["label_dp_epsilon in [privacy]", "0.0", "at least 1e-06"]),
        ("2048", "2048\nlabel_dp_epsilon = 51", ["label_dp_epsilon in [privacy]", "51", "at most 50"]),
        ('"passive"', '"active"\nlabel = "y"', ["2 active parties", "'bank'", "'card-network'"]),
        ('"passive"', '"guest"', ["role in [[party]] 'card-network'", "'guest'", "'active' or 'passive'"]),
        ('"card-network"', '"bank"', ["'bank' twice", "unique"]),
        ('"card-network"', '"Card Network"', ["name in [[party]] 'Card Network'", "matching [a-z0-9]"]),
        ('"card-network"', '"coordinator"', ["'coordinator'", "expected another"]),
        ('"card-network"', '"bank\\u2028"', ["name in [[party]]", "matching"]),
        ('"credit-default"', '"../up"', ["name at the top", "'../up'"]),
        ('label = "default"\n', "", ["label missing", "'bank'"]),
        ('["client", "branch"]', '["client", "branch"]\nlabel = "y"', ["label in passive party 'card-network'"]),
        ('["client", "branch"]', "[]", ["id in [[party]] 'card-network'", "got []", "non-empty"]),
        ('["client", "branch"]', "3", ["id in [[party]] 'card-network'", "got 3"]),
        ('"default"', '"default"\nencoding = "utf-9"', ["encoding", "'bank'", "'utf-9'"]),
        ("[privacy]", "[[privacy]]", ["privacy at the top", "got tables", "expected a table"]),
        ("[[party]]", "[party.x]\n[[other]]", ["scenario.toml"]),
        ("seed = 7", "party = 3", ["scenario.toml"]),
    ],
)
def test_bad_lines(tmp_path: Path, old: str, new: str, parts: list[str]) -> None:
    message = refusal(tmp_path, old, new)
    assert [part for part in [*parts, "scenario.toml"] if part not in message] == [], message


def test_no_passive_and_no_active_party(tmp_path: Path) -> None:
    head, bank, card = TEXT.split("[[party]]")
    assert "no passive party" in refusal(tmp_path, f"[[party]]{card}", "")
    assert "no active party" in refusal(tmp_path, f"[[party]]{bank}", "")
    assert "no active party" in refusal(tmp_path, TEXT, head)


def test_positive_belongs_to_binary_tasks(tmp_path: Path) -> None:
    message = refusal(tmp_path, '"default"', '"default"\npositive = 1', "model=linear", "task=regression")
    assert "positive of party 'bank'" in message
    assert "'regression'" in message


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("seed = 7", "seed 7", "line 4, column 6"),
        ("seed = 7", "seed = ", "line 4, column 8"),
        ("[split]", "[split", "line 9, column 7"),
        ("l2 = 0.001", "l2 = 0.001\nl2 = 0.1", "line 14, column 9"),
        ("min_intersection = 1000\n", "min_intersection", "line 31, column 17"),
        ("seed = 7", "seed = " + "1" * 5000, "scenario.toml"),
        ("seed = 7", "seed = " + "[" * 100_000, "scenario.toml"),
    ],
)
def test_malformed_toml_names_line_and_column(tmp_path: Path, old: str, new: str, place: str) -> None:
    message = refusal(tmp_path, old, new)
    assert "scenario.toml" in message
    assert "malformed TOML" in message
    assert place in message, message


def test_files_that_are_not_there_or_no_text(tmp_path: Path) -> None:
    for path, words in [
        (tmp_path / "nowhere.toml", "does not exist"),
        (tmp_path / "no" / "where", "does not exist"),
        (tmp_path, "holds no scenario.toml"),
    ]:
        with pytest.raises(ConfigError, match=words) as caught:
            load_scenario(path)
        assert str(path) in str(caught.value)
    (tmp_path / "scenario.toml").write_bytes(b'name = "a"\nmodel = "\xff"\n')
    with pytest.raises(ConfigError, match=r"scenario.toml, line 2, column 10: got a byte that is not UTF-8"):
        load_scenario(tmp_path)
    (tmp_path / "scenario.toml").write_bytes(b" \n")
    with pytest.raises(ConfigError, match=r"scenario.toml is empty, expected"):
        load_scenario(tmp_path)
    (tmp_path / "scenario.toml").unlink()
    (tmp_path / "scenario.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_scenario(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_scenario(Path("a\0b"))


def test_set_acts_like_a_line_of_the_file(scenario: Path) -> None:
    changed = load_scenario(
        scenario,
        [
            "training.l2=0.01",
            "training.l2=0.5",
            "name=other",
            'name="third"',
            "privacy.key_bits = 3072",
            "alignment.casefold=true",
            "party.bank.data=new.csv",
            'party.card-network.id=["a", "b", "c"]',
            "party.bank.policy.max_rounds=9",
            "party.bank.positive=1",
        ],
    )
    bank, card = changed.parties
    assert (changed.job.name, changed.job.training.l2, changed.job.privacy.key_bits) == ("third", 0.5, 3072)
    assert changed.job.alignment.casefold
    assert bank.data == str(scenario.resolve() / "new.csv")
    assert (bank.policy.max_rounds, bank.positive) == (9, 1)
    assert card.id_columns == ("a", "b", "c")
    assert load_scenario(scenario).job.training.l2 == 0.001


def test_set_makes_a_section_that_the_file_lacks(scenario: Path) -> None:
    (scenario / "scenario.toml").write_text(TEXT.replace("[training]\nl2 = 0.001\n", ""), "utf-8")
    assert load_scenario(scenario, ["training.tol=1e-6"]).job.training.tol == 1e-6


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.l3=1", ["unknown key 'l3' in [training] of scenario.toml (given by --set)", "'l2'"]),
        ("trainin.l2=1", ["unknown key 'trainin'", "(given by --set)", "'training'"]),
        ("training.l2=abc", ["l2 in [training]", "(given by --set)", "got 'abc'"]),
        ("training.l2=", ["l2 in [training]", "got ''"]),
        ("training.l2=1\nmax_iter=3", ["l2 in [training]", "got '1"]),
        ("training.l2", ["--set", "got 'training.l2'", "KEY=VALUE"]),
        ("=3", ["--set", "KEY=VALUE"]),
        ("training..l2=3", ["--set", "KEY=VALUE"]),
        ("", ["--set", "KEY=VALUE"]),
        ("seed.x=1", ["--set", "'seed' is a single value"]),
        ("seed.x.y=1", ["--set", "'seed' is a single value"]),
        ("party.x=1", ["--set", "party.NAME.data"]),
        ("party.card.data=x", ["--set", "no party is named 'card'", "'card-network'"]),
        ("party.bank.dat=x", ["unknown key 'dat' in [[party]] 'bank'", "(given by --set)", "'data'"]),
        ("party.bank.policy.model=x", ["unknown key 'model' in [party.policy] of party 'bank'", "'models'"]),
        ("party=3", ["party at the top", "got 3"]),
        ("party=[3]", ["got 3", "expected a table"]),
        ("model=splitnet", ["'splitnet'", "'boosting' or 'splitnn'", "(given by --set)"]),
        ("model=splitnn", ["l2 in [training]", "'splitnn'", "known for 'splitnn': mode, units, hidden"]),
        ("training.units=3", ["units in [training]", "(given by --set)", "'logistic'", "belongs to splitnn"]),
        ("training.max_depth=3", ["max_depth in [training]", "(given by --set)", "'logistic'", "belongs to boosting"]),
        ("boosting.max_depth=3", ["unknown key 'boosting' at the top of scenario.toml (given by --set)"]),
        ("party.bank.monotone_constraints.age=2", ["'age' in [party.monotone_constraints]", "(given by --set)"]),
        ("training=3", ["training", "got 3", "expected a table"]),
        ("training={l3=1}", ["unknown key 'l3'", "(given by --set)"]),
    ],
)
def test_bad_overrides(tmp_path: Path, override: str, parts: list[str]) -> None:
    message = refusal(tmp_path, "", "", override)
    assert [part for part in parts if part not in message] == [], message


def test_building_from_a_document_leaves_it_alone() -> None:
    parties = [
        {"name": "a", "role": "active", "data": "a.csv", "id": "i", "label": "y"},
        {"name": "b", "role": "passive", "data": "b.csv", "id": "i"},
    ]
    document: dict[str, Any] = {"name": "x", "model": "linear", "alignment": {"one_sided": False}, "party": parties}
    built = build_scenario(document, Path("/d"), file="Federation", overrides=["alignment.min_intersection=5"])
    assert built.job.task == "regression"
    assert built.job.alignment.min_intersection == 5
    assert document["alignment"] == {"one_sided": False}
    assert built.parties[0].data == "/d/a.csv"


def outcome(document: Any, *overrides: str) -> Scenario | str:
    """Build a scenario or return its refusal; any other exception fails the test that asks."""
    try:
        built = build_scenario(document, Path("/d"), file="scenario.toml", overrides=overrides)
        assert msgspec.json.decode(msgspec.json.encode(built.job), type=Job) == built.job
        assert msgspec.json.decode(msgspec.json.encode(built.parties), type=tuple[PartySpec, ...]) == built.parties
        return built
    except VflError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 2000
        return str(error)


SCALARS = st.one_of(
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -1, 0, 1, 2**63, 2048]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["logistic", "boosting", "active", "a\nb", "\0", "coordinator", "utf-8", "1" * 3000]),
    st.dates(),
    st.just(datetime.time(1, 2)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=6,
)
KEYS = [
    *("name", "task", "model", "seed", "alignment", "split", "training", "privacy", "party"),
    *("alignment.protocol", "alignment.pad_to", "alignment.one_sided", "alignment.min_intersection"),
    *("split.test_fraction", "split.validation_fraction", "training.l2", "training.tol", "training.max_iter"),
    *("training.n_estimators", "training.top_rate", "training.base_score", "training.multi_output"),
    *("training.units", "training.hidden", "training.mode", "training.gradient_clip", "training.bottom_hidden"),
    *("training.curvature", "privacy.key_bits", "privacy.exponent_bits", "privacy.label_dp_epsilon"),
    *("party.0", "party.0.name", "party.0.role", "party.0.data", "party.0.id", "party.0.label"),
    *("party.0.monotone_constraints", "party.0.monotone_constraints.a"),
    *("party.0.positive", "party.0.encoding", "party.0.features", "party.0.missing_values", "party.0.policy"),
    *("party.1.policy.models", "party.1.policy.key_bits", "party.1.surprise", "surprise", "privacy.surprise"),
]


def document() -> dict[str, Any]:
    return tomllib.loads(TEXT)


def put(node: Any, path: str, value: object) -> None:
    *steps, last = path.split(".")
    for step in steps:
        node = node[int(step)] if step.isdigit() else node.setdefault(step, {})
    node[int(last) if last.isdigit() else last] = value


@given(st.sampled_from(KEYS), VALUES)
def test_any_value_at_any_key_is_fine_or_refused_in_one_line(path: str, value: object) -> None:
    mutated = document()
    put(mutated, path, value)
    outcome(mutated)


@given(st.sampled_from(KEYS), VALUES, st.sampled_from(["binary", "multiclass", "regression", "count"]))
def test_any_value_at_any_key_of_boosting_too(path: str, value: object, task: str) -> None:
    mutated = document() | {"model": "boosting", "task": task, "training": {"max_depth": 3}}
    put(mutated, path, value)
    outcome(mutated)


@given(st.sampled_from(KEYS), VALUES, st.sampled_from(["source-layer", "split"]))
def test_any_value_at_any_key_of_networks_too(path: str, value: object, mode: str) -> None:
    mutated = document() | {"model": "splitnn", "training": {"mode": mode}}
    put(mutated, path, value)
    outcome(mutated)


@given(st.dictionaries(st.sampled_from(["name", "model", "party", "training", "x"]), VALUES, max_size=5))
def test_any_document_is_fine_or_refused_in_one_line(mutated: dict[str, object]) -> None:
    outcome(mutated)


@given(st.text(max_size=30) | st.sampled_from(KEYS).flatmap(lambda key: st.text(max_size=12).map(f"{key}=".__add__)))
def test_any_override_is_fine_or_refused_in_one_line(override: str) -> None:
    outcome(document(), override)


@given(st.integers(0, len(TEXT) - 1), st.integers(0, 12), st.text(max_size=6) | st.sampled_from(list('[]"=.#\n\0')))
def test_any_slip_of_the_pen_is_fine_or_refused_in_one_line(start: int, length: int, typed: str) -> None:
    try:
        parsed = parse(TEXT[:start] + typed + TEXT[start + length :], "scenario.toml", "a job")
    except VflError as error:
        assert "\n" not in str(error)
        return
    outcome(parsed)
