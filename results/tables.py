"""Write the tables of README.md, results/README.md and models/README.md: `python tables.py`.

They come from the runs in results/ and the checkpoints in models/; text around them stays.
"""

import re
import statistics
from collections.abc import Callable
from functools import partial
from itertools import takewhile
from pathlib import Path

import claims
from layers import MODELS, load_checkpoint, replace_file, sha256
from summary import RESULTS, Line, contents, made_of_results, numbers, read
from training_params import Parser, UserError, run_script

HERE = Path(__file__).parent
MODELS_INTRODUCTION = """\
# The checkpoints

Each is that of seed 0, after the last epoch, whatever came out. `load_model` of layers.py reads
them, as does `torch.load(path, weights_only=True)`; `python evaluate.py --verify` counts their
errors again. MIT licence. `python tables.py` wrote this page from what the files record.
"""


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
    return claims.table([*(h.replace("_", " ") for h in varied), *errors], cells)


Tables = dict[str, Callable[[], str]]
README_TABLES: Tables = {
    "claims": claims.overview,
    "biases": claims.biases,
    "temperatures": claims.temperatures,
    "similar": claims.similar,
    "thirty": claims.thirty,
    "omitted digits": claims.omitted_digits,
    "teachers": claims.teachers,
    "translated": claims.translations,
    "paper params": claims.paper_params,
}
TRIALS: Tables = {
    "cumbersome": partial(validation, "cumbersome", errors="errors"),
    "small": partial(validation, "small", errors="errors"),
    "distilled": partial(validation, "distilled", errors="errors"),
    "distilled 30": partial(validation, "distilled_30", errors="errors"),
    "no three": partial(
        validation, "no_three", **{"as learned": "learned_errors", "best shift": "best_errors"}
    ),
    "7 and 8": partial(
        validation, "no_three_keep", **{"as learned": "learned_errors", "best": "best_errors"}
    ),
}
PAGES = {HERE / "README.md": README_TABLES, RESULTS / "README.md": TRIALS}


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
        with made_of_results(f"the table {name!r}"):
            content = PAGES[page][name]()
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
    pages = {page: rewritten(page, contents(page)) for page in PAGES}
    with made_of_results("models/README.md"):
        pages[MODELS / "README.md"] = models_page()
    for path, text in pages.items():
        replace_file(path, text.encode())
        print(f"wrote {path.relative_to(HERE)}")


if __name__ == "__main__":
    run_script(main)
