"""A sweep, and any file of rows, ends in means and spreads; values are compared seed by seed."""

import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
from common import ROOT
from scipy import stats

import distillation
import distillation_no_three
import train
from results import summary
from results.summary import seeds_to_detect
from support.means import means, spread, varied
from support.script import run_script
from support.sweep import read_rows

QUICK = "--epochs 1 --batch-size 500 --quiet"


@pytest.fixture
def summarized(monkeypatch, capsys):
    """summarized(*words): exit status, output and complaint of `python -m results.summary`."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["results.summary", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run_script(summary.main)
        return (stop.value.code or 0, *capsys.readouterr())

    return call


def write(path, rows, start="data,hidden_units,temperature,seed", end="loss,problem"):
    """Rows of units, T, seed, errors and perhaps a problem."""
    lines = [f"{start},errors,{end}"]
    for units, temperature, seed, errors, *problem in rows:
        lines.append(f"MNIST,{units},{temperature},{seed},{errors},0.1,{''.join(problem)}")
    path.write_text("\n".join(lines) + "\n")
    return path


def errors_of(units, temperature, seed):
    return 50 + units // 10 + int(temperature) + (7 * seed + int(temperature)) % 11


@pytest.fixture
def path(tmp_path):
    settings = [(u, t, s) for u in (30, 300) for t in ("8.0", "20", "2.0") for s in range(4)]
    rows = [(u, t, s, errors_of(u, float(t), s)) for u, t, s in settings]
    return write(tmp_path / "rows.csv", rows)


def test_rows_are_grouped_by_what_varies_lowest_mean_first(path):
    header, *lines = means(read_rows(path)).splitlines()
    assert header.split() == ["hidden_units", "temperature", "errors", "seeds"]
    expected = []
    for units in (30, 300):
        for temperature in ("8.0", "20", "2.0"):
            errors = [errors_of(units, float(temperature), seed) for seed in range(4)]
            expected.append((statistics.mean(errors), units, temperature, spread(errors)))
    for line, (_, units, temperature, words) in zip(lines, sorted(expected), strict=True):
        assert line.split() == [str(units), temperature, *words.split(), "4"]


def test_the_lowest_mean_comes_first_not_the_lowest_run(tmp_path):
    path = write(
        tmp_path / "rows.csv", [(30, 2, 0, 1), (30, 2, 1, 99), (30, 4, 0, 40), (30, 4, 1, 42)]
    )
    assert [line.split()[0] for line in means(read_rows(path)).splitlines()[1:]] == ["4", "2"]


def test_values_count_however_they_are_spelt(tmp_path):
    path = write(tmp_path / "rows.csv", [(30, "2", 0, 5), (30, "2.0", 1, 7)])
    assert varied(read_rows(path)) == []
    assert means(read_rows(path)).splitlines()[1].split() == ["6.0", "±", "1.4", "2"]


@pytest.mark.parametrize("script", [train, distillation, distillation_no_three])
def test_a_sweep_ends_with_the_means_of_its_own_runs(call, teacher, capsys, script):
    start = "--model small" if script is train else f"--teacher {teacher}"
    words = f"{start} --hidden-units 12 {QUICK} --results rows.csv --learning-rate"
    call(script, words, "0.01 --seed 8")  # is there already, and is not of the sweep
    capsys.readouterr()
    call(script, words, "0.002 0.02 --seed 0 1")
    *_, header, first, second, last = capsys.readouterr().out.splitlines()
    assert last == "4 runs in rows.csv"
    rows = [row for row in read_rows(Path("rows.csv")) if row["seed"] != "8"]
    counted = ["errors"]
    if script is distillation_no_three:
        counted += ["paper_errors", "best_errors", "label_free_errors"]
    found = {}
    for rate in ("0.002", "0.02"):
        alike = [row for row in rows if row["learning_rate"] == rate]
        each = [[int(row[name]) for row in alike] for name in counted]
        found[statistics.mean(each[0])] = [rate, *" ".join(map(spread, each)).split(), "2"]
    assert header.split()[0] == "learning_rate" and header.split()[-1] == "seeds"
    assert [first.split(), second.split()] == [found[mean] for mean in sorted(found)]


def test_a_single_run_has_no_means(call, capsys):
    call(train, f"--model small --hidden-units 5 {QUICK} --results rows.csv")
    assert "seeds" not in capsys.readouterr().out


def test_values_are_compared_seed_by_seed_within_the_same_setting(summarized, path):
    status, out, _ = summarized(path, "--compare", "temperature")
    *blocks, caveat = out.split("\n\n")[1:]
    assert caveat.startswith("An interval holds for a single comparison")
    assert status == 0 and [block.splitlines()[0] for block in blocks] == [
        "hidden_units 30",
        "hidden_units 300",
    ]
    for units, block in zip((30, 300), blocks, strict=True):
        header, *lines = block.splitlines()[1:]
        assert header.startswith("more than 2.0 by ") and len(lines) == 2
        for line, temperature in zip(lines, (8, 20), strict=True):
            differences = np.array(
                [errors_of(units, temperature, s) - errors_of(units, 2, s) for s in range(4)]
            )
            low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
            words = line.split()
            assert words[0] in (f"{temperature}", f"{temperature}.0")
            assert float(words[1]) == pytest.approx(differences.mean(), abs=0.06)
            assert float(words[2]) == pytest.approx(low, abs=0.06)
            assert float(words[4]) == pytest.approx(high, abs=0.06)
            assert words[5:] == ["4", str(seeds_to_detect(5, differences.std(ddof=1)))]


def test_values_with_too_few_seeds_in_common_are_told_apart(summarized, tmp_path):
    rows = [(30, 2, s, 5 + s) for s in range(3)] + [(30, 4, 1, 70)]
    rows += [(30, 8, s, 60 + s**2) for s in (1, 2, 7)] + [(300, 2, 0, 5), (300, 2, 1, 5)]
    status, out, _ = summarized(write(tmp_path / "rows.csv", rows), "--compare", "temperature")
    *_, first, second = (line.split() for line in out.split("\n\n")[1].splitlines())
    assert status == 0 and "hidden_units 300\n" not in out  # there is nothing to compare with
    assert [first[0], second[0]] == ["4", "8"] and first[-1] == "1" and second[-2] == "2"
    assert "two seeds needed" in out


def test_settings_are_told_by_their_names_wherever_they_stand(summarized, tmp_path):
    path = tmp_path / "rows.csv"
    lines = ["1,6,20,", "0,5,1,", "0,4,20,", "1,9,1,"]
    path.write_text("seed,errors,temperature,problem\n" + "\n".join(lines) + "\n")
    _, out, _ = summarized(path)
    assert [line.split()[0] for line in out.splitlines()] == ["temperature", "20", "1"]


@pytest.mark.parametrize("deviation", [0.0, 2.0, 6.0, 40.0])
def test_so_many_seeds_find_the_difference_in_four_of_five_experiments(deviation):
    seeds = seeds_to_detect(5, deviation)

    def power(count):
        generator = np.random.default_rng(0)
        drawn = generator.normal(5, deviation or 1e-3, (4000, count))
        return (stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05).mean()

    assert power(seeds) > 0.77
    assert seeds == 2 or power(seeds - 1) < 0.83


def test_the_number_of_seeds_is_that_of_the_textbooks():
    """A paired t-test at 5 % with a power of 80 % needs 34 pairs for half a deviation."""
    assert seeds_to_detect(5, 10.0) == 34 and seeds_to_detect(5, 5.0) == 10
    assert seeds_to_detect(5, 150.0) == pytest.approx((2.8016 * 30) ** 2, rel=1e-3)
    assert seeds_to_detect(5, 200.0) is None


def test_every_file_of_the_project_has_its_means(summarized):
    for path in sorted((ROOT / "results").glob("*.csv")):
        status, out, err = summarized(path)
        assert (status, err) == (0, "") and "seeds" in out.splitlines()[0]


def test_runs_that_failed_are_left_out_and_counted(summarized, tmp_path):
    rows = [(30, 2, 0, 5), (30, 2, 1, 7), (30, 2, 2, "", "not finite")]
    status, out, _ = summarized(write(tmp_path / "rows.csv", rows))
    assert status == 0 and "1 of 3 runs failed" in out and "6.0 ± 1.4" in out


@pytest.mark.parametrize(
    ("rows", "words", "named"),
    [
        ([(30, 2, 0, 5), (30, 2, 1, 7)], ["--compare", "temperature"], "temperature none"),
        ([(30, 2, 0, 5), (30, 4, 0, 7)], ["--compare", "units"], "units temperature"),
        ([(30, 2, 0, 5), (30, 2, 0, 7)], [], "rows.csv seed two rows"),
        ([(30, 2, 0, 5), (30, 4, 0, 7), (30, 4, 0, 7)], [], "two rows temperature 4"),
        ([(30, 2, 0, "")], [], "rows.csv errors number"),
        ([(30, 2, 0, "", "not finite")], [], "rows.csv failed"),
        ([], [], "rows.csv no runs"),
        ([(30, 2, 0, "many")], [], "rows.csv errors many"),
    ],
    ids=str,
)
def test_what_cannot_be_summarized_is_said_in_one_line(summarized, tmp_path, rows, words, named):
    status, _, err = summarized(write(tmp_path / "rows.csv", rows), *words)
    (line,) = err.splitlines()
    assert status == 2 and all(word in line for word in named.split()), line


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xfe", b"seed,errors,problem\n1,2"])
def test_a_file_without_runs_is_refused(summarized, tmp_path, content):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    for each in (path, tmp_path, tmp_path / "none.csv"):
        status, _, err = summarized(each)
        assert status == 2 and len(err.splitlines()) == 1 and str(each) in err
