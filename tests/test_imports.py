"""The house: imports run one way, and optional packages stay optional. See docs/ARCHITECTURE.md."""

import ast
import re
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "evoprune"

ROOMS = (
    "core", "storage", "training", "scoring", "search", "spaces", "surgery", "zoo", "evaluation", "guidance", "run",
    "report", "progress", "checks", "training_checks", "tasks", "surroundings", "again", "api", "evoprune", "cli",
    "__main__",
)  # fmt: skip
"""A room may import itself and the rooms before it; `evoprune` is the package's own __init__.py."""

OPTIONAL = {
    "PIL",
    "huggingface_hub",
    "pyarrow",
    "pymoo",
}
MODULE_NAMES = {"pillow": "PIL"}


@dataclass(frozen=True)
class Import:
    """One import statement: who, what, and whether it is inside a function."""

    file: Path
    line: int
    target: str
    deferred: bool

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line} imports {self.target}"

    @property
    def package(self) -> str:
        return self.target.partition(".")[0]

    @property
    def room(self) -> str:
        return room_of(self.file)

    @property
    def target_room(self) -> str:
        parts = self.target.split(".")
        return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "evoprune"


def room_of(file: Path) -> str:
    name = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "evoprune" if name == "__init__" else name


def imports_of(file: Path) -> Iterator[Import]:
    tree = ast.parse(file.read_text())
    deferred = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "evoprune" if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            inside = [f"{module}.{alias.name}" for alias in node.names]
            targets = [name if module == "evoprune" or is_module(name) else module for name in inside]
        else:
            continue
        for target in targets:
            yield Import(file, node.lineno, target, node in deferred)


def is_module(name: str) -> bool:
    path = SOURCE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


FILES = sorted(SOURCE.rglob("*.py"))
ALL = [found for file in FILES for found in imports_of(file)]
OWN = [found for found in ALL if found.package == "evoprune"]


def test_every_module_is_in_a_room_and_was_read() -> None:
    assert {room_of(file) for file in FILES} == set(ROOMS)
    assert len(OWN) > 50, "the parser finds the imports"


def test_imports_run_one_way() -> None:
    wrong = [found for found in OWN if ROOMS.index(found.target_room) > ROOMS.index(found.room)]
    assert not wrong, "\n".join(map(str, wrong))


def test_modules_of_one_room_do_not_import_each_other_in_a_circle() -> None:
    graph = defaultdict(set)
    for found in OWN:
        graph[name_of(found.file)].add(found.target)

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for target in graph[name]:
                visit(target, (*path, name))
            done.add(name)

    done: set[str] = set()
    for name in list(graph):
        visit(name, ())


def name_of(file: Path) -> str:
    return ".".join(("evoprune", *file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


def test_no_import_of_our_own_hides_in_a_function() -> None:
    hidden = [found for found in OWN if found.deferred]
    assert not hidden, "\n".join(map(str, hidden))


def test_search_knows_arrays_only() -> None:
    foreign = [f for f in OWN if f.room == "search" and f.target_room not in ("core", "search")]
    networks = [f for f in ALL if f.room == "search" and f.target.startswith("torch.nn")]
    assert not foreign + networks, "\n".join(map(str, foreign + networks))


@pytest.mark.parametrize("package", sorted(OPTIONAL))
def test_an_optional_package_is_imported_in_one_file_inside_a_function(package: str) -> None:
    found = [f for f in ALL if f.package == package]
    assert found, "nothing imports it"
    assert all(f.deferred for f in found), "\n".join(map(str, found))
    assert len({f.file for f in found}) <= 1, "\n".join(map(str, found))


def test_everything_else_that_is_imported_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {module_name(requirement) for requirement in project["dependencies"]}
    extras = project["optional-dependencies"]
    optional = {module_name(requirement) for extra in ("data", "search") for requirement in extras[extra]}
    foreign = {f.package for f in ALL} - set(sys.stdlib_module_names) - {"evoprune"}
    assert foreign - OPTIONAL <= core
    assert foreign & OPTIONAL <= optional
    assert core <= foreign, "a declared dependency that nothing imports"


def module_name(requirement: str) -> str:
    name = re.split(r"[<>=~!\[; ]", requirement, maxsplit=1)[0]
    return MODULE_NAMES.get(name, name.replace("-", "_"))
