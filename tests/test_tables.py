"""The tables of the pages: what they compute, and that they are those of results/."""

import json
import shutil
import statistics
from pathlib import Path

import pytest
from common import ROOT, random_net

from results import claims, summary, tables
from results.runs import by_temperature, record_of, runs_in, translated
from support.checkpoints import save_model
from support.errors import UserError


@pytest.fixture
def results(monkeypatch, tmp_path):
    """A copy of results/ to change, which the tables are made from."""
    copy = tmp_path / "results"
    shutil.copytree(ROOT / "results", copy)
    monkeypatch.setattr("results.runs.RESULTS", copy)
    return copy


README, PAGE = ROOT / "README.md", ROOT / "results" / "README.md"


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.parent.name)
def test_the_tables_of_the_pages_are_those_of_the_results(page):
    text = page.read_text()
    assert tables.rewritten(page, text) == text, "run python -m results.tables"


def test_the_page_of_the_checkpoints_is_that_of_the_checkpoints():
    assert (ROOT / "models" / "README.md").read_text() == tables.models_page(), (
        "run python -m results.tables"
    )


@pytest.mark.parametrize(
    ("page", "name"), [(page, name) for page, names in tables.PAGES.items() for name in names]
)
def test_the_pages_have_a_place_for_every_table(page, name):
    with pytest.raises(UserError, match=name):
        tables.rewritten(page, page.read_text().replace(f"<!-- {name} -->", ""))


def test_another_result_makes_another_table(results):
    before = tables.rewritten(PAGE, PAGE.read_text())
    path = results / "small_800.csv"
    errors = runs_in("small_800").lines[0]["errors"]
    assert f",{errors},10000," in path.read_text().splitlines()[1]
    path.write_text(path.read_text().replace(f",{errors},10000,", ",4321,10000,"))
    after = tables.rewritten(PAGE, before)
    assert "| 4,321 |" in after
    assert after != before
    text = README.read_text()
    assert tables.rewritten(README, text) != text


def cells(table):
    """Of the rows below the header."""
    rows = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_headline_has_every_claim_and_the_numbers_of_the_other_table():
    headline, overview = (cells(make()) for make in (claims.headline, claims.overview))
    numbers = [row[0].partition(":")[0] for row in headline]
    assert sorted(set(numbers)) == [f"C{number}" for number in range(1, 9)]
    assert numbers == sorted(numbers)
    for number, (_, command, paper, ours, seeds, _) in zip(numbers, headline, strict=True):
        if number not in ("C4", "C5"):
            matches = [row for row in overview if row[3:5] == [ours, seeds]]
            assert matches
            assert any(row[1] == paper for row in (matches if command else overview))
            assert not command or any(row[5] == command for row in matches)


def test_the_headline_has_the_means_of_the_table_of_temperatures():
    similar, thirty = (row[3] for row in cells(claims.headline()) if row[0][:2] in ("C4", "C5"))
    by_width = {units: by_temperature(f"distilled_{units}") for units in (30, 300, 800)}
    means = {u: {t: statistics.mean(e.values()) for t, e in by_width[u].items()} for u in by_width}
    for units in (300, 800):
        above_8 = [mean for t, mean in means[units].items() if t > 8]
        assert f"{min(above_8):.1f} to {max(above_8):.1f} ({units} units)" in similar
    good = [means[30][t] for t in (2.5, 3, 4)]
    assert thirty.startswith(f"{min(good):.1f} to {max(good):.1f}; ")
    assert all(f"{means[30][t]:.1f} at T = {t}" in thirty for t in (1, 2, 6, 20))


HEADER = "data,temperature,epochs,seed,errors,problem"


def write_runs(results, *lines):
    (results / "some.csv").write_text("\n".join([HEADER, *lines]) + "\n")


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


@pytest.mark.parametrize("errors", ["", "many", "nan", "3 4"])
def test_what_is_not_a_number_is_named(results, errors):
    write_runs(results, f"MNIST,1,5,0,{errors},")
    runs = runs_in("some")
    for read in (lambda: runs.numbers("errors"), lambda: by_temperature("some")):
        with pytest.raises(UserError, match=f"results/some.csv, seed 0: errors is '{errors}'"):
            read()
    with pytest.raises(UserError, match="best_errors"):
        runs.numbers("best_errors")
    with pytest.raises(UserError, match="biases is '', not 10 numbers"):
        runs.biases()


@pytest.mark.parametrize(
    ("name", "column", "table"),
    [("no_three_300", "best_errors", "claims"), ("no_three_800", "biases", "biases")],
)
def test_a_column_that_a_table_needs_is_named(results, name, column, table):
    path = results / f"{name}.csv"
    path.write_text(path.read_text().replace(f",{column},", ",another,", 1))
    with pytest.raises(UserError, match=f"{table}.*{name}.*{column}"):
        tables.rewritten(PAGE, PAGE.read_text())


@pytest.mark.parametrize("temperature", ["2.5", "8.0"])
def test_a_temperature_that_is_missing_is_named(results, temperature):
    path = results / "distilled_30.csv"
    lines = [line for line in path.read_text().splitlines() if f",{temperature},0.0," not in line]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"thirty.*distilled_30.*temperatures"):
        tables.rewritten(PAGE, PAGE.read_text())


def test_a_mistake_in_the_code_is_not_reported_as_damaged_results(monkeypatch):
    monkeypatch.setitem(tables.PAGES, README, {"headline": lambda: {}["no such name"]})
    with pytest.raises(KeyError):
        tables.rewritten(README, README.read_text())


def test_a_checkpoint_that_no_script_made_has_no_place_in_the_page(tmp_path):
    save_model(tmp_path / "some.pt", random_net(), data_set={"name": "FashionMNIST"})
    with pytest.raises(UserError, match=r"some\.pt.*command"):
        record_of(tmp_path / "some.pt")


def test_errors_are_paired_by_seed(results):
    runs = [(1, 7, 30), (1, 8, 40), (2, 8, 44), (2, 9, 99), (2, 7, 33)]
    write_runs(results, *(f"MNIST,{t},5,{seed},{errors}," for t, seed, errors in runs))
    assert summary.paired(by_temperature("some")).tolist() == [[30, 40], [33, 44]]
    write_runs(results, "MNIST,1,5,7,30,", "MNIST,2,5,8,40,")
    with pytest.raises(UserError, match="in common"):
        summary.paired(by_temperature("some"))


def a_net(errors):
    """The text of a file with one net that makes that many errors."""
    moved = f'{{"0": 1, "1": {errors}, "2": 1, "3": 1}}'
    return f'[{{"file": "cumbersome_1.pt", "data_set": "MNIST", "translated": {moved}}}]'


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '[{"file": "x"}]', '{"a": 1}', "3", "[" * 100_000, a_net("NaN"), a_net('"x"')],
    ids=range(8),
)
def test_damaged_results_are_named(results, content):
    text = PAGE.read_text()
    (results / "translated.json").write_text(content)
    with pytest.raises(UserError, match="translated"):
        tables.rewritten(PAGE, text)


def test_a_table_may_be_empty_and_a_lost_mark_loses_no_text():
    text = PAGE.read_text()
    start, _, rest = text.partition("<!-- thirty -->\n")
    empty = f"{start}<!-- thirty -->\n{rest[rest.index('<!-- end -->') :]}"
    assert tables.rewritten(PAGE, empty) == text
    lost = empty.replace("<!-- thirty -->\n<!-- end -->", "<!-- thirty -->\n")
    with pytest.raises(UserError, match="thirty"):
        tables.rewritten(PAGE, lost)


@pytest.mark.parametrize(("change", "named"), [("twice", "twice"), ("sample", "MNIST")])
def test_nets_twice_or_on_other_images_are_not_averaged(results, change, named):
    nets = json.loads((results / "translated.json").read_text())
    changed = nets + nets[:1] if change == "twice" else [nets[0] | {"data_set": "sample"}]
    (results / "translated.json").write_text(json.dumps(changed))
    with pytest.raises(UserError, match=named):
        translated("translated", Path(nets[0]["file"]).name)


def test_one_run_has_no_spread(results):
    """Rather an error than a table with nan."""
    path = results / "no_three_800.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:2]) + "\n")
    with pytest.raises(UserError, match="biases"):
        tables.rewritten(PAGE, PAGE.read_text())
