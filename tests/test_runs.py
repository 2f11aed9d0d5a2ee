"""The runs of results/ as they are read."""

import csv
import json
from pathlib import Path

import pytest
from common import HEADER, ROOT, random_net, write_runs

from results.runs import cumbersome, runs_in, students, translated
from results.temperatures import by_temperature
from support.checkpoints import save_model
from support.errors import UserError
from support.records import record_of


def test_runs_are_in_the_order_of_their_seeds(results):
    write_runs(results, "MNIST,1,5,10,3,", "MNIST,1,5,9,2,")
    assert [line["seed"] for line in runs_in("some").lines] == ["9", "10"]
    assert runs_in("some", seed="10").numbers("errors") == [3]
    for name, setting in (("some", {"seed": 1}), ("some", {"rate": 1}), ("missing", {})):
        with pytest.raises(UserError, match=rf"{name}\.csv"):
            runs_in(name, **setting)


@pytest.mark.parametrize("temperature", [20, 20.0, "20", "20.0", "2e1"])
def test_settings_are_compared_by_value_not_by_spelling(results, temperature):
    write_runs(results, "MNIST,20,5,0,3,", "MNIST,20.0,5.0,1,4,", "MNIST,2,5,0,9,")
    assert runs_in("some", temperature=temperature).numbers("errors") == [3, 4]
    write_runs(results, "MNIST,20,5,0,3,", f"MNIST,{temperature},5,0.0,3,")
    with pytest.raises(UserError, match="twice"):
        runs_in("some")


def test_runs_of_other_settings_may_be_in_one_file_if_they_are_read_apart(results):
    write_runs(results, "MNIST,1,5,0,3,", "MNIST,1,6,0,4,")
    assert runs_in("some", epochs=6).numbers("errors") == [4]
    with pytest.raises(UserError, match="epochs"):
        runs_in("some")
    write_runs(results, "MNIST validation,1,5,0,3,", "MNIST validation,1,6,0,4,")
    (results / "some.csv").rename(results / "validation_some.csv")
    assert runs_in("validation_some").numbers("errors") == [3, 4]


@pytest.mark.parametrize("second", ["7e0000000009", "123e45678901"])
def test_sums_of_teachers_that_look_like_numbers_are_told_apart(results, second):
    header = HEADER.replace("epochs", "teacher")
    lines = ("MNIST,1,696e47183568,0,3,", f"MNIST,1,{second},1,3,")
    (results / "some.csv").write_text("\n".join([header, *lines]))
    with pytest.raises(UserError, match="different values of teacher"):
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
        (b"", "no run"),
        (b"data,seed,errors\nMNIST,0,3\n", "problem"),
        (b"seed,errors,problem\n0,3,\n", "data"),
        (b"data,seed,problem\nMNIST,0,\n", "errors"),
        (f"{HEADER}\nMNIST,1,5,zero,3,\n".encode(), "column seed has zero"),
        (f'{HEADER}\nMNIST,1,5,0,"{"3" * 200_000}",\n'.encode(), "damaged"),
        (b"\xff\xfe", "damaged"),
    ],
    ids=["empty", "problem", "data", "errors", "seed", "long", "bytes"],
)
def test_a_damaged_file_of_runs_is_named(results, content, named):
    (results / "some.csv").write_bytes(content)
    with pytest.raises(UserError, match=f"results/some.csv.*{named}") as error:
        runs_in("some").numbers("errors")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("cell", ["", "high", "nan", "inf", "3.0 4.0"])
def test_what_is_not_a_number_is_named(results, cell):
    write_runs(results, f"MNIST,{cell},5,0,{cell},")
    wrong = f"some.csv: column %s has {cell or 'nothing'}, not"
    with pytest.raises(UserError, match=wrong % "temperature"):
        by_temperature(runs_in("some"))
    with pytest.raises(UserError, match=wrong % "errors"):
        runs_in("some").numbers("errors")
    for column, count in (("best_errors", 1), ("biases", 10)):
        with pytest.raises(UserError, match=rf"{column} has nothing, not {count} number"):
            runs_in("some").numbers(column, count)


@pytest.mark.parametrize(
    "change",
    [
        lambda net: [net | {"file": f"elsewhere/{net['file']}"}, net],
        lambda net: [net | {"data_set": "sample"}],
        lambda net: [],
    ],
    ids=["by two paths", "other images", "missing"],
)
def test_nets_that_do_not_belong_together_are_not_averaged(results, change):
    (first, *others) = json.loads((results / "translated.json").read_text())
    (results / "translated.json").write_text(json.dumps([*change(first), *others]))
    with pytest.raises(
        UserError, match=r"translated\.json has no net .*, one twice, or one .*MNIST"
    ):
        translated("translated", Path(first["file"]).name)


def test_a_run_without_the_sum_of_its_teacher_is_named(results):
    """Even where no other run is there to compare it with."""
    path = results / "distilled_800.csv"
    header, words, *_ = (row.split(",") for row in path.read_text().splitlines())
    words[header.index("teacher")] = ""
    path.write_text("\n".join(map(",".join, [header, words])) + "\n")
    with pytest.raises(UserError, match=r"distilled_800\.csv is damaged"):
        runs_in("distilled_800")


def test_students_are_those_of_the_given_teacher_or_ensemble():
    with open(ROOT / "results" / "distilled_800.csv", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["temperature"] == "20.0"]
    sums = {seed: cumbersome(1000, seed=seed).lines[0]["sha256"] for seed in range(3)}
    assert len({*sums.values()}) == 3
    for seed, own in sums.items():
        found = students("distilled_800", cumbersome(1000, seed=seed), temperature=20)
        assert found.lines == [line for line in lines if line["teacher"] == own]
        assert len(found.lines) >= 5
    ensemble = students("distilled_800", cumbersome(1000), temperature=20).lines
    assert {line["teacher"] for line in ensemble} == {
        " ".join([*sorted(sums.values()), "geometric"])
    }


def test_a_teacher_without_its_sum_is_named(results):
    path = results / "cumbersome_1000.csv"
    (line,) = cumbersome(1000, seed=1).lines
    path.write_text(path.read_text().replace(f",{line['sha256']},", ",,"))
    with pytest.raises(
        UserError, match=r"cumbersome_1000\.csv has a teacher whose sha256 is missing"
    ):
        students("distilled_800", cumbersome(1000))


def test_a_checkpoint_that_no_script_made_has_no_place_in_the_page(tmp_path):
    save_model(tmp_path / "some.pt", random_net(), data_set={"name": "FashionMNIST"})
    with pytest.raises(UserError, match=r"some\.pt does not record"):
        record_of(tmp_path / "some.pt")
