"""The runs of results/ as they are read."""

import json
from pathlib import Path

import pytest
from common import HEADER, random_net, write_runs

from results.runs import by_temperature, runs_in, translated
from support.checkpoints import save_model
from support.errors import UserError
from support.records import record_of


def test_runs_are_in_the_order_of_their_seeds(results):
    write_runs(results, "MNIST,1,5,10,3,", "MNIST,1,5,9,2,")
    assert [line["seed"] for line in runs_in("some").lines] == ["9", "10"]
    assert runs_in("some", seed="10").numbers("errors") == [3]
    with pytest.raises(UserError, match="some"):
        runs_in("some", seed="1")
    with pytest.raises(UserError, match="missing"):
        runs_in("missing")


def test_runs_of_other_settings_may_be_in_one_file_if_they_are_read_apart(results):
    write_runs(results, "MNIST,1,5,0,3,", "MNIST,1,6,0,4,")
    assert [line["errors"] for line in runs_in("some", epochs="6").lines] == ["4"]
    with pytest.raises(UserError, match="epochs"):
        runs_in("some")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("sample,1,5,1,3,", "sample"),
        ("MNIST,1,6,1,3,", "epochs"),
        ("MNIST,1,5,0,3,", "twice"),
        ("MNIST,1,5,1,,loss is not finite", "failed"),
        ("MNIST,1,5", "damaged"),
        ("MNIST,1,5,1,3,,7", "damaged"),
    ],
)
def test_runs_that_do_not_belong_together_are_not_averaged(results, line, named):
    write_runs(results, "MNIST,1,5,0,3,", line)
    with pytest.raises(UserError, match=named):
        runs_in("some")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "no column data"),
        ("data,temperature,seed,problem\nMNIST,1,0,\n", "no column errors"),
        (f"{HEADER}\nMNIST,1,5,zero,3,\n", "seed is 'zero'"),
        (f'{HEADER}\nMNIST,1,5,0,"{"3" * 200_000}",\n', "damaged"),
    ],
    ids=["empty", "column", "seed", "long"],
)
def test_a_damaged_file_of_runs_is_named(results, content, named):
    (results / "some.csv").write_text(content)
    with pytest.raises(UserError, match=f"results/some.csv.*{named}"):
        runs_in("some")


@pytest.mark.parametrize("errors", ["", "many", "nan", "3 4", "-5", "3.0", "1e3"])
def test_errors_that_are_not_a_whole_number_are_named(results, errors):
    write_runs(results, f"MNIST,1,5,0,{errors},")
    with pytest.raises(UserError, match=f"results/some.csv, seed 0: errors is '{errors}'"):
        runs_in("some")


@pytest.mark.parametrize("temperature", ["", "high", "nan", "3 4"])
def test_what_is_not_a_number_is_named(results, temperature):
    write_runs(results, f"MNIST,{temperature},5,0,3,")
    runs = runs_in("some")
    for read in (lambda: runs.numbers("temperature"), lambda: by_temperature("some")):
        with pytest.raises(UserError, match=f"some.csv, seed 0: temperature is '{temperature}'"):
            read()
    with pytest.raises(UserError, match="best_errors"):
        runs.numbers("best_errors")
    with pytest.raises(UserError, match="biases is '', not 10 numbers"):
        runs.biases()


@pytest.mark.parametrize(("change", "named"), [("twice", "twice"), ("sample", "MNIST")])
def test_nets_twice_or_on_other_images_are_not_averaged(results, change, named):
    nets = json.loads((results / "translated.json").read_text())
    changed = nets + nets[:1] if change == "twice" else [nets[0] | {"data_set": "sample"}]
    (results / "translated.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match=named):
        translated("translated", Path(nets[0]["file"]).name)


def test_a_net_by_two_paths_is_one_net(results):
    nets = json.loads((results / "ensemble_1000.json").read_text())
    name = Path(nets[0]["file"]).name
    nets.append(nets[0] | {"file": f"elsewhere/{name}"})
    (results / "ensemble_1000.json").write_text(json.dumps(nets))
    with pytest.raises(UserError, match="twice"):
        translated("ensemble_1000", name)


def test_a_run_without_the_sum_of_its_teacher_is_named(results):
    path = results / "distilled_800.csv"
    header, line, *_ = path.read_text().splitlines()
    words = line.split(",")
    words[header.split(",").index("teacher")] = ""
    path.write_text("\n".join([header, ",".join(words)]) + "\n")
    with pytest.raises(UserError, match=r"distilled_800\.csv has a damaged line"):
        runs_in("distilled_800")


def test_a_checkpoint_that_no_script_made_has_no_place_in_the_page(tmp_path):
    save_model(tmp_path / "some.pt", random_net(), data_set={"name": "FashionMNIST"})
    with pytest.raises(UserError, match=r"some\.pt.*command, data_set"):
        record_of(tmp_path / "some.pt")
