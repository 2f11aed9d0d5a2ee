"""Write the tables of README.md, results/ and models/README.md, and results/claims.json.

They come from the runs in results/ and the checkpoints in models/; the text around them stays.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from results import claims, missed_digits, students, teachers, temperatures
from results.runs import RESULTS, ROOT
from results.summary import making, table
from results.trials import trials
from support.checkpoints import MODELS
from support.command_line import Parser
from support.errors import UserError
from support.files import read_file, replace_file, sha256
from support.records import record_of
from support.script import run_script
from support.teacher import TEACHER

MODELS_INTRODUCTION = """\
# The checkpoints

**These are the nets behind the results, each after its last epoch. No seed was selected by result;
the length of the teachers' training [was](../results/README.md#what-was-chosen-when).** Seeds are 0
unless the name says otherwise. `python evaluate.py --verify` counts their errors again, and
[README.md](../README.md#in-your-own-code) shows how to load one. MIT licence.
"""
MODELS_END = """\
Biases are saved as they were learned: no shift is in a file.

To train one again, run its command with another file for `--results`: runs that have a row in the
present file are skipped. [results/COMMANDS.md](../results/COMMANDS.md) has all commands.

Schedules span `schedule_epochs` and are scaled to `epochs`: in a 3,000-epoch run,
`momentum_epochs = 66` becomes 495. `python -m results.tables` writes this page from what the files
record.
"""
SHIFTED = {"as learned": "learned_errors", "best shift": "best_errors"}
TRIALS = {"cumbersome": "cumbersome", "small": "small", "distilled": "distilled"}
TRIALS |= {"distilled 30": "distilled_30", "ensemble": "ensemble"}
TRIALS |= {"60 epochs": "distilled_60", "sgd": "distilled_sgd"}
PAGES: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {"headline": claims.headline},
    RESULTS / "README.md": {
        "claims": partial(claims.overview, 800),
        "claims 300": partial(claims.overview, 300),
        "by teacher": teachers.by_teacher,
        "by length": claims.by_length,
        "variants": students.variants,
        "precisions": teachers.precisions,
        "temperatures": temperatures.temperatures,
        "similar": temperatures.similar,
        "thirty": temperatures.thirty,
        "shifts": missed_digits.shifts,
        "crossed": missed_digits.crossed,
        "biases": missed_digits.biases,
        "omitted digits": missed_digits.omitted_digits,
        "teachers": teachers.teachers,
        "missed by length": teachers.missed_by_length,
        "ensembles": teachers.ensembles,
        "lowest": students.lowest,
        "tries": students.tries,
        "translated": students.translations,
        "paper params": teachers.paper_params,
        "logistic": teachers.logistic_units,
    },
    RESULTS / "TRIALS.md": {
        **{name: partial(trials, file, errors="errors") for name, file in TRIALS.items()},
        "no three": partial(trials, "no_three", **SHIFTED),
        "7 and 8": partial(trials, "no_three_keep", **SHIFTED),
    },
}


def text_of(page: Path) -> str:
    """Raises UserError if it cannot be read."""
    try:
        return read_file(page).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {page}: {error}") from None


def rewritten(page: Path, text: str) -> str:
    """The `text` of `page` with every table between its marks as results/ has it now.

    Raises UserError if a table has no place of its own, or if results/ lacks what it needs.
    """
    places = {
        name: re.compile(rf"(<!-- {name} -->\n)(?:(?!<!--).)*(<!-- end -->)", re.DOTALL)
        for name in PAGES[page]
    }
    for name, place in places.items():
        if len(place.findall(text)) != 1:
            raise UserError(f"{page} has no place, or several, for the table {name!r}")
    for name, place in places.items():
        with making(f"the table {name!r}"):
            content = PAGES[page][name]()
        text = place.sub(lambda found, content=content: f"{found[1]}{content}\n{found[2]}", text)
    return text


def models_page() -> str:
    """models/README.md: what each checkpoint is, its errors, and how it was made."""
    paths = sorted(MODELS.glob("[!.]*.pt"))
    records = {path: record_of(path) for path in paths}
    rows = [
        [
            f"`{path.name}`" + " (the default teacher)" * (path == TEACHER),
            role_of(record),
            f"{record['result']['errors']:,}",
            f"`{record['command']}`",
        ]
        for path, record in records.items()
    ]
    parts = [MODELS_INTRODUCTION, table(["file", "role", "test errors", "command"], rows) + "\n"]
    for path, record in records.items():
        lines = [f"- {name}: {value}" for name, value in facts_of(path, record).items()]
        folded = [f"<details><summary>{path.name}</summary>", "", *lines, "", "</details>", ""]
        parts.append("\n".join(folded))
    return "\n".join([*parts, MODELS_END])


def role_of(record: dict[str, Any]) -> str:
    """Teacher, small net or student, and of what."""
    parameters, digits = record["parameters"], record["data_set"]["digits"]
    units, epochs = record["hidden_units"], parameters["epochs"]
    if record["architecture"] == "CumbersomeNet":
        of_do = f", the schedule of [DO] at a rate of {parameters['learning_rate']:g}"
        how = of_do if parameters["rate_schedule"] == "exponential" else ""
        return f"cumbersome net, {epochs:,} epochs{how}"
    if not record["teacher"]:
        return f"small net, {units} units, learned the labels"
    missed = ", ".join(str(digit) for digit in range(10) if digit not in digits)
    shown = f", never shown {missed}" * bool(missed)
    return f"student, {units} units, T = {parameters['temperature']:g}{shown}"


def facts_of(path: Path, record: dict[str, Any]) -> dict[str, str]:
    """What a checkpoint records of itself."""
    result, parameters, teacher = (record[part] for part in ("result", "parameters", "teacher"))
    units, seen = record["hidden_units"], record["data_set"]
    targets = f"soft targets of `{teacher['file']}`" if teacher else "labels"
    return {
        "net": f"{record['architecture']}, 784-{units}-{units}-10, rectified linear units",
        "learned from": f"{targets}, {seen['training_cases']:,} images of the digits "
        + ", ".join(map(str, seen["digits"])),
        "errors on 0 to 9": ", ".join(map(str, result["errors_per_digit"])),
        "seed": str(record["seed"]),
        "parameters": ", ".join(f"{name} {value}" for name, value in parameters.items()),
        "versions": ", ".join(f"{name} {value}" for name, value in record["versions"].items()),
        "SHA-256": f"`{sha256(path)}`",
    }


def main() -> None:
    command = "python -m results.tables"
    Parser(f"{command}\n", prog=command, description=__doc__).parse_args()
    pages = {page: rewritten(page, text_of(page)) for page in PAGES}
    pages[RESULTS / "claims.json"] = claims.as_json()
    pages[MODELS / "README.md"] = models_page()
    for path, text in pages.items():
        replace_file(path, text.encode())
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    run_script(main)
