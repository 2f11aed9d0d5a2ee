"""The import rule of the README, and pages that a reader can hold in his head."""

import ast
import sys
from pathlib import Path

import pytest
from common import ROOT

SCRIPTS = [
    "evaluate",
    "train",
    "distillation",
    "distillation_no_three",
    "explore",
]  # each imports earlier ones
READ = ["layers", "dataset", "training_params"]
# What files of these rooms may import of the project, beside other files of their own folder.
ALLOWED = {
    "layers": set(),
    "training_params": set(),
    "dataset": {
        f"support.{name}" for name in ("errors", "files", "hyperparameters", "mnist_files", "seeds")
    },
    "support": {*READ},
    "results": {*READ, *SCRIPTS, "support"},
    **{script: {*READ, "support", *SCRIPTS[:place]} for place, script in enumerate(SCRIPTS)},
}
FILES = sorted([*ROOT.glob("*.py"), *ROOT.glob("support/*.py"), *ROOT.glob("results/*.py")])
NAMES = [str(path.relative_to(ROOT)) for path in FILES]


def room_of(path: Path) -> str:
    return path.stem if path.parent == ROOT else path.parent.name


def imported(path: Path) -> set[str]:
    """The modules of the project that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole module"
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inside if path_of(name).exists()]
            found |= {*modules} or {str(node.module)}
    return {name for name in found if name.partition(".")[0] in ALLOWED}


def path_of(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


def test_every_file_has_a_room():
    assert {room_of(path) for path in FILES} == ALLOWED.keys()


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_run_one_way(path):
    room = room_of(path)
    for module in imported(path):
        folder = module.partition(".")[0]
        assert {module, folder} & ALLOWED[room] or folder == room, f"{path.name} imports {module}"


def test_no_modules_import_each_other_in_a_circle():
    graph = {path: {path_of(module) for module in imported(path)} for path in FILES}
    while graph:
        leaves = [path for path, needs in graph.items() if not needs & graph.keys()]
        assert leaves, f"a circle of {[path.name for path in graph]}"
        for path in leaves:
            del graph[path]


def test_what_data_need_of_support_needs_nothing_of_the_project_but_itself():
    for module in ALLOWED["dataset"]:
        assert imported(path_of(module)) <= ALLOWED["dataset"] | {"layers"}


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_page_can_be_held_in_the_head(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 40, node.name


def test_no_module_hides_one_of_the_standard_library():
    assert not {path.stem for path in FILES} & sys.stdlib_module_names
