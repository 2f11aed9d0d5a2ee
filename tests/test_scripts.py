import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from common import (
    ROOT,
    Reached,
    everything_in,
    random_net,
    reached,
    same_weights,
    split_words,
)

import distillation
import distillation_no_three
import evaluate
import train
from support.checkpoints import load_checkpoint, load_model, save_model
from support.reporting import Progress, in_units
from training_params import LocalParams

SMALL = "--model small --hidden-units 10 --epochs 1"


def python(*words, cwd, status=0):
    """`python words` in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *split_words(*words)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == status, done.stderr
    return done


def test_the_scripts_train_distil_and_evaluate_from_the_command_line(tmp_path):
    """One process each, in another folder than the repository."""
    here = tmp_path / "here"
    words = "--data sample --threads 1 --epochs 1 --hidden-units 30"

    done = python(ROOT / "train.py", "--model small", words, cwd=here)
    assert done.stderr == ""
    assert re.search(r"\d+ errors on 1,000 images of sample", done.stdout)
    assert f"learning_rate={LocalParams.Small.learning_rate}" in done.stdout

    teacher = "--teacher runs/small_model_30.pt"
    done = python(ROOT / "distillation.py", teacher, words, cwd=here)
    assert done.stderr == ""
    assert "temperature=20.0" in done.stdout

    done = python(ROOT / "distillation_no_three.py", teacher, words, "--quiet", cwd=here)
    assert done.stderr == ""
    assert "as learned" in done.stdout

    names = ["small_model_30", "distilled_model_30_20", "distilled_model_wo3_30_8"]
    paths = [here / "runs" / f"{name}.pt" for name in names]
    histories = [Path(f"{path}.csv") for path in paths]
    assert sorted(here.rglob("*")) == sorted([here / "runs", *paths, *histories])
    done = python(ROOT / "evaluate.py", "--data sample --json", *paths, cwd=here)
    assert done.stderr == ""
    for row, path in zip(json.loads(done.stdout), paths, strict=True):
        result = load_checkpoint(path)["result"]
        assert {name: row[name] for name in result} == result
        assert not load_model(path).training


def test_a_refused_command_line_is_one_line_and_status_2_for_the_shell(tmp_path):
    done = python(ROOT / "train.py", "--epochs", 0, cwd=tmp_path / "here", status=2)
    assert done.stdout == ""
    assert done.stderr.startswith("error: argument --epochs: 0 is not a whole number")
    assert len(done.stderr.splitlines()) == 1


def test_a_reader_that_stops_reading_causes_no_traceback(tmp_path, teacher):
    command = f"{sys.executable} {ROOT}/evaluate.py --data sample --json {teacher} | exec true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=100)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_closed_stream_stops_nothing(tmp_path, closed):
    command = f"{sys.executable} {ROOT}/train.py {SMALL} --data sample --output net.pt {closed}"
    done = subprocess.run(command, shell=True, capture_output=True, cwd=tmp_path, timeout=100)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "net.pt").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with a name")
def test_a_pipe_is_not_waited_for(stops, teacher, tmp_path):
    os.mkfifo("pipe")
    assert stops(evaluate, "pipe").status == 2
    assert stops(distillation, "--teacher pipe").status == 2
    assert stops(train, SMALL, "--output pipe").status == 2
    assert stops(train, SMALL, "--data mnist --data-dir pipe").status == 2


DEVICES = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
BAD = [
    # numbers
    *[(train, f"--epochs {value}") for value in ("0", "-1", "x", "1.5", "nan", "")],
    *[(train, f"{SMALL} --epochs {value}") for value in ("0", "1e3")],
    *[(distillation, f"--temperature {value}") for value in ("0", "-1", "nan", "inf", "x")],
    *[(train, f"--hidden-units {value}") for value in ("0", "-3", "99999", "x")],
    *[(train, f"--learning-rate {value}") for value in ("0", "-0.1", "nan", "inf")],
    *[(train, f"--batch-size {value}") for value in ("0", "x")],
    *[(train, f"--dropout-hidden {value}") for value in ("1", "-0.1", "nan")],
    *[(train, f"--seed {value}") for value in ("-1", "4294967296", "x", "0.5")],
    *[(train, f"--threads {value}") for value in ("0", "-1")],
    *[(distillation, f"--hard-weight {value}") for value in ("-0.1", "1.1")],
    *[(distillation_no_three, f"--bias-shift {value}") for value in ("x", "nan", "inf")],
    # words
    (train, "--optimizer rmsprop"),
    (train, "--rate-schedule cosine"),
    (train, "--model large"),
    (train, "--params mine"),
    (train, "--data cifar"),
    (train, "--device tpu"),
    *[(train, f"--device {name}") for name in DEVICES if not DEVICES[name]],
    (train, "--precision fp8"),
    # flags and arguments that there are not
    *[(script, "--verbose") for script in (train, distillation, distillation_no_three, evaluate)],
    (train, "--epoch 3"),
    (train, "--temperature 3"),
    (train, "3"),
    (train, "--epochs"),
    (distillation, "--keep 3"),
    # digits
    (distillation_no_three, "--keep 3 --omit 3"),
    (distillation_no_three, "--keep 3 --omit 4"),
    *[(distillation_no_three, f"--omit {digits}") for digits in ("10", "-1", "x", "3.5", "3 10")],
    *[(distillation_no_three, f"--keep {digits}") for digits in ("10", "3 -1", "three")],
    (distillation_no_three, "--omit 0 1 2 3 4 5 6 7 8 9"),
    (distillation_no_three, "--keep 0 1 2 3 4 5 6 7 8 9 --epochs 1 --hidden-units 5"),
    (distillation_no_three, "--omit"),
    # files
    *[(script, "--teacher missing.pt") for script in (distillation, distillation_no_three)],
    *[(script, "--teacher folder") for script in (distillation, distillation_no_three)],
    *[(script, "--teacher text.pt") for script in (distillation, distillation_no_three)],
    (train, f"{SMALL} --output missing/net.pt"),
    (train, f"{SMALL} --output text.pt/net.pt"),
    (train, f"{SMALL} --output net.pt --results net.pt.csv"),
    (train, f"{SMALL} --output net.pt --log text.pt"),
    (train, f"{SMALL} --output folder"),
    (train, f"{SMALL} --output ."),
    (distillation, "--output missing/net.pt --epochs 1"),
    (distillation, "--output folder --epochs 1"),
    (distillation_no_three, "--output folder --epochs 1"),
    (train, f"{SMALL} --output net.pt --resume"),
    (train, f"{SMALL} --output text.pt --resume"),
    (distillation, "--output net.pt --resume"),
    (evaluate, "--json --verify"),
    (evaluate, "missing.pt"),
    (evaluate, "text.pt"),
    (evaluate, "folder"),
    (train, "--data mnist --data-dir missing"),
    (train, "--data mnist --data-dir text.pt"),
    (evaluate, "text.pt --data mnist --data-dir missing"),
    # together with the data
    (train, f"{SMALL} --batch-size 4001 --output net.pt"),
    (distillation, "--batch-size 4001 --output net.pt"),
    (distillation_no_three, "--batch-size 3601 --output net.pt"),
    (distillation, "--jitter 2 --output net.pt"),
]


@pytest.mark.parametrize(
    ("script", "words"), BAD, ids=[f"{script.__name__} {words}" for script, words in BAD]
)
def test_bad_input_gives_one_line_and_status_2_and_writes_nothing(
    stops, monkeypatch, tmp_path, teacher, script, words
):
    here = tmp_path / "here"
    (here / "folder").mkdir()
    (here / "text.pt").write_text("hello")
    if script in (distillation, distillation_no_three) and "--teacher" not in words:
        words = f"--teacher {teacher} {words}"
    before = everything_in(here)
    stop = stops(script, words)
    assert stop.status == 2
    assert re.fullmatch(r"error: .+\n", stop.err)
    assert "errors on" not in stop.out
    created = everything_in(here).keys() - before.keys()
    if "--data mnist" in words:  # the folder that was to hold the data may be there
        created -= {"missing", "missing/MNIST", "missing/MNIST/raw"}
    assert not created
    assert everything_in(here).items() >= before.items()


@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.parametrize("script", [train, distillation, distillation_no_three])
def test_a_device_that_is_not_there_is_refused(stops, tmp_path, teacher, script, device):
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if there[device]():
        pytest.skip(f"this machine has {device}")
    words = "" if script is train else f"--teacher {teacher}"
    stop = stops(script, words, "--device", device)
    assert stop.status == 2
    assert re.fullmatch(rf"error: .*{device}.*\n", stop.err)
    assert everything_in(tmp_path / "here") == {}


@pytest.mark.parametrize("script", [train, distillation])
def test_quiet_prints_the_result_only(call, capfd, teacher, script):
    words = "--model small" if script is train else f"--teacher {teacher}"
    call(script, words, "--hidden-units 5 --epochs 3 --output net.pt --quiet")
    out, err = capfd.readouterr()
    assert err == ""
    assert "epoch 1/3" not in out
    assert re.search(r"\d+ errors on 1,000 images", out)


def test_without_a_terminal_progress_is_a_plain_line_for_each_evaluation(call, capfd):
    call(train, SMALL.replace("--epochs 1", "--epochs 3"), "--output net.pt")
    out, err = capfd.readouterr()
    assert err == ""
    history = load_checkpoint("net.pt")["history"]
    found = re.findall(r"^epoch (\d)/3 .* test errors (\d+) ", out, re.MULTILINE)
    assert found == [(str(entry["epoch"]), str(entry["errors"])) for entry in history]
    assert "\r" not in out


def test_the_history_lies_beside_the_checkpoint(call, teacher):
    call(train, SMALL.replace("--epochs 1", "--epochs 3"), "--output net.pt --quiet")
    with open("net.pt.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3
    for line, entry in zip(lines, load_checkpoint("net.pt")["history"], strict=True):
        assert {name: float(value) for name, value in line.items()} == entry


class FakeWriter:
    """Of TensorBoard events: keeps what it is given."""

    def __init__(self, folder, purge_step):
        self.folder, self.first, self.scalars = folder, purge_step, []
        FakeWriter.last = self

    def add_scalar(self, name, value, epoch):
        self.scalars.append((name, value, epoch))

    def flush(self):
        pass

    close = flush


FAKE_TENSORBOARD = SimpleNamespace(SummaryWriter=FakeWriter)


def test_events_for_tensorboard_are_those_of_the_history(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", FAKE_TENSORBOARD)
    call(train, SMALL.replace("--epochs 1", "--epochs 2"), "--output net.pt --log events --quiet")
    history = load_checkpoint("net.pt")["history"]
    assert (FakeWriter.last.folder, FakeWriter.last.first) == (os.path.join("events", "net"), 1)
    expected = [(n, e[n], e["epoch"]) for e in history for n in ("loss", "rate", "errors")]
    assert sorted(FakeWriter.last.scalars) == sorted(expected)


def test_without_tensorboard_log_says_how_to_install_it(stops, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # as if it were not there
    stop = stops(train, SMALL, "--output net.pt --log events")
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert "pip install tensorboard" in stop.err
    assert everything_in(tmp_path / "here") == {}


def test_the_first_lines_say_what_on_which_data_and_for_how_long(call, capsys):
    call(train, SMALL, "--output net.pt")
    lines = capsys.readouterr().out.splitlines()[2:]  # below two that say that it is the sample
    assert re.search(r"784-10-10-10 .* 4,000 images of sample, cpu, 1 thread, fp32", lines[0])
    assert re.fullmatch(r"  this takes about \d+ s", lines[2])


def test_the_time_is_that_of_the_first_minibatches(monkeypatch, capsys):
    """Without the very first, which sets up much; for what is left to do, of all epochs."""
    clock = iter([0.0, 100.0, 100.0 + 50 * 0.2])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    progress = Progress()
    progress.start(epochs=10, batches=600, done=4)
    for _ in range(60):
        progress.after_batch()
    assert capsys.readouterr().out == "  this takes about 12 min\n"  # 6 * 600 * 0.2 s


def test_telling_the_time_changes_nothing(call):
    call(train, SMALL, "--dropout-hidden 0.5 --output told.pt")
    call(train, SMALL, "--dropout-hidden 0.5 --output quiet.pt --quiet")
    assert same_weights(load_model("told.pt"), load_model("quiet.pt"))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (3000, "50 min"), (5500, "1.5 hours")],
)
def test_a_time_is_told_in_the_unit_that_suits_it(seconds, words):
    assert in_units(seconds) == words


@pytest.mark.parametrize("variable", ["", "NO_COLOR", "TERM"])
def test_colour_is_for_terminals_that_want_it(call, monkeypatch, capsys, variable):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    if variable:
        monkeypatch.setenv(variable, "dumb")
    call(train, SMALL, "--output net.pt --quiet")
    assert "\033" not in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    call(train, SMALL, "--output net.pt --quiet")
    assert ("\033" in capsys.readouterr().out) == (not variable)


@pytest.mark.parametrize("script", [train, distillation, distillation_no_three, evaluate])
def test_the_examples_in_the_help_can_be_parsed(script, monkeypatch, capsys):
    """Each is a command line of this script that is not refused."""
    examples = script.EXAMPLES.splitlines()
    assert examples
    monkeypatch.setattr(script, "load_mnist" if script is evaluate else "set_up", reached)
    for example in examples:
        words = shlex.split(example, comments=True)
        place = words.index(f"{script.__name__}.py")
        monkeypatch.setattr("sys.argv", words[place:])
        with pytest.raises(Reached):
            script.main()


def test_an_existing_output_is_replaced_only_at_the_end(call, monkeypatch, tmp_path):
    call(train, SMALL, "--output net.pt --quiet")
    old = (tmp_path / "here" / "net.pt").read_bytes()

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_one_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            call(train, SMALL, "--seed 1", "--output net.pt --quiet")
    assert (tmp_path / "here" / "net.pt").read_bytes() == old
    call(train, SMALL, "--seed 1", "--output net.pt --quiet --resume")
    assert load_checkpoint("net.pt")["seed"] == 1


def test_a_checkpoint_of_another_run_is_kept_under_another_name(call, capsys):
    """As is a file of something else; one of the same run is replaced."""
    call(train, SMALL, "--output net.pt --quiet")
    first, history = Path("net.pt").read_bytes(), Path("net.pt.csv").read_bytes()
    call(train, SMALL, "--output net.pt --quiet --seed 1")
    assert "net.1.pt" in capsys.readouterr().out
    assert (Path("net.1.pt").read_bytes(), Path("net.1.pt.csv").read_bytes()) == (first, history)
    call(train, SMALL, "--output net.pt --quiet --seed 1")
    assert not Path("net.2.pt").exists()
    Path("net.pt").write_text("notes")
    call(train, SMALL, "--output net.pt --quiet --seed 1")
    assert Path("net.2.pt").read_text() == "notes"
    assert load_checkpoint("net.pt")["seed"] == 1


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


def test_quiet_is_the_result_alone(call, capfd, monkeypatch):
    for name in ("MNIST", "FashionMNIST"):
        save_model("teacher.pt", random_net(5), data_set={"name": name})
        call(distillation, "--teacher teacher.pt --hidden-units 5 --epochs 1 --quiet")
        out, err = capfd.readouterr()
        lines = [line for line in out.splitlines() if "belonged to another run" not in line]
        assert len(lines) == 1 + ("never left chance" in out) and err == ""
        assert "errors on 1,000 images" in lines[0]


def test_a_checkpoint_of_other_data_is_named_when_it_is_evaluated(call, capsys):
    save_model("net.pt", random_net(5), data_set={"name": "FashionMNIST"})
    call(evaluate, "net.pt")
    assert re.search(r"net\.pt was trained on 'FashionMNIST'", capsys.readouterr().err)


@pytest.mark.parametrize("words", ["--translate 1 2 net.pt", "net.pt --translate 1 2"])
def test_numbers_and_checkpoints_are_told_apart(call, capsys, words):
    save_model("net.pt", random_net(5))
    call(evaluate, words, "--json")
    (row,) = json.loads(capsys.readouterr().out)
    assert row["file"] == "net.pt" and row["translated"].keys() == {"1", "2"}


@pytest.mark.parametrize(
    "words", ["--translate net.pt", "--translate 29", "--translate 1.5 net.pt"]
)
def test_distances_that_are_none_are_refused(stops, words):
    save_model("net.pt", random_net(5))
    stop = stops(evaluate, words)
    assert (stop.status, len(stop.err.splitlines())) == (2, 1)
    assert "--translate" in stop.err


@pytest.mark.skipif(os.name != "posix", reason="signals of other systems differ")
def test_ctrl_c_while_torch_is_imported_is_not_a_traceback(tmp_path):
    """A torch that takes its time; the signal comes while it is imported."""
    (tmp_path / "torch.py").write_text(
        "print('importing', flush=True)\nimport time\ntime.sleep(30)"
    )
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", "--help"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (130, "")
