"""Write the tables of the README from the runs in results/: `python tables.py`."""

import csv
import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from functools import cache, partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from training_params import Parser, UserError, run_script

HERE = Path(__file__).parent
README, RESULTS = HERE / "README.md", HERE / "results"
STUDENTS_WITHOUT = ((800, 20), (300, 8))  # units and temperature, of C6 to C8
GOOD_FOR_30 = (2.5, 3.0, 4.0)  # [KD] s.3: "temperatures in the range 2.5 to 4"
Line = dict[str, str]


def contents(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def read(name: str, **setting: str) -> list[Line]:
    """The runs in results/`name`.csv that came to an end and have these settings, by seed.

    Raises UserError if there is none.
    """
    lines = [
        line
        for line in csv.DictReader(contents(RESULTS / f"{name}.csv").splitlines())
        if setting.items() <= line.items() and not line["problem"]
    ]
    if not lines:
        raise UserError(f"results/{name}.csv has no finished run with {setting}")
    return sorted(lines, key=lambda line: int(line["seed"]))


def numbers(lines: Iterable[Line], column: str) -> list[float]:
    return [float(line[column]) for line in lines]


def spread(values: Sequence[float]) -> str:
    """Mean and, of several, standard deviation."""
    mean = statistics.mean(values)
    return f"{mean:,.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else f"{mean:,.0f}"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


@cache
def student_t(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution with `freedom` degrees, by integrating its density."""
    factor = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    x = np.linspace(0, 200, 2_000_001)
    density = factor / math.sqrt(freedom * math.pi) * (1 + x**2 / freedom) ** (-(freedom + 1) / 2)
    below = 0.5 + np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(x))
    return float(np.interp(probability, below, x[1:]))


def interval(differences: Sequence[float], comparisons: int = 1) -> tuple[float, float]:
    """Mean of paired differences and half its 95 % confidence interval.

    With several comparisons each is wider, so that all hold at once (Bonferroni).
    """
    quantile = student_t(1 - 0.025 / comparisons, len(differences) - 1)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), quantile * error


def claims() -> str:
    """C1 to C3 and C6 to C8: the paper's number, ours with seed 0 and over all seeds."""
    rows: list[list[str]] = []

    def add(what: str, paper: str, lines: list[Line], errors: str = "errors", group: str = ""):
        first = f"{int(lines[0][errors]):,}" + (f" ({lines[0][group]})" if group else "")
        mean = spread(numbers(lines, errors))
        mean += f" ({spread(numbers(lines, group))})" if group else ""
        rows.append([what, paper, first, mean, str(len(lines))])

    add("C1: cumbersome net, 1200 units, dropout, jitter", "67", read("cumbersome"))
    add("C2: small net, 800 units, no regularisation", "146", read("small_800"))
    add("C3: distilled, 800 units, T = 20", "74", read("distilled_800", temperature="20.0"))
    add("distilled, 300 units, T = 8", "", read("distilled_300", temperature="8.0"))
    for units, temperature in STUDENTS_WITHOUT:
        lines = read(f"no_three_{units}", omit="3")
        student = f"{units} units, T = {temperature}"
        add(f"C6: without 3s, {student} (on 3s)", "206 (133)", lines, *_shift("learned"))
        add("C7: bias of the 3 raised by 3.5", "109 (14)", lines, *_shift("paper"))
        add("raised by what is best on the test set", "", lines, *_shift("best"))
        add("raised without test labels", "", lines, *_shift("label_free"))
    for units, temperature in STUDENTS_WITHOUT:
        lines = read(f"only_7_8_{units}", keep="7 8")
        student = f"{units} units, T = {temperature}"
        add(f"C8: 7s and 8s only, {student}", "4,730", lines, "learned_errors")
        add("biases of 7 and 8 lowered by 7.6", "1,320", lines, "paper_errors")
        add("lowered by what is best on the test set", "", lines, "best_errors")
        add("lowered without test labels", "", lines, "label_free_errors")
    return table(["", "paper", "seed 0", "mean ± standard deviation", "seeds"], rows)


def _shift(name: str) -> tuple[str, str]:
    return f"{name}_errors", f"{name}_on_group"


def biases() -> str:
    """C6: the learned bias of the omitted class beside those of the others, and the shifts."""
    rows = []
    for units, temperature in STUDENTS_WITHOUT:
        lines = read(f"no_three_{units}", omit="3")
        learned = np.array([line["biases"].split() for line in lines], dtype=float)
        others = np.delete(learned, 3, axis=1)
        each = others.mean(axis=0)
        rows.append(
            [
                f"{units} units, T = {temperature}",
                f"{learned[:, 3].mean():+.2f} ± {learned[:, 3].std(ddof=1):.2f}",
                f"{others.mean():+.2f} ({each.min():+.2f} to {each.max():+.2f})",
                f"{np.mean(numbers(lines, 'best_shift')):+.2f}",
                f"{np.mean(numbers(lines, 'label_free_shift')):+.2f}",
            ]
        )
    header = ["", "bias of the 3", "the others: mean (of each)", "best shift", "label-free shift"]
    return table(header, rows)


def by_temperature(units: int) -> dict[float, list[float]]:
    """Errors with each temperature, in the order of their seeds."""
    found: dict[float, list[float]] = {}
    for line in read(f"distilled_{units}"):
        found.setdefault(float(line["temperature"]), []).append(float(line["errors"]))
    return dict(sorted(found.items()))


def temperatures() -> str:
    """C4 and C5: mean errors by temperature for each width, and how many seeds they are of."""
    found = {units: by_temperature(units) for units in (30, 300, 800)}
    rows = []
    for temperature in sorted({t for errors in found.values() for t in errors}):
        cells = [errors.get(temperature) for errors in found.values()]
        rows.append([f"{temperature:g}", *(f"{spread(e)} [{len(e)}]" if e else "" for e in cells)])
    return table(["T", *(f"{units} units" for units in found)], rows)


def similar() -> str:
    """C4: does the temperature matter more than the seed, from 8 on?"""
    rows = []
    for units in (300, 800):
        errors = {t: e for t, e in by_temperature(units).items() if t >= 8}
        means = [statistics.mean(e) for e in errors.values()]
        within = math.sqrt(statistics.mean(statistics.variance(e) for e in errors.values()))
        rows.append(
            [
                f"{units}",
                ", ".join(f"{t:g}" for t in errors),
                f"{min(means):.1f} to {max(means):.1f}",
                f"{statistics.stdev(means):.1f}",
                f"{within:.1f}",
                f"{within / math.sqrt(min(map(len, errors.values()))):.1f}",
            ]
        )
    header = ["units", "T", "means", "their deviation", "deviation over seeds", "chance alone"]
    return table(header, rows)


def thirty() -> str:
    """C5: errors at each other temperature less those at 2.5 to 4, paired over the seeds."""
    errors = by_temperature(30)
    inside = np.mean([errors[t] for t in GOOD_FOR_30], axis=0)
    others = [t for t in errors if t not in GOOD_FOR_30]
    rows = []
    for temperature in others:
        mean, half = interval(list(np.array(errors[temperature]) - inside), len(others))
        verdict = "worse" if mean > half else "better" if -mean > half else "no difference shown"
        limits = f"{mean - half:+.1f} to {mean + half:+.1f}"
        rows.append([f"{temperature:g}", f"{mean:+.1f}", limits, verdict])
    return table(["T", "errors more than at 2.5 to 4", "95 % interval", "so it is"], rows)


def omitted_digits() -> str:
    """Each digit omitted in turn: errors as learned and shifted, in total and on that digit."""
    rows = []
    for digit in range(10):
        lines = read("no_three_300" if digit == 3 else "omitted_digits", omit=str(digit))
        cells = []
        for name in ("learned", "label_free"):
            errors, group = _shift(name)
            cells.append(f"{spread(numbers(lines, errors))} ({spread(numbers(lines, group))})")
        shift = statistics.mean(numbers(lines, "label_free_shift"))
        rows.append([str(digit), *cells, f"{shift:+.2f}", str(len(lines))])
    header = ["omitted", "as learned (on it)", "shifted without test labels", "by", "seeds"]
    return table(header, rows)


def translated() -> str:
    """C3': mean errors on the test images as they are and moved by 1, 2 and 3 pixels."""
    found = json.loads(contents(RESULTS / "translated.json"))
    kinds = {
        "cumbersome net, trained on jittered images": "cumbersome",
        "distilled, 800 units, T = 20": "distilled",
        "small net, 800 units": "small",
    }
    rows = []
    for name, start in kinds.items():
        nets = [row for row in found if Path(row["file"]).name.startswith(start)]
        distances = [spread([n["translated"][str(d)] for n in nets]) for d in range(4)]
        rows.append([name, *distances, str(len(nets))])
    return table(["moved by", "0 pixels", "1", "2", "3", "seeds"], rows)


def paper_params() -> str:
    """The cumbersome net by PaperParams in 300 epochs: each seed as it came."""
    rows = [
        [line["seed"], f"{int(line['errors']):,}", f"{float(line['loss']):.4f}"]
        for line in read("cumbersome_paper")
    ]
    return table(["seed", "errors", "loss in training, last epoch"], rows)


def validation(name: str, **errors: str) -> str:
    """What was tried on held-out cases: the hyperparameters that differ, and errors by seed.

    `errors` are columns of the file by their names in the table; the last one gives the order.
    """
    lines = read(f"validation_{name}")
    hyperparameters = [h for h in takewhile("seed".__ne__, lines[0]) if h != "schedule_epochs"]
    varied = [h for h in hyperparameters if len({line[h] for line in lines}) > 1]
    *_, deciding = errors.values()
    settings: dict[tuple[str, ...], list[Line]] = {}
    for line in lines:
        settings.setdefault(tuple(line[h] for h in varied), []).append(line)
    rows = sorted(settings.items(), key=lambda row: statistics.mean(numbers(row[1], deciding)))
    cells = [
        [*setting, *(", ".join(line[column] for line in tried) for column in errors.values())]
        for setting, tried in rows
    ]
    return table([*(h.replace("_", " ") for h in varied), *errors], cells)


TABLES = {
    "claims": claims,
    "biases": biases,
    "temperatures": temperatures,
    "similar": similar,
    "thirty": thirty,
    "omitted digits": omitted_digits,
    "translated": translated,
    "paper params": paper_params,
    "validation cumbersome": partial(validation, "cumbersome", errors="errors"),
    "validation small": partial(validation, "small", errors="errors"),
    "validation distilled": partial(validation, "distilled", errors="errors"),
    "validation no three": partial(
        validation, "no_three", **{"as learned": "learned_errors", "best shift": "best_errors"}
    ),
    "validation 7 and 8": partial(
        validation, "no_three_keep", **{"as learned": "learned_errors", "best": "best_errors"}
    ),
}


def rewritten(text: str) -> str:
    """The README `text` with every table between its marks as results/ has it now.

    Raises UserError for a mark without a table, and for a table without marks.
    """
    for name, make in TABLES.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        if len(marks.findall(text)) != 1:
            raise UserError(f"{README} has no place, or several, for the table {name!r}")
        content = make()
        text = marks.sub(lambda found, content=content: found[1] + content + found[2], text)
    return text


def main() -> None:
    Parser("python tables.py\n", description=__doc__).parse_args()
    README.write_text(rewritten(contents(README)))
    print(f"{len(TABLES)} tables in {README}")


if __name__ == "__main__":
    run_script(main)
