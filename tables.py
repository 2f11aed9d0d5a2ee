"""Write the tables of README.md and models/README.md: `python tables.py`.

They come from the runs in results/ and the checkpoints in models/; text around them stays.
"""

import math
import re
import statistics
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from layers import load_checkpoint, replace_file, sha256
from summary import (
    Line,
    by_temperature,
    contents,
    interval,
    made_of_results,
    numbers,
    paired,
    read,
    spread,
    translated,
)
from training_params import Parser, UserError, run_script

HERE = Path(__file__).parent
README, MODELS = HERE / "README.md", HERE / "models"
MODELS_INTRODUCTION = """\
# The checkpoints

Each is that of seed 0, after the last epoch, whatever came out. `load_model` of layers.py reads
them, as does `torch.load(path, weights_only=True)`; `python evaluate.py --verify` counts their
errors again. MIT licence. `python tables.py` wrote this page from what the files record.
"""
STUDENTS = {800: "800 units, T = 20", 300: "300 units, T = 8"}
FLAGS = {800: "`--hidden-units 800 --temperature 20`", 300: "`--hidden-units 300 --temperature 8`"}
GOOD_FOR_30 = (2.5, 3.0, 4.0)  # [KD] s.3: "temperatures in the range 2.5 to 4"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def claims() -> str:
    """The paper's claims: its number, ours with seed 0 and over all seeds, and the command."""
    rows = [
        _row("C1: cumbersome net, 1200 units", "67", read("cumbersome"), "`train.py`"),
        _row("C2: small net, 800 units", "146", read("small_800"), "`train.py --model small`"),
        _row("C3: distilled, 800 units, T = 20", "74", at(800, "20.0"), "`distillation.py`"),
        _row("distilled, 300 units, T = 8", "", at(300, "8.0"), f"the same, {FLAGS[300]}"),
        ["C4: T above 8", "similar", "", "see below", fewest(800), "see below"],
        ["C5: 30 units, T of 2.5 to 4", "better", "", "see below", fewest(30), "see below"],
    ]
    for units, flags in FLAGS.items():
        lines, student = read(f"no_three_{units}", omit="3"), STUDENTS[units]
        command = f"`distillation_no_three.py`, {flags}"
        rows += [
            _row(f"C6: never saw a 3, {student}", "206 (133)", lines, command, "learned", True),
            _row("C7: its bias raised by 3.5", "109 (14)", lines, "", "paper", True),
            _row("by what is best on the test set", "", lines, "", "best", True),
            _row("by class frequencies, without test labels", "", lines, "", "label_free", True),
        ]
    lines, student = read("only_7_8_300", keep="7 8"), STUDENTS[300]
    command = "`distillation_no_three.py --keep 7 8 --epochs 100`"
    rows += [
        _row(f"C8: saw 7s and 8s only, {student}", "47.3 %", lines, command, "learned"),
        _row("their biases lowered by 7.6", "13.2 %", lines, "", "paper"),
        _row("by what is best on the test set", "", lines, "", "best"),
        _row("by class frequencies, without test labels", "", lines, "", "label_free"),
    ]
    header = ["", "paper", "seed 0", "mean ± standard deviation", "seeds", "command"]
    return table(header, rows)


def fewest(units: int) -> str:
    """The smallest number of seeds of any temperature."""
    return str(min(map(len, by_temperature(f"distilled_{units}").values())))


def at(units: int, temperature: str) -> list[Line]:
    return read(f"distilled_{units}", temperature=temperature)


def _row(
    what: str,
    paper: str,
    lines: list[Line],
    command: str,
    shift: str = "",
    with_group: bool = False,
) -> list[str]:
    """Errors with the `shift` of that name; in brackets, if wanted, those on the omitted digit."""
    columns = [f"{shift}_errors" if shift else "errors"]
    columns += [f"{shift}_on_group"] if with_group else []
    first, *on_group = (f"{int(lines[0][column]):,}" for column in columns)
    mean, *mean_on_group = (spread(numbers(lines, column)) for column in columns)
    cells = [first, *(f" ({n})" for n in on_group)], [mean, *(f" ({n})" for n in mean_on_group)]
    return [what, paper, *("".join(cell) for cell in cells), str(len(lines)), command]


def biases() -> str:
    """C6: the learned bias of the omitted class beside those of the others, and the shifts."""
    rows = []
    for units, student in STUDENTS.items():
        lines = read(f"no_three_{units}", omit="3")
        learned = np.array([line["biases"].split() for line in lines], dtype=float)
        others = np.delete(learned, 3, axis=1)
        each = others.mean(axis=0)
        rows.append(
            [
                student,
                f"{learned[:, 3].mean():+.2f} ± {learned[:, 3].std(ddof=1):.2f}",
                f"{others.mean():+.2f} ({each.min():+.2f} to {each.max():+.2f})",
                f"{np.mean(numbers(lines, 'best_shift')):+.2f}",
                f"{np.mean(numbers(lines, 'label_free_shift')):+.2f}",
            ]
        )
    header = [
        "",
        "bias of the 3",
        "the others: mean (of each)",
        "best shift",
        "shift by class frequency",
    ]
    return table(header, rows)


def temperatures() -> str:
    """C4 and C5: mean errors by temperature for each width, and how many seeds they are of."""
    found = {units: by_temperature(f"distilled_{units}") for units in (30, 300, 800)}
    rows = []
    for temperature in sorted({t for errors in found.values() for t in errors}):
        cells = [list(errors.get(temperature, {}).values()) for errors in found.values()]
        rows.append([f"{temperature:g}", *(f"{spread(e)} [{len(e)}]" if e else "" for e in cells)])
    return table(["T", *(f"{units} units" for units in found)], rows)


def similar() -> str:
    """C4: does the temperature matter, from 8 on, more than chance would have it?

    Each seed's mean over the temperatures is taken off, as all temperatures have the same seeds.
    """
    rows = []
    for units in (300, 800):
        errors = {t: e for t, e in by_temperature(f"distilled_{units}").items() if t >= 8}
        found = paired(errors)
        means, (temperatures, seeds) = found.mean(axis=1), found.shape
        rest = found - found.mean(axis=0) - means[:, None] + found.mean()
        chance = math.sqrt((rest**2).sum() / (temperatures - 1) / (seeds - 1) / seeds)
        rows.append([units, ", ".join(f"{t:g}" for t in errors), seeds])
        rows[-1] += [f"{means.min():.1f} to {means.max():.1f}"]
        rows[-1] += [f"{means.std(ddof=1):.1f}", f"{chance:.1f}"]
    header = ["units", "T", "seeds", "mean errors", "their deviation over T", "by chance alone"]
    return table(header, rows)


def thirty() -> str:
    """C5: errors at each other temperature less those at 2.5 to 4, paired over the seeds."""
    rows: dict[float, list[str]] = {}
    for name in ("distilled_30", "distilled_30_20_epochs"):
        errors = by_temperature(name)
        found = dict(zip(errors, paired(errors), strict=True))
        good = np.mean([found[t] for t in GOOD_FOR_30], axis=0)
        others = [t for t in found if t not in GOOD_FOR_30]
        for t in others:
            mean, half = interval(list(found[t] - good), len(others))
            cell = f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"
            rows.setdefault(t, []).append(cell)
    header = ["T", "after 60 epochs (interval)", "after 20 epochs (interval)"]
    return table(header, [[f"{t:g}", *cells] for t, cells in rows.items()])


def omitted_digits() -> str:
    """Each digit omitted in turn: errors as learned and shifted, in total and on that digit."""
    rows = []
    for digit in range(10):
        lines = read("no_three_300" if digit == 3 else "omitted_digits", omit=str(digit))
        cells = []
        for shift in ("learned", "label_free"):
            errors, group = (numbers(lines, f"{shift}_{what}") for what in ("errors", "on_group"))
            cells.append(f"{spread(errors)} ({spread(group)})")
        shift = statistics.mean(numbers(lines, "label_free_shift"))
        rows.append([str(digit), *cells, f"{shift:+.2f}", str(len(lines))])
    header = ["omitted", "as learned (on it)", "shifted without test labels", "by", "seeds"]
    return table(header, rows)


def translations() -> str:
    """C3': mean errors on the test images as they are and moved by 1, 2 and 3 pixels."""
    nets = {
        "cumbersome net, trained on jittered images": "cumbersome_",
        "distilled, 800 units, T = 20": "distilled_",
        "small net, 800 units": "small_",
    }
    rows = []
    for name, start in nets.items():
        found = translated(start)
        rows.append([name, *map(spread, zip(*found, strict=True)), len(found)])
    return table(["moved by", "0 pixels", "1", "2", "3", "seeds"], rows)


def validation(name: str, **errors: str) -> str:
    """What was tried on held-out cases: the hyperparameters that differ, and errors by seed.

    `errors` are columns of the file by their names in the table; the last one gives the order.
    """
    lines = read(f"validation_{name}")
    unused = ("schedule_epochs", "momentum_epochs")  # nothing but their ratio to epochs, or sgd
    hyperparameters = [h for h in takewhile("seed".__ne__, lines[0]) if h not in unused]
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
    "translated": translations,
    "validation cumbersome": partial(validation, "cumbersome", errors="errors"),
    "validation small": partial(validation, "small", errors="errors"),
    "validation distilled": partial(validation, "distilled", errors="errors"),
    "validation distilled 30": partial(validation, "distilled_30", errors="errors"),
    "validation no three": partial(
        validation, "no_three", **{"as learned": "learned_errors", "best shift": "best_errors"}
    ),
    "validation 7 and 8": partial(
        validation, "no_three_keep", **{"as learned": "learned_errors", "best": "best_errors"}
    ),
}


def rewritten(text: str) -> str:
    """The README `text` with every table between its marks as results/ has it now.

    Raises UserError if a table has no place of its own, or if results/ lacks what it needs.
    """
    places = {
        name: re.compile(rf"(<!-- {name} -->\n)(?:(?!<!--).)*(<!-- end -->)", re.DOTALL)
        for name in TABLES
    }
    for name, place in places.items():
        if len(place.findall(text)) != 1:
            raise UserError(f"{README} has no place, or several, for the table {name!r}")
    for name, place in places.items():
        with made_of_results(f"the table {name!r}"):
            content = TABLES[name]()
        text = place.sub(lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text)
    return text


def models_page() -> str:
    """models/README.md: what each checkpoint is, its errors, and how it was made."""
    parts = [MODELS_INTRODUCTION]
    for path in sorted(MODELS.glob("*.pt")):
        found = load_checkpoint(path)
        result, parameters, teacher = found["result"], found["parameters"], found["teacher"]
        units, seen = found["hidden_units"], found["data_set"]
        targets = f"soft targets of `{teacher['file']}`" if teacher else "labels"
        facts = {
            "net": f"{found['architecture']}, 784-{units}-{units}-10, rectified linear units",
            "learned from": f"{targets}, {seen['training_cases']:,} images of the digits "
            + ", ".join(map(str, seen["digits"])),
            "test errors": f"{result['errors']:,} of {result['cases']:,}; on 0 to 9: "
            + ", ".join(map(str, result["errors_per_digit"])),
            "made by": f"`{found['command']}`, seed {found['seed']}",
            "parameters": ", ".join(f"{name} {value}" for name, value in parameters.items()),
            "versions": ", ".join(f"{name} {value}" for name, value in found["versions"].items()),
            "SHA-256": f"`{sha256(path)}`",
        }
        lines = [f"- {name}: {value}" for name, value in facts.items()]
        parts.append("\n".join([f"## {path.name}", "", *lines, ""]))
    return "\n".join(parts)


def main() -> None:
    Parser("python tables.py\n", description=__doc__).parse_args()
    pages = {README: rewritten(contents(README))}
    with made_of_results("models/README.md"):
        pages[MODELS / "README.md"] = models_page()
    for path, text in pages.items():
        replace_file(path, text.encode())
        print(f"wrote {path.relative_to(HERE)}")


if __name__ == "__main__":
    run_script(main)
