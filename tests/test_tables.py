"""The tables of the pages: what they compute, and that they are those of results/."""

import csv
import json
import statistics

import pytest
from common import ROOT

from results import claims, tables
from results.runs import runs_in, students
from results.temperatures import by_temperature
from support.errors import UserError

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
    assert tables.rewritten(PAGE, PAGE.read_text()) != PAGE.read_text()
    assert tables.rewritten(README, README.read_text()) != README.read_text()


def test_another_result_makes_another_verdict(results):
    """Runs of C6 that make 100 errors exclude the paper's 206; one that makes 600 widens them."""

    def verdicts():
        headline = [row[5] for row in cells(claims.headline()) if row[0] == "C6"]
        stored = [c["verdict"] for c in json.loads(claims.as_json()) if c["claim"] == "C6"]
        assert headline == stored
        return headline

    path = results / "no_three_800.csv"
    lines = lines_of(path)
    for line in lines:
        line["learned_errors"] = str(100 + int(line["seed"]))
    write(path, lines)
    assert verdicts() == ["direction reproduced, magnitude differs"]
    first = students("no_three_800", omit=3, temperature=20).lines[0]
    lines[lines.index(first)]["learned_errors"] = "600"
    write(path, lines)
    assert verdicts() == ["direction reproduced, magnitude compatible"]


def test_the_stored_claims_are_those_of_the_results():
    stored = (ROOT / "results" / "claims.json").read_text()
    assert stored == claims.as_json(), "run python -m results.tables"


def cells(table):
    """Of the rows below the header."""
    rows = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    return [[cell.strip() for cell in row] for row in rows]


def test_the_headline_has_every_claim_and_the_numbers_of_the_other_table():
    headline, overview = cells(claims.headline()), cells(claims.overview(800))
    numbers = [row[0] for row in headline]
    assert {f"C{number}" for number in range(1, 9)} <= {*numbers}
    assert numbers == sorted(numbers, key=lambda number: number[-2:])
    for row in headline:
        same = [other for other in overview if row[:4] == other[:4] and row[4:] == other[-2:]]
        assert same or row[0] in ("C4", "C5")


def test_the_headline_has_the_means_of_the_table_of_temperatures():
    similar, thirty = (row[3] for row in cells(claims.headline()) if row[0][:2] in ("C4", "C5"))
    runs = {units: students(f"distilled_{units}") for units in (30, 300, 800)}
    seeds = {units: range(10, 20) if units == 30 else range(10) for units in runs}
    by_width = {units: by_temperature(runs[units].of_seeds(seeds[units])) for units in runs}
    means = {u: {t: statistics.mean(e.values()) for t, e in by_width[u].items()} for u in by_width}
    for units in (300, 800):
        above_8 = [mean for t, mean in means[units].items() if t > 8]
        assert f"{min(above_8):.1f} to {max(above_8):.1f} ({units} units)" in similar
    good = [means[30].pop(t) for t in (2.5, 3, 4)]
    others = means[30].values()
    assert thirty == (
        f"{min(good):.1f} to {max(good):.1f} at T = 2.5 to 4; "
        f"{min(others):.1f} to {max(others):.1f} elsewhere"
    )


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
    start = "distilled_model_800_20_seed_0.pt"
    return f'[{{"file": "{start}", "data_set": "MNIST", "translated": {moved}}}]'


@pytest.mark.parametrize(
    ("file", "change", "named"),
    [
        ("no_three_300.csv", without("best_errors"), r"shifts.*no_three_300.*best_errors"),
        ("no_three_800.csv", without("biases"), r"biases.*no_three_800.*biases"),
        ("distilled_30.csv", without_temperature("2.5"), r"distilled_30.*T = 2.5"),
        ("distilled_30.csv", without_temperature("8.0"), r"thirty.*distilled_30.*temperatures"),
        # Rather an error than a table with nan: one run has no spread.
        (
            "no_three_800.csv",
            lambda text: "\n".join(text.splitlines()[:2]),
            r"no_three_800.*no run",
        ),
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


def write(path, lines):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)


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
    write(path, lines)
    with pytest.raises(UserError, match=f"{name}.*different values of {column}"):
        runs_in(name, **setting)


@pytest.mark.parametrize(
    ("number", "file", "column", "on_3", "of_teachers"),
    [
        ("C1", "cumbersome_3000", "errors", None, False),
        ("C2", "small_800", "errors", None, False),
        ("C3", "distilled_800", "errors", None, True),
        ("C6", "no_three_800", "learned_errors", "learned_on_group", True),
        ("C7", "no_three_800", "paper_errors", "paper_on_group", True),
        ("C8", "only_7_8_800", "learned_errors", None, True),
        ("C8", "only_7_8_800", "paper_errors", None, True),
    ],
)
def test_a_claim_has_the_errors_of_its_own_columns(number, file, column, on_3, of_teachers):
    """Five students of each teacher; of a student that missed a digit those on it, in brackets."""
    rows = lines_of(ROOT / "results" / f"{file}.csv")
    if of_teachers:
        sums = [net["sha256"] for net in lines_of(ROOT / "results" / "cumbersome_3000.csv")]
        rows = [row for row in rows if row["teacher"] in sums and row["temperature"] == "20.0"]
        rows = [row for row in rows if int(row["seed"]) < 5]
        assert len(rows) == 15
    errors = [int(row[column]) for row in rows]
    (claim,) = (
        c
        for c in claims.measured_claims()
        if c.number == number and c.run.mean == pytest.approx(statistics.mean(errors))
    )
    assert claim.runs == len(errors)
    ours = f"{statistics.mean(errors):,.1f}"
    if on_3:
        ours += f" ({statistics.mean(int(row[on_3]) for row in rows):,.1f})"
    assert claim.ours == ours
    if not of_teachers:  # a prediction interval from a textbook
        spread = statistics.stdev(errors) * (1 + 1 / len(errors)) ** 0.5
        half = {3: 4.303, 5: 2.776}[len(errors)] * spread
        assert claim.run.half == pytest.approx(half, rel=1e-3)


def test_the_verdict_says_whether_the_papers_figure_lies_in_the_interval():
    for claim in claims.measured_claims():
        low, high = (int(n.replace(",", "")) for n in claim.interval.split(" to "))
        assert low - 1 < claim.run.low <= low and high <= claim.run.high < high + 1
        inside = low <= claim.paper[0] <= high
        assert claim.verdict.endswith("compatible" if inside else "differs"), claim
