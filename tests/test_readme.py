"""What the README tells its readers to type works, and what it shows is there."""

import re
import shlex
import sys
from pathlib import Path

import claims
import pytest
from common import ROOT, Reached, reached
from torch import nn

import dataset
import distillation
import distillation_no_three
import evaluate
import figures
import train
from layers import load_model

README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "results" / "README.md").read_text()
SCRIPTS = {
    f"{script.__name__}.py": script
    for script in (train, distillation, distillation_no_three, evaluate)
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README + RESULTS, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every line that calls one of the scripts, in blocks, tables and lists of commands."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    lines += re.findall(r"`(python [^`]+)`", README + RESULTS)
    lines = [re.sub(r"\$\{?\w+\}?", "4", line.partition(" > ")[0]) for line in lines]
    return [line for line in lines if any(name in line for name in SCRIPTS)]


@pytest.mark.parametrize("command", commands())
def test_the_commands_are_not_refused(monkeypatch, command):
    words = shlex.split(command, comments=True)
    words = words[next(i for i, word in enumerate(words) if word in SCRIPTS) :]
    script = SCRIPTS[words[0]]
    monkeypatch.setattr(script, "load_mnist" if script is evaluate else "prepare", reached)
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


def test_the_example_on_other_data_works(monkeypatch, capsys, sample):
    """On some digits in place of FashionMNIST, which would have to be downloaded."""
    import torchvision.datasets

    class Fake:
        def __init__(self, root, train, download):
            part = sample.training if train else sample.test
            self.data, self.targets = part.images, part.labels

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", Fake)
    (code,) = [block for block in blocks("python") if "FashionMNIST" in block]
    assert "epochs = 20" in code
    Path("runs").mkdir()  # as the download would
    exec(code.replace("epochs = 20", "epochs = 6"), {})
    errors = int(capsys.readouterr().out.split()[-1])
    assert errors < 300
    assert isinstance(load_model("runs/my_student.pt"), nn.Module)


def test_the_figures_are_there_and_small():
    shown = re.findall(r"!\[[^\]]+\]\((figures/\w+\.png)\)", README)
    assert sorted(shown) == sorted(f"figures/{name}.png" for name in figures.DRAWINGS)
    sizes = [(ROOT / path).stat().st_size for path in shown]
    assert sum(sizes) < 1.5e6


@pytest.mark.parametrize("page", ["README.md", "results/README.md"])
def test_the_links_lead_somewhere(page):
    text = (ROOT / page).read_text()
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings
        elif not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), target


def test_the_table_of_claims_names_every_claim():
    table = claims.overview()
    assert all(f"C{number}" in table for number in range(1, 9))
