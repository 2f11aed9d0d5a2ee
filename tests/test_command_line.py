"""Flags, their defaults and the help."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from common import FAKE_TENSORBOARD, FakeWriter, Reached, stop_when_understood

import distillation
import distillation_no_three
import evaluate
import explore
import train
from support.checkpoints import load_checkpoint
from support.hyperparameters import default_params

# Values

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


def test_without_the_digit_the_same_net_is_distilled_for_longer(call, teacher):
    call(distillation_no_three, "--teacher", teacher, "--quiet --batch-size 3000")
    recorded = load_checkpoint("runs/distilled_model_wo3_800_20.pt")["parameters"]
    own = {"epochs": 40, "schedule_epochs": 40, "batch_size": 3000}
    assert recorded == vars(default_params("local", "Distilled")) | own


def test_a_path_that_starts_with_the_home_folder_is_expanded(call, monkeypatch, teacher, tmp_path):
    """The shell leaves the ~ of `--output=~/net.pt` as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", FAKE_TENSORBOARD)
    shutil.copy(teacher, tmp_path / "teacher.pt")
    words = "--teacher=~/teacher.pt --hidden-units 5 --epochs 1 --log=~/events --quiet"
    call(distillation, words, "--output=~/net.pt --results=~/lines.csv")
    assert (tmp_path / "net.pt").exists() and (tmp_path / "lines.csv").exists()
    assert FakeWriter.last.folder == str(tmp_path / "events" / "net")
    call(evaluate, "~/net.pt")
    assert not list(Path(".").iterdir())


# Help


@pytest.mark.parametrize(
    ("script", "kind", "own"),
    [
        (train, "Cumbersome", {}),
        (distillation, "Distilled", {}),
        (distillation_no_three, "Distilled", distillation_no_three.DEFAULTS),
        (evaluate, None, {}),
        (explore, None, {}),
    ],
)
def test_help_tells_every_hyperparameter_with_its_meaning_and_values(stops, script, kind, own):
    stop = stops(script, "--help")
    assert (stop.status, stop.err) == (0, "")
    if kind is None:
        own_flag = {evaluate: "--json", explore: "--open"}[script]
        assert all(flag in stop.out for flag in (own_flag, "--data", "--data-dir", "CHECKPOINT"))
        return
    told = dict(re.findall(r"^  --([\w-]+) [^[]+\[[\w|]+ \.\.\.\]\s+(.*)$", stop.out, re.MULTILINE))
    local, paper = (vars(default_params(params, kind)) for params in ("local", "paper"))
    for name in local:
        meaning, defaults = re.fullmatch(r"(.+) \[(.+)\]", told[name.replace("_", "-")]).groups()
        assert len(meaning.split()) >= 3
        values = [own[name]] if name in own else [local[name], paper[name]]
        assert all(f"{value}" in defaults for value in values)


@pytest.mark.parametrize("script", [train, distillation, distillation_no_three, evaluate, explore])
def test_the_examples_in_the_help_can_be_parsed(script, monkeypatch, capsys):
    """Each is a command line of this script that is not refused."""
    examples = script.EXAMPLES.splitlines()
    assert examples
    stop_when_understood(script, monkeypatch)
    for example in examples:
        words = shlex.split(example, comments=True)
        place = words.index(f"{script.__name__}.py")
        monkeypatch.setattr("sys.argv", words[place:])
        with pytest.raises(Reached):
            script.main()
