"""One party's lines: rules that bind several keys, composite ids, the positive class as text."""

from __future__ import annotations

import msgspec
import pytest

from parties.errors import ConfigError
from parties.spec import PartySpec, check_spec


def bank(**changes: object) -> PartySpec:
    lines = {"name": "bank", "role": "active", "data": "bank.csv", "id": "customer", "label": "default"}
    return msgspec.convert(lines | changes, PartySpec)


def biller(**changes: object) -> PartySpec:
    return msgspec.convert({"name": "biller", "role": "passive", "data": "b.csv", "id": "client"} | changes, PartySpec)


def test_plain_parties_pass_and_have_the_defaults_of_the_contract() -> None:
    spec = bank()
    check_spec(spec)
    check_spec(biller())
    assert (spec.encoding, spec.unknown_category, spec.features, spec.drop) == ("utf-8", "refuse", None, ())
    assert spec.policy.key_bits == 2048
    assert spec.policy.min_intersection == 100
    assert not spec.policy.partial_scores
    assert not spec.policy.small_data


@pytest.mark.parametrize(("given", "columns"), [("client", ("client",)), (["branch", "client"], ("branch", "client"))])
def test_id_is_one_column_or_several_in_order(given: object, columns: tuple[str, ...]) -> None:
    spec = biller(id=given)
    check_spec(spec)
    assert spec.id_columns == columns


@pytest.mark.parametrize(
    ("given", "text"),
    [("yes", "yes"), (1, "1"), (0, "0"), (1.5, "1.5"), (True, "true"), (False, "false"), (None, None)],
)
def test_positive_is_compared_as_text(given: object, text: str | None) -> None:
    assert bank(positive=given).positive_text == text


@pytest.mark.parametrize("name", ["", "Bank", "-bank", "a b", "a/b", "bank\n", "b" * 65, "é"])
def test_names_that_could_leave_their_folder_are_no_names(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        bank(name=name)


@pytest.mark.parametrize("name", ["b", "9", "card-network", "a_b", "b" * 64])
def test_names_of_the_contract(name: str) -> None:
    check_spec(bank(name=name))


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        (bank(name="coordinator"), ["name of party 'coordinator'", "another"]),
        (bank(label=None), ["label missing", "'bank'", "file.toml", "label column"]),
        (biller(label="y"), ["label in passive party 'biller'", "active party only", "remove"]),
        (biller(positive=0), ["positive in passive party 'biller'", "active party only"]),
        (biller(positive=False), ["positive in passive party 'biller'"]),
        (biller(sample_weight="w"), ["sample_weight in passive party 'biller'"]),
        (bank(label="customer"), ["'customer'", "twice"]),
        (bank(id=["a", "a"]), ["'a'", "twice"]),
        (bank(sample_weight="default"), ["'default'", "twice"]),
        (bank(features=["age", "default"]), ["features", "'default'", "remove"]),
        (bank(drop=["customer"]), ["drop", "'customer'"]),
        (bank(categorical=["default"]), ["categorical", "'default'"]),
        (bank(features=["age"], drop=["age"]), ["'age'", "features", "drop"]),
        (bank(features=["age"], categorical=["job"]), ["categorical", "'job'", "features"]),
        (bank(encoding="utf-9"), ["encoding", "'utf-9'", "cp1252"]),
        (bank(encoding="base64"), ["encoding", "'base64'"]),
        (bank(encoding="a\0b"), ["encoding"]),
        (
            biller(monotone_constraints={"rent": 1}),
            [
                "monotone_constraints in passive party 'biller'",
                "'rent'",
                "active party only",
                "order",
                "remove the line",
            ],
        ),
        (biller(monotone_constraints={"rent": 0}), ["monotone_constraints in passive party 'biller'"]),
        (bank(monotone_constraints={"customer": 1}), ["monotone_constraints", "'customer'", "its id, label or weight"]),
        (bank(monotone_constraints={"default": -1}), ["monotone_constraints", "'default'", "its id, label or weight"]),
        (
            bank(sample_weight="w", monotone_constraints={"age": 1, "w": 0}),
            ["monotone_constraints", "'w'", "its id, label or weight"],
        ),
        (bank(drop=["age"], monotone_constraints={"age": 1}), ["monotone_constraints", "'age'", "in drop"]),
        (bank(features=["a"], monotone_constraints={"age": 1}), ["monotone_constraints", "'age'", "not in features"]),
        (bank(features=[], monotone_constraints={"age": 1}), ["monotone_constraints", "'age'", "not in features"]),
        (
            bank(categorical=["job"], monotone_constraints={"job": 1}),
            ["monotone_constraints", "'job'", "in categorical", "got", "expected numeric columns"],
        ),
        (bank(positive=2**63), ["positive", "'bank'", "64 bits", "text"]),
        (bank(data="a\0b"), ["data", "zero byte"]),
    ],
)
def test_lines_that_contradict_each_other(spec: PartySpec, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_spec(spec, "file.toml")
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in [*parts, "file.toml"] if part not in message] == []


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "cp1252", "utf-16", "gb18030", "UTF8"])
def test_encodings_that_python_reads(encoding: str) -> None:
    check_spec(biller(encoding=encoding))


def test_monotone_constraints_of_the_active_party() -> None:
    constraints = {"age": 1, "rent": -1, "sex": 0}
    spec = bank(features=["age", "rent", "sex", "job"], categorical=["job"], monotone_constraints=constraints)
    check_spec(spec)
    assert spec.monotone_constraints == constraints
    assert bank().monotone_constraints == {}
    assert bank().monotone_constraints is not bank().monotone_constraints, "each party has its own"
    check_spec(biller(monotone_constraints={}))
    for wrong in ({"age": 2}, {"age": True}, {"age": 1.0}, {"": 1}, [], 1):
        with pytest.raises(msgspec.ValidationError):
            bank(monotone_constraints=wrong)


def test_an_active_party_without_features_lists_none() -> None:
    spec = bank(features=[])
    check_spec(spec)
    assert spec.features == ()


def test_unknown_keys_are_refused_in_json_too() -> None:
    with pytest.raises(msgspec.ValidationError):
        bank(lable="default")
