"""The house stands on its floors: a file imports from lower ones; `import jaxsnn` is light.

The table is that of `docs/architecture.md`; `tools/architecture.py` reads it here.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# One line a floor, lowest first. A file imports only what stands on an earlier line. Files of one
# package may import each other, as long as there is no circle.
FLOORS = """
errors release
foreign memory
tree arrays files fields archive hdf5 origins timing
options draws alike
coding surrogate encode native
inputs neurons compress
data
layers
program
network
models losses
metrics.sizes metrics.operations metrics.columns
metrics.counts metrics.facts metrics.warnings metrics.report metrics.published
train
metrics
export
sweep
methods
compile report zoo
chips
cli
__main__
"""
LEVEL = {name: level for level, line in enumerate(FLOORS.split("\n")) for name in line.split()}

# What acts on any pytree, whatever made it: of the package only the foundation, and the machine's
# own instructions, which know arrays alone.
FOR_COMPRESS = {"errors", "tree", "arrays", "files", "options", "alike", "native", "compress"}

# Not in the list: rich, which Flax loads by itself.
HEAVY = ["matplotlib", "tensorflow", "tensorflow_datasets", "sklearn", "tyro", "torch", "orbax"]


def module_of(path: Path) -> str:
    """Return "compress.admm" for jaxsnn/compress/admm.py and "" for jaxsnn/__init__.py."""
    parts = path.relative_to(ROOT / "jaxsnn").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted((ROOT / "jaxsnn").rglob("*.py"))}


def floor_of(module: str) -> str:
    """Return the entry of the table that a module stands under: itself or its package."""
    entry = module
    while entry not in LEVEL:
        assert "." in entry, f"jaxsnn.{module} has no floor: add it to FLOORS in {__file__}"
        entry = entry.rpartition(".")[0]
    return entry


def absolute_imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything that a file imports, at any depth of its code."""
    package = path.parent.relative_to(ROOT).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def imported_modules(module: str) -> set[str]:
    """Return the modules of jaxsnn that a module of jaxsnn imports, itself left out."""
    found = set()
    for name in absolute_imports(FILES[module]):
        if name == "jaxsnn" or name.startswith("jaxsnn."):
            inner = name.removeprefix("jaxsnn").removeprefix(".")
            while inner and inner not in FILES:
                inner = inner.rpartition(".")[0]
            found.add(inner)
    return found - {module}


@pytest.mark.parametrize("module", [name for name in FILES if name])
def test_a_file_imports_only_from_lower_floors(module):
    own = floor_of(module)
    is_package = FILES[module].name == "__init__.py"
    for other in sorted(imported_modules(module)):
        if not other and module == "cli":  # which prints the version
            continue
        assert other, f"{FILES[module]} imports from jaxsnn/__init__.py: name the module instead"
        if is_package and other.startswith(module + "."):
            continue
        floor = floor_of(other)
        is_neighbour = other.partition(".")[0] == module.partition(".")[0]
        same_package = LEVEL[floor] == LEVEL[own] and is_neighbour
        assert LEVEL[floor] < LEVEL[own] or same_package, (
            f"{FILES[module]} stands on the floor of {own!r} and imports jaxsnn.{other} from above"
        )


def test_no_circle_of_imports():
    graph = {module: imported_modules(module) for module in FILES}
    order = list(TopologicalSorter(graph).static_order())
    assert set(order) == set(FILES)


def test_compress_stands_on_the_foundation_alone():
    for module in FILES:
        if module.partition(".")[0] == "compress":
            below = {other.partition(".")[0] for other in imported_modules(module)}
            assert below <= FOR_COMPRESS, f"{FILES[module]} imports {below - FOR_COMPRESS}"


def test_the_library_never_imports_experiments():
    for path in FILES.values():
        roots = {name.partition(".")[0] for name in absolute_imports(path)}
        assert "experiments" not in roots, f"{path} imports experiments"


def test_import_jaxsnn_loads_no_plotting_data_or_torch():
    code = f"import sys, jaxsnn; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.long
def test_a_submodule_loads_when_it_is_touched():
    code = "import jaxsnn; print(jaxsnn.train.fit.__name__, jaxsnn.Network.__name__, dir(jaxsnn))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("fit Network [")
    assert "'sweep'" in done.stdout
