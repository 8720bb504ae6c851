"""Measure the repository and write the tables of docs/architecture.md.

    python tools/architecture.py            measure and rewrite
    python tools/architecture.py --check    exit with 1 if a limit is broken or a table is missing

The tables stand between `<!-- measured: NAME -->` and `<!-- /measured -->`. They are rewritten by
hand before a release: CI does not compare every count of lines, it runs the floors test.
"""

import argparse
import ast
import importlib
import importlib.util
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
SECTION = re.compile(r"(<!-- measured: (\w+) -->\n)(.*?)(<!-- /measured -->)", re.DOTALL)


def files_of(folder: str) -> list[Path]:
    """Return the Python files of a folder, sorted."""
    return sorted((ROOT / folder).rglob("*.py"))


def lines_of(path: Path) -> int:
    """Return the number of lines of a file."""
    return len(path.read_text(encoding="utf-8").splitlines())


def functions_of(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the name and the number of lines, without docstring, of all functions of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node) is not None:
                lines -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            yield node.name, lines


def promised() -> dict[str, Any]:
    """Return dotted name -> object of all that users may rely on.

    Promised is what can be written `jaxsnn.NAME` or `jaxsnn.MODULE.NAME`, as the page says.
    """
    jaxsnn = importlib.import_module("jaxsnn")
    found = {f"jaxsnn.{name}": getattr(jaxsnn, name) for name in jaxsnn.__all__}
    for module, member in list(found.items()):
        if isinstance(member, ModuleType):
            found |= {f"{module}.{name}": getattr(member, name) for name in member.__all__}
    return found


def listed_names(path: Path) -> list[str]:
    """Return the names in a file's `__all__`, if it is written out."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets
        ):
            try:
                return list(ast.literal_eval(node.value))
            except ValueError:  # made of other lists, whose names are counted where they stand
                return []
    return []


def floors() -> ModuleType:
    """Return the module of the floors test: its table and its rules are the only copy."""
    path = ROOT / "tests" / "test_floors.py"
    spec = importlib.util.spec_from_file_location("test_floors", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _fails(function: object, *arguments: str) -> bool:
    """Return whether a test fails."""
    assert callable(function)
    try:
        function(*arguments)
    except (AssertionError, ValueError):  # graphlib's CycleError is a ValueError
        return True
    return False


def _table(head: list[str], body: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def house() -> str:
    """Return the table of the whole repository."""
    columns = {folder: files_of(folder) for folder in ("jaxsnn", "experiments", "tests")}
    body = [["files", *(str(len(paths)) for paths in columns.values())]]
    sizes = {name: sorted(map(lines_of, paths)) for name, paths in columns.items()}
    body.append(["lines", *(f"{sum(size):,}" for size in sizes.values())])
    body.append(["median file, lines", *(f"{statistics.median(x):.0f}" for x in sizes.values())])
    for name, share in {"90 % of the files have at most": 0.9, "longest file, lines": 1}.items():
        body.append([name, *(str(x[min(int(share * len(x)), len(x) - 1)]) for x in sizes.values())])
    over = f"files over {LONGEST_FILE} lines"
    body.append([over, *(str(sum(n > LONGEST_FILE for n in x)) for x in sizes.values())])
    found = {
        x: [n for path in paths for _, n in functions_of(path)] for x, paths in columns.items()
    }
    body.append(["functions", *(f"{len(x):,}" for x in found.values())])
    over = f"functions over {LONGEST_FUNCTION} lines"
    body.append([over, *(str(sum(n > LONGEST_FUNCTION for n in x)) for x in found.values())])
    return _table(["", *columns], body)


def library() -> str:
    """Return the table of promises of the library."""
    test = floors()
    modules = [name for name in test.FILES if name]
    broken = sum(_fails(test.test_a_file_imports_only_from_lower_floors, x) for x in modules)
    names = promised()
    modules_promised = sum(isinstance(member, ModuleType) for member in names.values())
    known = {name.rpartition(".")[2] for name in names}
    listed = {name for path in files_of("jaxsnn") for name in listed_names(path)}
    test_lines = sum(map(lines_of, files_of("tests")))
    lines = sum(map(lines_of, files_of("jaxsnn"))) + sum(map(lines_of, files_of("experiments")))
    body = [
        ["promised functions, classes and values", str(len(names) - modules_promised)],
        ["promised modules", str(modules_promised)],
        ["names that only our own files import from each other", str(len(listed - known))],
        ["circles of imports", str(int(_fails(test.test_no_circle_of_imports)))],
        ["files that break a floor", str(broken)],
        ["lines of tests for each line of source", f"{test_lines / lines:.2f}"],
    ]
    return _table(["the library", ""], body)


def methods() -> str:
    """Return what there is to read for each method: its page and its experiment."""
    body = []
    folder = ROOT / "jaxsnn" / "methods"
    names = [name for name in listed_names(folder / "__init__.py") if name.islower()]
    for page in [folder / f"{name}.py" for name in names]:
        experiment = files_of(f"experiments/{page.stem}")
        lines = [lines_of(page), sum(map(lines_of, experiment))]
        body.append(
            [page.stem, str(lines[0]), str(len(experiment)), str(lines[1]), str(sum(lines))]
        )
    head = [
        "method",
        "lines of its page",
        "files of its experiment",
        "their lines",
        "lines to read",
    ]
    return _table(head, body)


TABLES = {"house": house, "library": library, "methods": methods}


def broken_limits() -> list[str]:
    """Return a line for each function or file that is longer than it may be."""
    found = []
    for path in files_of("jaxsnn") + files_of("experiments"):
        name = path.relative_to(ROOT)
        if lines_of(path) > LONGEST_FILE:
            found.append(f"{name}: {lines_of(path)} lines; at most {LONGEST_FILE}")
        for function, lines in functions_of(path):
            if lines > LONGEST_FUNCTION:
                found.append(f"{name}: {function} has {lines} lines; at most {LONGEST_FUNCTION}")
    return found


def main() -> int:
    """Rewrite the tables, or print which limits are broken."""
    parser = argparse.ArgumentParser(description="Measure the repository.")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; 1 if a limit is broken"
    )
    check = parser.parse_args().check
    old = PAGE.read_text(encoding="utf-8")
    missing = [
        f"{PAGE.name} has no table {x!r}" for x in TABLES if f"<!-- measured: {x} -->" not in old
    ]
    if check:
        faults = missing + broken_limits()
        print("\n".join(faults), file=sys.stderr)
        return 1 if faults else 0
    new = SECTION.sub(lambda x: f"{x[1]}\n{TABLES[x[2]]()}\n{x[4]}", old)
    if new != old:
        PAGE.write_text(new, encoding="utf-8")
        print(f"{PAGE.relative_to(ROOT)}: rewritten")
    return 0


if __name__ == "__main__":
    sys.exit(main())
