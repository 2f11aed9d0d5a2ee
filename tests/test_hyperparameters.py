import dataclasses
import sys
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from common import ROOT, first_net, same_weights, some_params, trained

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


NOT_REGULARISED = "dropout_visible 0.0 dropout_hidden 0.0 max_squared_length 0.0 jitter 0"


@pytest.mark.parametrize(
    ("kind", "published"),
    [
        (
            "Cumbersome",
            "hidden_units 1200 epochs 3000 schedule_epochs 3000 batch_size 100 optimizer sgd "
            "learning_rate 10.0 rate_schedule exponential rate_decay 0.998 momentum_start 0.5 "
            "momentum_end 0.99 momentum_epochs 500 dropout_visible 0.2 dropout_hidden 0.5 "
            "max_squared_length 15.0 jitter 2 init_std 0.01",
        ),
        ("Small", f"hidden_units 800 {NOT_REGULARISED}"),
        ("Distilled", f"hidden_units 800 temperature 20.0 {NOT_REGULARISED}"),
    ],
)
def test_paper_params_hold_the_published_values(kind, published):
    words = published.split()
    values = vars(default_params("paper", kind))
    assert [str(values[name]) for name in words[::2]] == words[1::2]
    own = {name for name in vars(getattr(PaperParams, kind)) if name[0] != "_"}
    assert own == {*words[::2]}  # all others are inherited


@pytest.mark.parametrize("kind", KINDS)
def test_local_nets_have_the_sizes_and_the_regularisation_of_the_paper(kind):
    local, paper = vars(default_params("local", kind)), vars(default_params("paper", kind))
    for name in ("hidden_units", *NOT_REGULARISED.split()[::2]):
        assert local[name] == paper[name]


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
        (np.str_("adam"), OPTIMIZER, "adam"),
        *[(kind("0.001"), POSITIVE, 0.001) for kind in (Decimal, Fraction, np.longdouble)],
    ],
)
def test_a_possible_value_is_taken_in_its_type(text, allowed, value):
    checked = allowed.check(text)
    assert checked == pytest.approx(value)
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
        *[(value, OPTIMIZER) for value in (0, None, ["sgd"], np.array(["adam"]))],
        *[(value, COUNT) for value in (np.bool_(True), torch.tensor(True), 10**400)],
        (10**400, POSITIVE),
    ],
)
def test_an_impossible_value_is_refused_with_what_is_allowed(text, allowed):
    wanted = "sgd, adam" if allowed.words else r"number (of at least|above)"
    with pytest.raises(UserError, match=wanted):
        allowed.check(text)


@pytest.mark.parametrize("params", [LocalParams, PaperParams])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("epochs", value) for value in ("ten", 0, 2.5, None)],
        *[("learning_rate", value) for value in ("fast", -1.0, float("nan"))],
        *[("optimizer", value) for value in ("rmsprop", 1)],
        *[("batch_size", True), ("dropout_hidden", 1.0), ("jitter", 29), ("epoch", 20)],
    ],
)
def test_an_edited_class_with_a_wrong_value_is_named_with_its_field(
    monkeypatch, params, field, value
):
    monkeypatch.setattr(params.Small, field, value, raising=False)
    name = "local" if params is LocalParams else "paper"
    with pytest.raises(UserError, match=rf"{params.__name__}\.Small\.{field}\b"):
        default_params(name, "Small")
    if params is PaperParams:
        default_params("local", "Small")
    elif field in vars(PaperParams.Small):  # others are inherited
        default_params("paper", "Small")


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
    for which in (role, None):  # without a role those that every net has
        found = checked_params(getattr(PaperParams, role), which)
        assert vars(found).items() <= vars(expected).items()
        assert len(vars(expected)) - len(vars(found)) in ((0, 2) if which is None else (0,))
        assert checked_params(SimpleNamespace(**vars(expected)), which) == found
        for change in ({"epoch": 3}, {"epochs": "ten"}, {"jitter": 29}):
            with pytest.raises(UserError, match=next(iter(change))):
                checked_params(SimpleNamespace(**vars(expected) | change), which)


@pytest.mark.parametrize(
    "form",
    [dict, lambda fields: type("Mine", (LocalParams.Small,), fields)],
    ids=["dict", "class"],
)
def test_hyperparameters_may_come_in_any_form_but_not_misspelt(some_digits, form):
    params = some_params(epochs=1)
    fields, (net, _) = vars(params), trained(params, some_digits)
    other = first_net(params)
    train.train(other, some_digits, form(fields))
    assert same_weights(net, other)
    for wrong in ({"learning_rat": 9}, {"epochs": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            train.train(other, some_digits, form(fields | wrong))


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
    refused, monkeypatch, tmp_path, old, new, named
):
    text = (ROOT / "training_params.py").read_text()
    assert old in text
    (tmp_path / "training_params.py").write_text(text.replace(old, new, 1))
    monkeypatch.delitem(sys.modules, "training_params")
    monkeypatch.syspath_prepend(tmp_path)
    refused(distillation, naming=f"training_params.py {named}")


def test_an_object_with_methods_and_odd_keys_are_told_apart():
    fields = vars(default_params("local", "Small"))
    Mine = dataclasses.make_dataclass("Mine", fields, namespace={"total": lambda self: 3})
    assert checked_params(Mine(**fields)) == default_params("local", "Small")
    with pytest.raises(UserError, match="1 is not a hyperparameter"):
        checked_params({**fields, 1: 2, "x": 3})


def test_values_of_a_net_that_has_no_teacher_are_not_those_of_a_student():
    with pytest.raises(UserError, match="temperature is missing"):
        checked_params(default_params("local", "Small"), "Distilled")
