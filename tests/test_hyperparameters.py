import os
import re
import signal
from types import SimpleNamespace

import numpy as np
import pytest
from common import everything_in

import distillation
import distillation_no_three
import evaluate
import train
from support.checkpoints import load_checkpoint
from support.command_line import Parser, hyperparameter_flags
from support.errors import TrainingFailed, UserError
from support.hyperparameters import (
    COUNT,
    OPTIMIZER,
    POSITIVE,
    PROBABILITY,
    SHARE,
    checked_params,
    default_params,
)
from support.script import run_script
from training_params import LocalParams, PaperParams

KINDS = ("Cumbersome", "Small", "Distilled")

# Of every hyperparameter a value that is neither its local nor its paper value.
OTHER = {
    "hidden_units": 7,
    "epochs": 2,
    "schedule_epochs": 9,
    "batch_size": 800,
    "optimizer": {"sgd": "adam", "adam": "sgd"},
    "learning_rate": 0.123,
    "rate_schedule": {"linear": "exponential", "exponential": "linear"},
    "rate_decay": 0.9,
    "momentum_start": 0.25,
    "momentum_end": 0.75,
    "momentum_epochs": 4,
    "adam_beta2": 0.95,
    "dropout_visible": 0.1,
    "dropout_hidden": 0.3,
    "max_squared_length": 7.5,
    "jitter": 1,
    "init_std": 0.03,
    "temperature": 3.5,
    "hard_weight": 0.25,
}


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
    ("script", "kind", "words"),
    [
        (train, "Cumbersome", "--model cumbersome"),
        (train, "Small", "--model small"),
        (distillation, "Distilled", ""),
        (distillation_no_three, "Distilled", ""),
    ],
)
@pytest.mark.parametrize("params", ["local", "paper"])
def test_every_flag_overrides_its_value_and_the_checkpoint_records_all(
    call, teacher, script, kind, words, params
):
    defaults = vars(default_params(params, kind))
    changed = {
        name: other[defaults[name]] if isinstance(other := OTHER[name], dict) else other
        for name in defaults
    }
    if kind == "Distilled":
        changed["jitter"] = 0  # the only value that distillation takes
        words = f"--teacher {teacher}"
    assert all(changed[name] != defaults[name] for name in defaults if name != "jitter")
    flags = [word for n, v in changed.items() for word in (f"--{n.replace('_', '-')}", v)]
    call(script, words, *flags, "--params", params, "--output net.pt --quiet")
    assert load_checkpoint("net.pt")["parameters"] == changed


@pytest.mark.parametrize("params", ["local", "paper"])
def test_without_flags_the_chosen_class_is_what_trains(call, params):
    call(train, "--model", "small", "--params", params, "--epochs", 1, "--hidden-units", 3)
    recorded = load_checkpoint("runs/small_model_3.pt")["parameters"]
    assert recorded == vars(default_params(params, "Small")) | {"epochs": 1, "hidden_units": 3}


def test_without_the_digit_a_net_of_300_units_is_distilled_at_temperature_8(call, teacher):
    call(distillation_no_three, "--teacher", teacher, "--epochs", 1, "--quiet")
    recorded = load_checkpoint("runs/distilled_model_wo3_300_8.pt")["parameters"]
    assert (recorded["hidden_units"], recorded["temperature"]) == (300, 8)


@pytest.mark.parametrize(
    ("script", "kind"),
    [(train, "Cumbersome"), (distillation, "Distilled"), (distillation_no_three, "Distilled")],
)
def test_help_tells_every_hyperparameter_with_its_meaning_and_values(stops, script, kind):
    stop = stops(script, "--help")
    assert (stop.status, stop.err) == (0, "")
    told = dict(re.findall(r"^  --([\w-]+) [\w|]+ \.\.\.\s+(.*)$", stop.out, re.MULTILINE))
    local, paper = (vars(default_params(params, kind)) for params in ("local", "paper"))
    for name in local:
        meaning, defaults = re.fullmatch(r"(.+) \[(.+)\]", told[name.replace("_", "-")]).groups()
        assert len(meaning.split()) >= 3
        if script is distillation_no_three and name in distillation_no_three.DEFAULTS:
            continue  # it has values of its own
        assert f"{local[name]}" in defaults
        assert f"{paper[name]}" in defaults


def test_help_of_the_script_without_threes_tells_the_values_that_it_takes(stops):
    out = stops(distillation_no_three, "--help").out
    told = dict(re.findall(r"^  --([\w-]+) [\w|]+ \.\.\.\s+(.*)$", out, re.MULTILINE))
    assert re.search(r"\[.*\b300\b", told["hidden-units"])
    assert re.search(r"\[.*\b8(\.0)?\b", told["temperature"])


def test_help_of_evaluate_tells_its_flags(stops):
    stop = stops(evaluate, "--help")
    assert stop.status == 0
    assert all(flag in stop.out for flag in ("--json", "--data", "--data-dir", "CHECKPOINT"))


@pytest.mark.parametrize("script", [train, distillation, distillation_no_three, evaluate])
def test_help_writes_nothing(stops, tmp_path, script):
    stops(script, "--help")
    assert everything_in(tmp_path) == {"here": None}


def fail(error):
    raise error


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("do this"), 2, "error: do this\n"),
        (TrainingFailed("try that"), 1, "error: try that\n"),
    ],
)
def test_each_way_to_stop_has_a_status_of_its_own(capsys, error, status, line):
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: fail(error))
    assert stop.value.code == status
    assert capsys.readouterr().err == line


def test_a_script_that_ends_well_has_status_0():
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: None)
    assert not stop.value.code


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_script_that_is_stopped_has_the_status_of_the_signal(capsys, signum, status):
    with pytest.raises(SystemExit) as stop:
        run_script(lambda: os.kill(os.getpid(), signum))
    assert stop.value.code == status
    assert capsys.readouterr().err == ""


def test_an_error_of_the_program_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_script(lambda: fail(ZeroDivisionError()))


def test_an_error_in_a_word_of_several_lines_is_one_line(stops):
    for words in (["--foo\nbar"], ["--epochs", "\n5000000\n"]):
        stop = stops(train, *words)
        assert (stop.status, len(stop.err.splitlines())) == (2, 1)


def test_a_default_of_a_script_is_taken_in_its_type():
    parser = Parser("", description="")
    hyperparameter_flags(parser, "Distilled", hidden_units="300")
    assert parser.parse_args([]).hidden_units == [300]
