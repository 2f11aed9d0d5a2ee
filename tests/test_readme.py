"""What the README tells its readers to type works, and what it shows is there."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from common import ROOT, Reached, stop_when_understood
from torch import nn

import dataset
import distillation
import distillation_no_three
import evaluate
import explore
import train
from dataset import pixels
from distillation import distill
from evaluate import logits_of
from layers import SmallNet
from results import claims, figures
from results.runs import students
from support.checkpoints import load_checkpoint, load_model, model_from, save_model
from support.hyperparameters import default_params
from support.reporting import report
from training_params import LocalParams

README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "results" / "README.md").read_text()
COMMANDS, TRIALS = (
    (ROOT / "results" / f"{page}.md").read_text() for page in ("COMMANDS", "TRIALS")
)
USAGE = (ROOT / "docs" / "usage.md").read_text()
SCRIPTS = {
    f"{script.__name__}.py": script
    for script in (train, distillation, distillation_no_three, evaluate, explore)
}


def blocks(language: str, page: str = README + RESULTS) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every line that calls one of the scripts, in blocks, tables and lists of commands."""
    pages = README + RESULTS + USAGE + COMMANDS + TRIALS
    lines = [line for block in blocks("sh", pages) for line in block.splitlines()]
    lines += re.findall(r"`(python [^`]+)`", pages)
    lines = [re.sub(r"\$\{?\w+\}?", "4", line.partition(" > ")[0]) for line in lines]
    return [line for line in lines if any(name in line for name in SCRIPTS)]


@pytest.mark.parametrize("command", commands())
def test_the_commands_are_not_refused(monkeypatch, command):
    words = shlex.split(command, comments=True)
    words = words[next(i for i, word in enumerate(words) if word in SCRIPTS) :]
    script = SCRIPTS[words[0]]
    stop_when_understood(script, monkeypatch)
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(Reached):
        script.main()


def test_the_lines_that_use_a_checkpoint_work(monkeypatch, sample):
    (code,) = [block for block in blocks("python") if "load_model(" in block]
    monkeypatch.setattr(dataset, "load_mnist", lambda: sample)
    found: dict = {}
    exec(code.replace('"models/', f'"{ROOT}/models/'), found)
    logits = found["logits"]
    assert logits.shape == (1000, 10)
    assert (logits.argmax(1) == sample.test.labels).float().mean() > 0.98
    assert isinstance(found["model"], nn.Module)
    images = sample.test.images / 255
    for shape in ((-1, 28, 28), (-1, 1, 28, 28)):
        assert torch.equal(found["model"](images.view(shape)), logits)


def test_what_a_checkpoint_holds_is_named(teacher):
    paths = list((ROOT / "models").glob("*.pt"))
    assert paths
    for path in (*paths, teacher):
        assert all(f"`{name}`" in USAGE for name in load_checkpoint(path))


def test_the_last_line_is_that_of_the_script(capsys):
    record = load_checkpoint(ROOT / "models" / "distilled_model_800_20.pt")
    path = Path("runs/distilled_model_800_20.pt")
    model = model_from(record)
    del record["state_dict"]
    save_model(path, model, **record)
    report(path)
    assert capsys.readouterr().out in blocks("text")[0]


def test_the_example_on_other_data_works(monkeypatch, capsys, sample):
    """On some digits in place of FashionMNIST, which would have to be downloaded."""
    import torchvision.datasets

    class Fake:
        def __init__(self, root, train, download):
            part = sample.training if train else sample.test
            self.data, self.targets = part.images, part.labels

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", Fake)
    (code,) = [block for block in blocks("python", USAGE) if "FashionMNIST" in block]
    assert "epochs = 20" in code
    for name, value in {"hidden_units": 200, "init_std": 0.05, "batch_size": 50}.items():
        monkeypatch.setattr(LocalParams.Cumbersome, name, value)  # which takes a second
    monkeypatch.setattr(LocalParams.Distilled, "epochs", 2)
    Path("runs").mkdir()  # as the download would
    exec(code.replace("epochs = 20", "epochs = 4"), {})
    errors = int(capsys.readouterr().out.split()[-1])
    assert errors < 300
    record = load_checkpoint("runs/my_student.pt")
    assert record["hidden_units"] == record["parameters"]["hidden_units"] == 300
    assert (record["seed"], record["result"]["errors"]) == (0, errors)
    assert load_model(f"runs/{record['teacher']['file']}").hidden_units == 200


class ConvNet(nn.Module):
    """Takes (N, 1, 28, 28) and nothing else; remembers it."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 9, stride=4), nn.ReLU(), nn.Flatten())
        self.output = nn.Linear(50, 10)

    def forward(self, images):
        assert images.shape[1:] == (1, 28, 28)
        self.seen = images
        return self.output(self.layers(images))


def test_the_wrappers_for_a_teacher_work(sample):
    (code,) = [block for block in blocks("python", USAGE) if "Normalize" in block]
    wrapped = re.findall(r"^teacher = .*", code, re.MULTILINE)
    assert len(wrapped) == 2
    parts = (code.partition(wrapped[1])[0], code)
    digits, conv_net = sample.training[:200], ConvNet()
    params = default_params("local", "Distilled")
    params.epochs = 1
    images = digits.images[:, None] / 255
    for part, taken in zip(parts, (images, (images - 0.1307) / 0.3081), strict=True):
        found: dict = {"conv_net": conv_net}
        exec(part, found)
        logits = logits_of(found["teacher"], digits.images)
        assert torch.allclose(conv_net.seen, taken, atol=1e-5)
        assert torch.equal(logits, found["teacher"](pixels(digits.images)))
        distill(SmallNet(10), found["teacher"], digits, params)


def test_the_help_shows_what_the_runs_printed():
    first = students("no_three_800").lines[0]
    for row in distillation_no_three.ROWS:
        shift, errors, on_3 = (first[f"{row}_{value}"] for value in ("shift", "errors", "on_group"))
        line = rf"{re.escape(f'{float(shift):+.2f}')} +{errors} +{on_3}\b"
        assert re.search(line, distillation_no_three.__doc__)
    shown = re.search(r"\d+ errors on 10,000 images", distillation.__doc__)[0]
    assert f"\n{shown} of MNIST (the paper: 74)" in README


def test_the_figures_are_there_and_small():
    shown = re.findall(r"!\[[^\]]+\]\((?:\.\./)?(figures/\w+\.png)\)", README + RESULTS)
    names = [*figures.DRAWINGS, "explore"]  # the latter by results.screenshot
    assert sorted(shown) == sorted(f"figures/{name}.png" for name in names)
    sizes = [(ROOT / path).stat().st_size for path in shown]
    assert sum(sizes) < 1.5e6
    assert (ROOT / "figures" / "explore.png").stat().st_size < 3e5


def headings(page: Path) -> set[str]:
    """As GitHub names them in links."""
    lines = [line.lstrip("# ") for line in page.read_text().splitlines() if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


PAGES = ["README.md", "CONTRIBUTING.md", "docs/usage.md", "data/README.md", "models/README.md"]
PAGES += [f"results/{name}.md" for name in ("README", "COMMANDS", "TRIALS")]


@pytest.mark.parametrize("page", PAGES)
def test_the_links_lead_somewhere(page):
    page = ROOT / page
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, heading = target.partition("#")
        linked = page.parent / path if path else page
        if not target.startswith("http"):
            assert linked.exists(), target
            assert not heading or heading in headings(linked), target


def test_the_readme_is_read_in_one_sitting():
    assert len(README.splitlines()) <= 160
    assert len(README.split()) < 1600


def test_the_table_of_claims_names_every_claim():
    table = claims.headline()
    assert all(f"C{number}" in table for number in range(1, 9))
