"""List the experiments: `python -m experiments`."""

import ast
import pkgutil
from pathlib import Path

import experiments

HIDDEN = {"__main__", "common"}


def listed() -> dict[str, str]:
    """Return name -> first line of the docstring of each experiment; nothing is imported."""
    found = {}
    for each in pkgutil.iter_modules(experiments.__path__):
        if each.name not in HIDDEN:
            folder = Path(experiments.__path__[0])
            path = folder / each.name / "__init__.py" if each.ispkg else folder / f"{each.name}.py"
            about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[each.name] = about.partition("\n")[0]
    return found


def main() -> None:
    """Print a line for each experiment."""
    names = listed()
    width = max(map(len, names))
    for name, about in names.items():
        print(f"python -m experiments.{name:<{width}}  {about}")
    print("\nOptions of each: --help. The first to try is experiments.quickstart.")


if __name__ == "__main__":
    main()
