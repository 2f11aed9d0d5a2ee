import dataclasses
import re
import sys
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from common import ROOT, first_net, same_weights, some_params

import distillation
import train
from support.errors import UserError
from support.hyperparameters import (
    COUNT,
    OPTIMIZER,
    POSITIVE,
    PROBABILITY,
    SHARE,
    TEMPERATURE,
    checked_params,
    default_params,
)
from training_params import LocalParams, PaperParams

KINDS = ("Cumbersome", "Small", "Distilled")


@pytest.mark.parametrize(
    ("kind", "published"),
    [
        (
            "Cumbersome",
            {
                "hidden_units": 1200,
                "epochs": 3000,
                "batch_size": 100,
                "optimizer": "sgd",
                "learning_rate": 10,
                "rate_schedule": "exponential",
                "rate_decay": 0.998,
                "momentum_start": 0.5,
                "momentum_end": 0.99,
                "momentum_epochs": 500,
                "dropout_visible": 0.2,
                "dropout_hidden": 0.5,
                "max_squared_length": 15,
                "jitter": 2,
                "init_std": 0.01,
            },
        ),
        (
            "Small",
            {
                "hidden_units": 800,
                "dropout_visible": 0,
                "dropout_hidden": 0,
                "max_squared_length": 0,
                "jitter": 0,
            },
        ),
        (
            "Distilled",
            {
                "hidden_units": 800,
                "temperature": 20,
                "dropout_visible": 0,
                "dropout_hidden": 0,
                "max_squared_length": 0,
                "jitter": 0,
            },
        ),
    ],
)
def test_paper_params_hold_the_published_values(kind, published):
    values = vars(default_params("paper", kind))
    assert {name: values[name] for name in published} == published


@pytest.mark.parametrize("kind", KINDS)
def test_both_classes_have_the_same_hyperparameters(kind):
    assert vars(default_params("local", kind)).keys() == vars(default_params("paper", kind)).keys()


@pytest.mark.parametrize("kind", KINDS)
def test_local_nets_have_the_sizes_and_the_regularisation_of_the_paper(kind):
    local, paper = vars(default_params("local", kind)), vars(default_params("paper", kind))
    for name in ("hidden_units", "dropout_visible", "dropout_hidden", "max_squared_length"):
        assert local[name] == paper[name]
    assert local["jitter"] == paper["jitter"]


@pytest.mark.parametrize(
    ("text", "allowed", "value"),
    [
        ("3", COUNT, 3),
        (3, COUNT, 3),
        (3.0, COUNT, 3),
        ("1e-3", POSITIVE, 0.001),
        (2, POSITIVE, 2.0),
        ("0", PROBABILITY, 0.0),
        ("1", SHARE, 1.0),
        ("adam", OPTIMIZER, "adam"),
    ],
)
def test_a_possible_value_is_taken_in_its_type(text, allowed, value):
    checked = allowed.check(text)
    assert checked == value
    assert type(checked) is type(value)


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        *[(text, COUNT) for text in ("0", "-1", "1.5", "x", "", "nan", "10000000")],
        *[(value, COUNT) for value in (0, 1.5, None, True, float("nan"), float("inf"), [1])],
        *[(text, POSITIVE) for text in ("0", "-1", "nan", "inf", "-inf", "x", "1e9")],
        *[(value, POSITIVE) for value in (0, None, False, "0,1", float("nan"), {})],
        *[(text, PROBABILITY) for text in ("1", "1.1", "-0.1", "nan")],
        *[(text, SHARE) for text in ("1.01", "-0.01", "inf")],
        *[(text, TEMPERATURE) for text in ("0", "-1", "0.001", "1001", "inf")],
        *[(text, OPTIMIZER) for text in ("rmsprop", "", "SGD")],
        *[(value, OPTIMIZER) for value in (0, None, ["sgd"])],
    ],
)
def test_an_impossible_value_is_refused_with_what_is_allowed(text, allowed):
    with pytest.raises(
        ValueError, match="sgd, adam" if allowed.words else r"number (of at least|above)"
    ):
        allowed.check(text)


@pytest.mark.parametrize("params", [LocalParams, PaperParams])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", "ten"),
        ("epochs", 0),
        ("epochs", 2.5),
        ("epochs", None),
        ("batch_size", True),
        ("learning_rate", "fast"),
        ("learning_rate", -1.0),
        ("learning_rate", float("nan")),
        ("dropout_hidden", 1.0),
        ("optimizer", "rmsprop"),
        ("optimizer", 1),
        ("jitter", 29),
    ],
)
def test_an_edited_class_with_a_wrong_value_is_named_with_its_field(
    monkeypatch, params, field, value
):
    monkeypatch.setattr(params.Small, field, value)
    name = "local" if params is LocalParams else "paper"
    with pytest.raises(UserError, match=rf"{params.__name__}\.Small\.{field}\b"):
        default_params(name, "Small")
    other = {"local": "paper", "paper": "local"}[name]
    default_params(other, "Small")


@pytest.mark.parametrize("params", [LocalParams, PaperParams])
def test_an_edited_class_with_an_unknown_or_a_missing_field_is_named_with_it(monkeypatch, params):
    name = "local" if params is LocalParams else "paper"
    with monkeypatch.context() as patch:
        patch.setattr(params.Distilled, "temprature", 4.0, raising=False)
        with pytest.raises(UserError, match=rf"{params.__name__}\.Distilled\.temprature"):
            default_params(name, "Distilled")
    with monkeypatch.context() as patch:
        patch.delattr(params.Distilled, "temperature")
        with pytest.raises(UserError, match=rf"{params.__name__}\.Distilled\.temperature"):
            default_params(name, "Distilled")


@pytest.mark.parametrize("role", KINDS)
def test_a_misspelt_or_impossible_value_set_from_python_is_refused(role):
    params = default_params("local", role)
    with pytest.raises(UserError, match=r"learning_rat.*learning_rate\?"):
        params.learning_rat = 9
    with pytest.raises(UserError, match="epochs"):
        params.epochs = 0
    params.epochs = np.int64(3)
    params.learning_rate = np.float32(0.5)
    assert (type(params.epochs), params.epochs) == (int, 3)
    assert (type(params.learning_rate), params.learning_rate) == (float, 0.5)


@pytest.mark.parametrize("role", KINDS)
def test_a_class_or_any_object_is_taken_as_hyperparameters(role):
    expected = default_params("paper", role)
    assert checked_params(getattr(PaperParams, role)) == expected
    assert checked_params(SimpleNamespace(**vars(expected))) == expected
    for change in ({"epoch": 3}, {"epochs": "ten"}, {"jitter": 29}):
        with pytest.raises(UserError, match=next(iter(change))):
            checked_params(SimpleNamespace(**vars(expected) | change))


def test_a_class_of_hyperparameters_serves_as_they_are(some_digits):
    class Mine(LocalParams.Small):
        hidden_units = 12
        epochs = 1

    as_class, as_object = first_net(Mine), first_net(Mine)
    train.train(as_class, some_digits, Mine)
    params = default_params("local", "Small")
    params.epochs = 1
    train.train(as_object, some_digits, params)
    assert same_weights(as_class, as_object)


@pytest.mark.parametrize(
    "form", [dict, lambda fields: type("Mine", (), fields)], ids=["dict", "class"]
)
def test_hyperparameters_may_come_in_any_form_but_not_misspelt(some_digits, form):
    fields = vars(some_params(epochs=1))
    assert len(train.train(first_net(some_params()), some_digits, form(fields))) == 1
    for wrong in ({"learning_rat": 9}, {"epochs": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            train.train(first_net(some_params()), some_digits, form(fields | wrong))


@pytest.mark.parametrize("params", [LocalParams, PaperParams])
@pytest.mark.parametrize("edit", ["wrong", "unknown", "missing"])
def test_a_script_says_in_one_line_what_is_wrong_in_an_edited_class(
    monkeypatch, stops, params, edit
):
    cls, field = params.Cumbersome, {"wrong": "epochs", "missing": "jitter"}.get(edit, "speed")
    if edit == "missing":
        monkeypatch.delattr(cls, field)
    else:
        monkeypatch.setattr(cls, field, "ten", raising=False)
    stop = stops(train, "--params", "local" if params is LocalParams else "paper")
    assert stop.status == 2
    assert re.fullmatch(rf"error: .*{params.__name__}\.Cumbersome\.{field}\b.*\n", stop.err)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("learning_rate = 0.002  # 0.001", "learning_rat = 0.002  # 0.001", "learning_rat"),
        ("class Distilled:", "class Distiled:", "LocalParams"),
        ("class LocalParams:", "class LocalParam:", "LocalParams"),
        ("epochs = 400", "epochs = ", "SyntaxError"),
        ("temperature = 20.0  # [KD] s.3\n        hard", "hard", "temperature"),
        ("epochs = 400", "epochs = len.so", "AttributeError"),
    ],
)
def test_any_edit_of_the_file_that_goes_wrong_is_one_line(
    stops, monkeypatch, tmp_path, old, new, named
):
    text = (ROOT / "training_params.py").read_text()
    assert old in text
    (tmp_path / "training_params.py").write_text(text.replace(old, new, 1))
    monkeypatch.delitem(sys.modules, "training_params")
    monkeypatch.syspath_prepend(tmp_path)
    stop = stops(distillation)
    assert stop.status == 2
    assert stop.err.startswith("error: training_params.py") and named in stop.err
    assert len(stop.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        (np.bool_(True), COUNT),
        (torch.tensor(True), COUNT),
        (np.array(["adam"]), OPTIMIZER),
        (10**400, COUNT),
        (10**400, POSITIVE),
    ],
)
def test_odd_values_are_refused(value, allowed):
    with pytest.raises(ValueError, match="not"):
        allowed.check(value)


@pytest.mark.parametrize("value", [Decimal("0.001"), Fraction(1, 1000), np.longdouble("0.001")])
def test_numbers_of_all_kinds_are_taken(value):
    assert POSITIVE.check(value) == pytest.approx(0.001)
    assert type(POSITIVE.check(value)) is float


def test_a_word_of_numpy_is_taken_as_a_word():
    assert type(OPTIMIZER.check(np.str_("adam"))) is str


def test_an_object_with_methods_and_odd_keys_are_told_apart():
    fields = vars(default_params("local", "Small"))
    Mine = dataclasses.make_dataclass("Mine", fields, namespace={"total": lambda self: 3})
    assert checked_params(Mine(**fields)) == default_params("local", "Small")
    with pytest.raises(UserError, match="1 is not a hyperparameter"):
        checked_params({**fields, 1: 2, "x": 3})


def test_a_class_that_there_is_not_is_named():
    with pytest.raises(UserError, match="mine"):
        default_params("mine", "Small")
