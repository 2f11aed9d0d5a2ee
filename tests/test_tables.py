"""The tables of the pages: what they compute, and that they are those of results/."""

import statistics

import pytest
from common import ROOT

from results import claims, tables
from results.runs import by_temperature, runs_in
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


def test_one_run_has_no_spread(results):
    """Rather an error than a table with nan."""
    path = results / "no_three_800.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:2]) + "\n")
    with pytest.raises(UserError, match="biases"):
        tables.rewritten(PAGE, PAGE.read_text())
