"""Silos in scenarios that cannot run: exit code 2 and one clear line, from vfl check and vfl run alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs.companies import make_companies
from tests.runs.conftest import Command
from tests.silos.siloed import Siloed

Words = tuple[str, ...]

HYBRID = Siloed(hospitals=2, insurer=3)
TREES = Siloed("boosting", hospitals=0, insurer=2, task="binary")
ALONE = Siloed(hospitals=4, insurer=None)
NETWORK = Siloed("splitnn", hospitals=3, insurer=None, task="binary")
AVERAGED = {"training.aggregation": "fedavg"}
NOISY = {"privacy.dp": "central", "privacy.dp_epsilon": 8}

ACTS = "acts where all parties are silos of one holder, remove the line"
EXACTLY = "silos beside passive parties are added up exactly, remove the line"
NOT_ALIGNED = "silos of one holder align nothing, remove the line"
NO_KEY = "silos of one holder make no key, remove the line"
ROUNDS = "training.rounds decides, remove the line"
TO_AVERAGE = "use 'fedavg', 'weighted' or 'simple'"
ALL_PART = "all silos take part"

PLAIN_JOB: dict[str, Words] = {
    "training.aggregation=fedavg": ("aggregation in [training]", "got 'fedavg', expected 'fedsgd'", ACTS),
    "training.rounds=5": ("rounds in [training]", "got 5, expected 50", ACTS),
    "training.batch_size=64": ("batch_size in [training]", "got 64, expected 32", ACTS),
    "training.min_silos=2": ("min_silos in [training]", "got 2, expected none", ACTS),
    "privacy.dp=local": ("dp in [privacy]", "got 'local', expected 'none'", ACTS),
    "privacy.dp_noise=1": ("dp_noise in [privacy]", "got 1.0, expected none", ACTS),
    "party.bank.silo_weight=2": ("weight of a silo (silo_weight) of party 'bank'", "got 2", "no such line"),
    "party.bank.categories={a=['x']}": ("categories of party 'bank'", "federations with silos"),
}
HYBRID_JOB: dict[str, Words] = {
    "training.aggregation=simple": ("aggregation in [training]", EXACTLY),
    "training.local_epochs=2": ("local_epochs in [training]", EXACTLY),
    "training.learning_rate=1": ("learning_rate in [training]", EXACTLY),
    "training.aggregation_by_layer={intercept='simple'}": ("aggregation_by_layer in [training]", EXACTLY),
    "privacy.dp=central": ("dp in [privacy]", EXACTLY),
    "privacy.dp_clip=2": ("dp_clip in [privacy]", EXACTLY),
    "privacy.key_holder=coordinator": ("key_holder in [privacy]", "with silos the active party holds the key"),
    "training.newton_steps=1": ("newton_steps in [training]", "got 1, expected 0", "silos rule out"),
    "training.curvature=row": ("curvature in [training]", "got 'row', expected 'mean'", "silos rule out"),
    "alignment.protocol=kkrt": ("protocol in [alignment]", "got 'kkrt'", "'ecdh' or 'server-aided'"),
    "alignment.protocol=mpsi": ("protocol in [alignment]", "got 'mpsi'", "'ecdh' or 'server-aided'"),
    "alignment.one_sided=true": ("one_sided in [alignment]", "got true", "expected false"),
    "party.insurer.silo.s0.weight=2": ("(silo_weight) of party 'insurer.s0'", "aggregation 'weighted'"),
    "party.insurer.silo.s0.data=none.csv": ("none.csv", "party insurer.s0"),
}
TREE_JOB: dict[str, Words] = {
    "training.top_rate=0.2": ("top_rate in [training]", "training.subsample"),
    "training.aggregation=fedavg": ("aggregation in [training]", "for model 'boosting'", "no such line"),
    "alignment.protocol=kkrt": ("protocol in [alignment]", "'ecdh' or 'server-aided'"),
}
ALONE_JOB: dict[str, Words] = {
    "training.aggregation_by_layer={intercept='simple'}": ("aggregation_by_layer in [training]", TO_AVERAGE),
    "training.local_epochs=3": ("local_epochs in [training]", "got 3, expected 1", TO_AVERAGE),
    "training.proximal=0.1": ("proximal in [training]", TO_AVERAGE),
    "training.rounds=9": ("rounds in [training]", "training.max_iter decides"),
    "training.batch_size=64": ("batch_size in [training]", "each round takes all rows"),
    "training.learning_rate=0.2": ("learning_rate in [training]", "L-BFGS"),
    "training.server_learning_rate=0.2": ("server_learning_rate in [training]", "L-BFGS"),
    "training.client_fraction=0.5": ("client_fraction in [training]", ALL_PART),
    "training.min_silos=5": ("min_silos in [training]", "got 5 of 4 silos, expected at most 4"),
    "training.round_timeout=5": ("round_timeout in [training]", "it acts with min_silos"),
    "training.newton_steps=1": ("newton_steps in [training]", "only where the coordinator holds a key"),
    "split.validation_fraction=0.1": ("validation_fraction in [split]",),
    "alignment.protocol=ecdh": ("protocol in [alignment]", "got 'ecdh', expected 'auto'", NOT_ALIGNED),
    "alignment.min_intersection=10": ("min_intersection in [alignment]", NOT_ALIGNED),
    "alignment.casefold=true": ("casefold in [alignment]", NOT_ALIGNED),
    "privacy.key_holder=active": ("key_holder in [privacy]", NO_KEY),
    "privacy.exponent_bits=1024": ("exponent_bits in [privacy]", NO_KEY),
    "privacy.label_dp_epsilon=2": ("label_dp_epsilon in [privacy]", "dp = 'local' or 'central'"),
    "privacy.dp_epsilon=2": ("dp_epsilon in [privacy]", "got 2.0, expected none", "dp = 'central' or 'local'"),
    "privacy.dp_delta=1e-6": ("dp_delta in [privacy]", "dp = 'central' or 'local'"),
    "privacy.dp=central": ("dp_epsilon in [privacy]", "got none", "either dp_epsilon or dp_noise"),
    "party.hospitals.silo.s1.weight=2": ("(silo_weight) of party 'hospitals.s1'", "aggregation 'weighted'"),
    "model=boosting": ("model at the top", "'boosting' for silos of one holder", "averaging needs weights"),
}
AVERAGED_JOB: dict[str, Words] = {
    "training.max_iter=9": ("max_iter in [training]", ROUNDS),
    "training.aggregation_by_layer={intercep='simple'}": (
        "aggregation_by_layer",
        "'intercep'",
        "coefficients or inter",
    ),
    "privacy.dp=central": ("dp_epsilon in [privacy]", "got none"),
}
NOISY_JOB: dict[str, Words] = {
    "privacy.dp_noise=1": ("dp_epsilon in [privacy]", "got 8 beside dp_noise 1", "either dp_epsilon or dp_noise"),
    "training.max_iter=9": ("max_iter in [training]", ROUNDS),
    "training.tol=1e-3": ("tol in [training]", "no loss is told"),
    "training.aggregation=fedavg": ("dp in [privacy]", "got 'central' with aggregation 'fedavg'", "'local'"),
}
NETWORK_JOB: dict[str, Words] = {
    "training.mode=split": ("mode in [training]", "no network is split"),
    "training.source_learning_rate=1": ("source_learning_rate in [training]", "no network is split"),
    "training.bottom_hidden=[8]": ("bottom_hidden in [training]", "mode 'source-layer'"),
    "training.early_stopping_rounds=3": ("early_stopping_rounds in [training]", "got 3, expected none"),
    "split.validation_fraction=0.2": ("validation_fraction in [split]", "got 0.2, expected 0.0"),
    "training.server_optimizer=adam": ("server_optimizer in [training]", "training.optimizer steps"),
    "training.client_fraction=0.5": ("client_fraction in [training]", ALL_PART),
    "training.rounds=3": ("rounds in [training]", "training.epochs decides"),
}


def cases(name: str, of: dict[str, Words]) -> list[tuple[str, str]]:
    return [(name, override) for override in of]


JOBS: dict[str, tuple[Siloed | None, dict[str, object], dict[str, Words]]] = {
    "no silos": (None, {}, PLAIN_JOB),
    "hybrid": (HYBRID, {}, HYBRID_JOB),
    "trees": (TREES, {}, TREE_JOB),
    "alone": (ALONE, {}, ALONE_JOB),
    "averaged": (ALONE, AVERAGED, AVERAGED_JOB),
    "noisy": (ALONE, NOISY, NOISY_JOB),
    "network": (NETWORK, {}, NETWORK_JOB),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name.replace(" ", "-"))
            siloed = JOBS[name][0]
            make_companies(made[name]).write() if siloed is None else siloed.write(made[name])
        return made[name]

    return folder


@pytest.mark.parametrize(
    ("name", "override"),
    [case for name, (_, _, of) in JOBS.items() for case in cases(name, of)],
    ids=lambda text: str(text).split("={")[0],
)
def test_what_silos_rule_out(name: str, override: str, folders: Callable[[str], Path], vfl: Command) -> None:
    _, given, of = JOBS[name]
    sets = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    ran = vfl("check", folders(name), *sets, "--set", override)
    assert ran.code == 2
    assert ran.stderr == f"{ran.error}\n", "one line"
    assert [word for word in of[override] if word not in ran.error] == [], ran.error


@pytest.mark.parametrize("name", list(JOBS))
def test_without_that_line_each_of_them_runs(name: str, folders: Callable[[str], Path], vfl: Command) -> None:
    sets = [part for key, value in JOBS[name][1].items() for part in ("--set", f"{key}={value}")]
    ran = vfl("check", folders(name), *sets)
    assert (ran.code, ran.stderr) == (0, "")
    assert "ready to run" in ran.stdout


# files


def spoil(tmp_path: Path, siloed: Siloed, old: str, new: str) -> Path:
    siloed.write(tmp_path)
    file = tmp_path / "scenario.toml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return tmp_path


SILO = '[[party.silo]]\nname = "s1"\ndata = "hospitals.s1.csv"\n'
FILES: dict[str, tuple[Siloed, str, str, Words]] = {
    "one silo and nobody else": (
        Siloed(hospitals=2, insurer=None),
        SILO,
        "",
        ("role in scenario.toml", "no passive party", "'hospitals'", "two [[party.silo]]"),
    ),
    "splitnn beside a passive party": (
        Siloed(hospitals=2, insurer=0),
        'model = "logistic"',
        'model = "splitnn"',
        ("model at the top", "'splitnn' with silos beside passive parties"),
    ),
    "no id beside a passive party": (
        Siloed(hospitals=2, insurer=0),
        'id = "patient"\n',
        "",
        ("missing key 'id' in [[party]] 'hospitals.s0'",),
    ),
    "the same silo twice": (HYBRID, 'name = "s1"', 'name = "s0"', ("name of a silo", "'s0' twice")),
    "a silo of no party": (HYBRID, 'name = "insurer"', 'name = "insurer.x"', ("'insurer.x'", "without a dot")),
    "a line of another silo": (
        HYBRID,
        'data = "insurer.s1.csv"',
        'data = "insurer.s1.csv"\nlabel = "y"',
        ("unknown key 'label' in silo 's1' of party 'insurer'", "did you mean"),
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_bad_files(case: str, tmp_path: Path, vfl: Command) -> None:
    siloed, old, new, words = FILES[case]
    folder = spoil(tmp_path, siloed, old, new)
    for command in (["check", folder], ["run", folder, "--out", tmp_path / "out"]):
        ran = vfl(*command)
        assert (ran.code, ran.stderr) == (2, f"{ran.error}\n")
        assert [word for word in words if word not in ran.error] == [], ran.error
    assert not (tmp_path / "out").exists()


# tables


def change(folder: Path, name: str, edit: Callable[[list[str]], list[str]]) -> None:
    file = folder / f"{name}.csv"
    file.write_text("\n".join(edit(file.read_text().splitlines())) + "\n")


def test_silos_whose_columns_differ_are_named(tmp_path: Path, vfl: Command) -> None:
    HYBRID.write(tmp_path)
    change(tmp_path, "insurer.s2", lambda lines: [lines[0].replace("visits", "calls"), *lines[1:]])
    ran = vfl("check", tmp_path)
    assert ran.code == 2 and ran.stderr.count("\n") == 1
    assert "party 'insurer', column \"" in ran.error and "expected the same columns in all silos" in ran.error
    assert "client" not in ran.error


def test_ids_in_two_silos_are_counted(tmp_path: Path, vfl: Command) -> None:
    HYBRID.write(tmp_path)
    twice = (tmp_path / "insurer.s2.csv").read_text().splitlines()[1:4]
    change(tmp_path, "insurer.s1", lambda lines: lines + twice)
    refused = vfl("check", tmp_path)
    assert refused.code == 2 and "3 ids of party 'insurer'" in refused.error
    for how, fate in (("first", "count for the silo that comes first"), ("drop", "are left out")):
        told = vfl("check", tmp_path, "--set", f"alignment.duplicates={how}")
        assert told.code == 0
        assert f"3 ids of 'insurer' stand in the lists of two of its silos and {fate}" in told.stdout
    for line in twice:
        assert line.split(",")[0] not in refused.stderr + refused.stdout


def test_too_few_common_rows_are_refused_with_pairs_of_parties(tmp_path: Path, vfl: Command) -> None:
    HYBRID.write(tmp_path)
    ran = vfl("check", tmp_path, "--set", "alignment.min_intersection=1000")
    assert ran.code == 2
    assert "got 216, expected at least min_intersection = 1000" in ran.error


def test_a_class_that_one_silo_lacks_is_no_error(tmp_path: Path, vfl: Command) -> None:
    ALONE.write(tmp_path)
    only_yes: Callable[[list[str]], list[str]] = lambda lines: [lines[0], *(x for x in lines[1:] if "yes" in x)]  # noqa: E731
    change(tmp_path, "hospitals.s1", only_yes)
    ran = vfl("check", tmp_path)
    assert (ran.code, ran.stderr) == (0, "")
    assert "1 of 2 classes" in ran.stdout and "2 of 2 classes" in ran.stdout


def test_two_silos_need_consent_where_guards_are_enforced(tmp_path: Path, vfl: Command) -> None:
    siloed = Siloed(hospitals=2, insurer=None, rows=3000)
    siloed.write(tmp_path)
    assert vfl("check", tmp_path, "--strict").code == 0
    refused = vfl("check", tmp_path, "--strict", "--set", "party.hospitals.policy.two_silos=false")
    assert refused.code == 2 and "two silos: party 'hospitals.s0'" in refused.error
    warned = vfl("check", tmp_path, "--set", "party.hospitals.policy.two_silos=false")
    assert warned.code == 0 and "between companies this would be refused because two silos" in warned.stdout


def test_an_alignment_needs_somebody_to_align_with(tmp_path: Path, vfl: Command) -> None:
    ALONE.write(tmp_path)
    for command in (["check", tmp_path, "--ids"], ["psi", tmp_path, "--out", tmp_path / "out"]):
        ran = vfl(*command)
        assert ran.code == 2 and ran.stderr.count("\n") == 1
        assert "silos of one party have rows of their own, and nothing to align" in ran.error


def test_ids_alone_are_counted_by_party(tmp_path: Path, vfl: Command) -> None:
    HYBRID.write(tmp_path)
    ran = vfl("check", tmp_path, "--ids")
    assert (ran.code, ran.stderr) == (0, "")
    assert "216 common ids, alignment.min_intersection is 100" in ran.stdout
    twice = (tmp_path / "insurer.s2.csv").read_text().splitlines()[1]
    change(tmp_path, "insurer.s1", lambda lines: [*lines, twice])
    assert "1 ids of party 'insurer'" in vfl("check", tmp_path, "--ids").error
    assert "215 common ids" in vfl("check", tmp_path, "--ids", "--set", "alignment.duplicates=drop").stdout
