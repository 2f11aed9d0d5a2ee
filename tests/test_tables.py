"""The tables of the pages: what they compute, and that they are those of results/."""

import csv
import statistics

import pytest
from common import ROOT

from results import claims, tables
from results.runs import runs_in, students
from results.temperatures import by_temperature
from support.errors import UserError
from support.files import sha256

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
    path = results / "small_800.csv"
    errors = runs_in("small_800").lines[0]["errors"]
    path.write_text(path.read_text().replace(f",{errors},10000,", ",4321,10000,", 1))
    assert "| 4,321 |" in tables.rewritten(PAGE, PAGE.read_text())
    assert tables.rewritten(README, README.read_text()) != README.read_text()


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
    by_width = {units: by_temperature(students(f"distilled_{units}")) for units in (30, 300, 800)}
    means = {u: {t: statistics.mean(e.values()) for t, e in by_width[u].items()} for u in by_width}
    for units in (300, 800):
        above_8 = [mean for t, mean in means[units].items() if t > 8]
        assert f"{min(above_8):.1f} to {max(above_8):.1f} ({units} units)" in similar
    good = [means[30][t] for t in (2.5, 3, 4)]
    assert thirty.startswith(f"{min(good):.1f} to {max(good):.1f}; ")
    assert all(f"{means[30][t]:.1f} at T = {t}" in thirty for t in (1, 2, 6, 20))


def test_a_mistake_in_the_code_is_not_reported_as_damaged_results(monkeypatch):
    monkeypatch.setitem(tables.PAGES, README, {"headline": lambda: {}["no such name"]})
    with pytest.raises(KeyError):
        tables.rewritten(README, README.read_text())


def without(column):
    return lambda text: text.replace(f",{column},", ",another,", 1)


def without_temperature(temperature):
    return lambda text: "".join(
        line for line in text.splitlines(keepends=True) if f",{temperature},0.0," not in line
    )


def a_net(errors):
    """The text of a file with one net that makes that many errors."""
    moved = f'{{"0": 1, "1": {errors}, "2": 1, "3": 1}}'
    start = "cumbersome_model_1200_seed_0.pt"
    return f'[{{"file": "{start}", "data_set": "MNIST", "translated": {moved}}}]'


@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        ("no_three_300.csv", without("best_errors"), r"claims.*no_three_300.*best_errors"),
        ("no_three_800.csv", without("biases"), r"biases.*no_three_800.*biases"),
        *[
            ("distilled_30.csv", without_temperature(t), r"thirty.*distilled_30.*temperatures")
            for t in ("2.5", "8.0")
        ],
        # Rather an error than a table with nan: one run has no spread.
        ("no_three_800.csv", lambda text: "\n".join(text.splitlines()[:2]), "biases"),
        *[
            ("translated.json", lambda _, content=content: content, "translated")
            for content in ("{", "[]", '[{"file": "x"}]', '{"a": 1}', "3", "[" * 100_000)
        ],
        *[
            ("translated.json", lambda _, n=n: a_net(n), r"translated\.json: column 1 has")
            for n in ("NaN", '"x"', "null", "[]")
        ],
    ],
    ids=range(15),
)
def test_results_that_lack_what_a_table_needs_are_named(results, file, change, named):
    (results / file).write_text(change((results / file).read_text()))
    with pytest.raises(UserError, match=named):
        tables.rewritten(PAGE, PAGE.read_text())


def test_a_table_may_be_empty_and_a_lost_mark_loses_no_text():
    text = PAGE.read_text()
    start, _, rest = text.partition("<!-- thirty -->\n")
    empty = f"{start}<!-- thirty -->\n{rest[rest.index('<!-- end -->') :]}"
    assert tables.rewritten(PAGE, empty) == text
    lost = empty.replace("<!-- thirty -->\n<!-- end -->", "<!-- thirty -->\n")
    with pytest.raises(UserError, match="thirty"):
        tables.rewritten(PAGE, lost)


def lines_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["distilled_300", "no_three_800"])
@pytest.mark.parametrize(
    ("column", "value"), [("teacher", "0123456789ab"), ("hard_weight", "0.1"), ("epochs", "7")]
)
def test_runs_that_differ_in_what_no_table_tells_are_not_averaged(results, name, column, value):
    path = results / f"{name}.csv"
    lines = students(name).lines
    setting = {"temperature": lines[-1]["temperature"]}
    assert len(students(name, **setting).lines) > 1
    lines[-1][column] = value
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    with pytest.raises(UserError, match=f"{name}.*different values of {column}"):
        runs_in(name, **setting)


@pytest.mark.parametrize(
    ("claim", "file", "columns"),
    [
        ("C1: cumbersome net", "cumbersome", ["errors"]),
        ("C1: the same, 1,000 epochs", "cumbersome_1000", ["errors"]),
        ("C2: small net, labels", "small_800", ["errors"]),
        ("C6: never saw a 3", "no_three_800", ["learned_errors", "learned_on_group"]),
        ("C7: the same, its bias +3.5", "no_three_800", ["paper_errors", "paper_on_group"]),
        ("C7: the same, best shift", "no_three_800", ["best_errors", "best_on_group"]),
        ("C8: saw 7s and 8s only", "only_7_8_800", ["learned_errors"]),
        ("C8: the same, their biases -7.6", "only_7_8_800", ["paper_errors"]),
    ],
)
def test_a_claim_has_the_errors_of_its_own_columns(claim, file, columns):
    """Of a student that missed a digit those on it too, in brackets."""
    sum_of_teacher = sha256(ROOT / "models" / "cumbersome_model_1200.pt")[:12]
    lines = lines_of(ROOT / "results" / f"{file}.csv")
    lines = [line for line in lines if line.get("teacher", sum_of_teacher) == sum_of_teacher]
    numbers = [[int(line[column]) for line in lines] for column in columns]
    words = [f"{statistics.mean(n):,.1f} ± {statistics.stdev(n):.1f}" for n in numbers]
    (row,) = (row for row in cells(claims.headline()) if row[0] == claim)
    assert row[3] == words[0] + "".join(f" ({word})" for word in words[1:])
    assert row[4] == str(len(lines))
    (found,) = (c for c in claims.measured_claims() if f"{c.number}: {c.name}" == claim)
    assert [sorted(found.runs.numbers(c)) for c in found.columns] == list(map(sorted, numbers))
