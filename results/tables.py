"""Write the tables of README.md, results/README.md and models/README.md.

They come from the runs in results/ and the checkpoints in models/; the text around them stays.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from results import beyond, claims, temperatures
from results.beyond import trials
from results.runs import RESULTS, ROOT
from results.summary import making
from support.checkpoints import MODELS
from support.command_line import Parser
from support.errors import UserError
from support.files import read_file, replace_file, sha256
from support.records import record_of
from support.script import run_script

MODELS_INTRODUCTION = """\
# The checkpoints

Each is the net of seed 0 after its last epoch, not selected by result; of the cumbersome net of
1,000 epochs, seeds 1 and 2 are here as well: the three are the ensemble of `results/README.md`.
`cumbersome_model_1200_paper.pt` shows where the published schedule leads, and is no good teacher.
Read one with `load_model` of `support/checkpoints.py` or with
`torch.load(path, weights_only=True)`.
`python evaluate.py --verify` counts their errors again. MIT licence.

To train one again, run its command, with another file for `--results` if it names one: runs that
have a line in the present file are skipped. For `cumbersome_model_1200_400.pt`, give another
`--output`: the file had the name that the default teacher has now.

The schedules of a net span `schedule_epochs` and are scaled to `epochs`: of 1,000 epochs instead of
400, `momentum_epochs` of 66 are 165.

`python -m results.tables` writes this page from what the files record.
"""
SHIFTED = {"as learned": "learned_errors", "best shift": "best_errors"}
PAGES: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": {"headline": claims.headline},
    RESULTS / "README.md": {
        "claims": claims.overview,
        "biases": beyond.biases,
        "temperatures": temperatures.temperatures,
        "similar": temperatures.similar,
        "thirty": temperatures.thirty,
        "omitted digits": beyond.omitted_digits,
        "teachers": beyond.teachers,
        "ensembles": beyond.ensembles,
        "lowest": beyond.lowest,
        "translated": beyond.translations,
        "paper params": beyond.paper_params,
        "cumbersome": partial(trials, "cumbersome", errors="errors"),
        "small": partial(trials, "small", errors="errors"),
        "distilled": partial(trials, "distilled", errors="errors"),
        "distilled 30": partial(trials, "distilled_30", errors="errors"),
        "no three": partial(trials, "no_three", **SHIFTED),
        "ensemble": partial(trials, "ensemble", errors="errors"),
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
    parts = [MODELS_INTRODUCTION]
    for path in sorted(MODELS.glob("[!.]*.pt")):
        lines = [f"- {name}: {value}" for name, value in facts_of(path).items()]
        parts.append("\n".join([f"## {path.name}", "", *lines, ""]))
    return "\n".join(parts)


def facts_of(path: Path) -> dict[str, str]:
    """What a checkpoint records of itself. Raises UserError if it was not made by a script."""
    found = record_of(path)
    result, parameters, teacher = found["result"], found["parameters"], found["teacher"]
    units, seen = found["hidden_units"], found["data_set"]
    targets = f"soft targets of `{teacher['file']}`" if teacher else "labels"
    return {
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


def main() -> None:
    command = "python -m results.tables"
    Parser(f"{command}\n", prog=command, description=__doc__).parse_args()
    pages = {page: rewritten(page, text_of(page)) for page in PAGES}
    pages[MODELS / "README.md"] = models_page()
    for path, text in pages.items():
        replace_file(path, text.encode())
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    run_script(main)
