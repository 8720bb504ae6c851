"""Write the numbers of the docs from the files in results/.

    python tools/tables.py            rewrite what is stale in README.md and docs/
    python tools/tables.py --check    change nothing; exit with 1 if anything is stale

A table stands between two comments. The first one says what is in it, a line for each column:

    <!-- table: admm-mnist#rows
    where: seed=0
    call: ce ann = sparse ANN, labels alone
    bold: compressed
    network: name
    accuracy: accuracy as %2
    smaller: rows[dense].file_bytes / file_bytes as x
    -->
    ...
    <!-- /table -->

The first line is a file of results/ and the path of its rows: a list of objects, or an object,
whose items become rows with the fields `name` and `value`. `where` keeps some rows (`ratio=*`:
those with a ratio), `call` gives a row another name, `bold` prints a row in bold. Rows of one name
(and one `part`) with several seeds are one line, each number the mean and the standard deviation
over the seeds, "98.31 ± 0.05 %"; a path that starts in the file is taken at the row's seed. With
`where: seed=0` they stay apart. A pivot table has, instead of columns,

    down: bits
    across: point.sparsity
    cell: accuracy as %2
    mean: yes

A single number in a sentence stands between `<!-- value: admm-mnist rows[dense].accuracy as %2 -->`
and `<!-- /value -->`.

A path is made of fields and of `[...]`, which takes the item of a list by its number, its name, or
its fields (`[name=dense&seed=1]`). A path that does not start in the row starts in the file. A
`?` in front leaves the cell empty where there is nothing. Two paths may be subtracted (` - `) or
divided (` / `). `error of accuracy` is the binomial error of an accuracy, for the row's `samples`.
Formats: `n` (whole), `n2` (2 decimals), `%1`, `points` (of 100, with a sign),
`gap` (the same without a sign), `x` (times), `kB`, `MB`, `k`, `M`, `T`, `nJ` (of pJ), `min` and
`ms` (of seconds).
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from experiments.reproduce.measured import binomial  # noqa: E402

RESULTS = ROOT / "results"
TABLE = re.compile(r"(<!-- table: (.*?)-->\n)(.*?)(<!-- /table -->)", re.DOTALL)
ERROR = "error of "
VALUE = re.compile(r"(<!-- value: (\S+) (.*?) -->)(.*?)(<!-- /value -->)", re.DOTALL)


class Stale(Exception):
    """A marker that cannot be filled: its file, its field or its format does not exist."""


# Formats ---------------------------------------------------------------------------------------


def _significant(value: float, digits: int = 3) -> str:
    """Return a number with some significant digits, never in powers of ten."""
    if value == 0:
        return "0"
    decimals = digits - len(str(int(abs(value)))) if abs(value) >= 1 else digits
    text = f"{value:,.{max(decimals, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _unit(factor: float, unit: str) -> Callable[[float, str], str]:
    return lambda value, decimals: f"{value / factor:,.{int(decimals or 1)}f} {unit}"


FORMATS: Mapping[str, Callable[[float, str], str]] = {
    "n": lambda value, decimals: f"{value:,.{int(decimals or 0)}f}",
    "%": lambda value, decimals: f"{100 * value:.{int(decimals or 0)}f} %",
    "points": lambda value, decimals: f"{100 * value:+.{int(decimals or 1)}f}",
    "gap": lambda value, decimals: f"{abs(100 * value):.{int(decimals or 1)}f}",
    "x": lambda value, decimals: f"{_significant(value, int(decimals or 3))}x",
    "k": lambda value, decimals: f"{value / 1e3:,.{int(decimals or 0)}f}k",
    "M": lambda value, decimals: f"{value / 1e6:,.{int(decimals or 2)}f}M",
    "kB": _unit(1e3, "kB"),
    "MB": _unit(1e6, "MB"),
    "nJ": lambda value, decimals: f"{value / 1e3:,.{int(decimals or 0)}f} nJ",
    "T": lambda value, decimals: f"{value / 1e12:,.{int(decimals or 0)}f}",
    "ms": lambda value, decimals: f"{value * 1e3:,.{int(decimals or 0)}f}",
    "min": lambda value, decimals: f"{value / 60:,.{int(decimals or 0)}f}",
}


def _print(value: Any, form: str) -> str:
    """Return a value as the text of a cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not form:
        return _significant(value, 4) if isinstance(value, float) else str(value)
    found = re.fullmatch(r"([^\d]+)(\d*)", form)
    if not found or found[1] not in FORMATS:
        raise Stale(f"format {form!r} is unknown; there are {', '.join(FORMATS)}")
    return FORMATS[found[1]](float(value), found[2])


# Paths -----------------------------------------------------------------------------------------


def _matches(item: Any, wanted: str) -> bool:
    """Return whether a row has some fields: "name=dense&seed=1", or its name alone."""
    if not isinstance(item, dict):
        return False
    if "=" not in wanted:
        return wanted == str(item.get("name"))
    for pair in wanted.split("&"):
        key, value = pair.split("=", 1)
        found = _look_up(item, item, f"?{key}")
        if found is None or value not in ("*", str(found)):
            return False
    return True


def _follow(start: Any, path: str, whole: str) -> Any:
    """Return what a path leads to."""
    here = start
    for name, item in re.findall(r"([^.\[\]]+)|\[([^\]]*)\]", path):
        if name:
            if not isinstance(here, dict) or name not in here:
                raise Stale(f"there is no {name!r} on the path {whole!r}")
            here = here[name]
        elif isinstance(here, dict):
            if item not in here:
                raise Stale(f"there is no {item!r} on the path {whole!r}")
            here = here[item]
        elif re.fullmatch(r"-?\d+", item):
            here = here[int(item)]
        else:
            found = [each for each in here if _matches(each, item)]
            if not found:
                raise Stale(f"no row is {item!r} on the path {whole!r}")
            here = found[0]
    return here


def _look_up(row: Any, root: Any, path: str) -> Any:
    """Return what a path leads to, from the row or else from the file."""
    optional, path = path.startswith("?"), path.removeprefix("?")
    try:
        if path.startswith(ERROR):
            return _error(row, root, path.removeprefix(ERROR))
        head = re.match(r"[^.\[]*", path)
        start = row if isinstance(row, dict) and head and head[0] in row else root
        return _follow(start, path, path)
    except Stale:
        if optional:
            return None
        raise


def _error(row: Any, root: Any, path: str) -> float:
    """Return the binomial error of an accuracy."""
    held_out = path.rpartition(".")[2].startswith("held_out")
    samples = _look_up(row, root, "held_out_samples" if held_out else "samples")
    return binomial(_look_up(row, root, path), samples)


def _compute(row: Any, root: Any, paths: str) -> Any:
    """Return the value of "PATH", "A - B" or "A / B"; None if one is left out."""
    parts = re.split(r" ([-/]) ", paths)
    values = [_look_up(row, root, part.strip()) for part in parts[::2]]
    if None in values or len(values) == 1:
        return None if None in values else values[0]
    first, second = values
    return first - second if parts[1] == "-" else first / second


def _evaluate(row: Any, root: Any, expression: str) -> str:
    """Return the text of "PATHS as FORMAT"."""
    paths, _, form = expression.partition(" as ")
    return _print(_compute(row, root, paths.strip()), form.strip())


# Several seeds ---------------------------------------------------------------------------------


def _with_spread(values: list[Any], form: str, *, alone: bool = False) -> str:
    """Return the mean of some values and their standard deviation; of texts, each once."""
    values = [value for value in values if value is not None]
    texts = list(dict.fromkeys(_print(value, form) for value in values))
    if len(texts) < 2 or not all(isinstance(value, int | float) for value in values):
        return ", ".join(texts)
    middle = _print(mean(map(float, values)), form)
    if alone:
        return middle
    found = re.fullmatch(r"([-+\d,.]+)(.*)", middle)
    spread = re.match(r"[\d,.]+", _print(stdev(map(float, values)), form).lstrip("+-"))
    return f"{found[1]} ± {spread[0]}{found[2]}" if found and spread else middle


def _seed_of(row: Any) -> Any:
    return row.get("seed") if isinstance(row, dict) else None


def _at_seed(root: Any, seed: Any) -> Any:
    """Return a file with the rows of one seed alone."""
    return {**root, "rows": [row for row in root.get("rows", ()) if _seed_of(row) == seed]}


def _over_seeds(lines: list[Any], root: Any, expression: str) -> str:
    """Return the text of an expression for the rows of several seeds."""
    if len(lines) == 1:
        return _evaluate(lines[0], root, expression)
    paths, _, form = expression.partition(" as ")
    values = [_compute(row, _at_seed(root, _seed_of(row)), paths.strip()) for row in lines]
    return _with_spread(values, form.strip(), alone=ERROR in paths)


def _in_file(root: Any, expression: str) -> str:
    """Return the text of an expression about a whole file, over all of its seeds."""
    rows = root.get("rows") if isinstance(root, dict) else None
    seeds = list(dict.fromkeys(map(_seed_of, rows))) if isinstance(rows, list) else []
    if len(seeds) < 2:
        return _evaluate(root, root, expression)
    paths, _, form = expression.partition(" as ")
    values, faults = [], []
    for seed in seeds:
        try:
            values.append(_compute(here := _at_seed(root, seed), here, paths.strip()))
        except Stale as fault:  # a row that the others have not, such as one of a named seed
            faults.append(fault)
    if not values:
        raise faults[0]
    return _with_spread(values, form.strip(), alone=ERROR in paths)


# Tables ----------------------------------------------------------------------------------------


@dataclass
class Marker:
    """What a marker asks for."""

    file: str
    path: str
    columns: list[tuple[str, str]] = field(default_factory=list)
    where: str = ""
    bold: str = ""
    names: dict[str, str] = field(default_factory=dict)
    pivot: dict[str, str] = field(default_factory=dict)


def _parse(text: str) -> Marker:
    first, *lines = [line.strip() for line in text.strip().splitlines()]
    file, _, path = first.partition("#")
    marker = Marker(file.strip(), path.strip())
    for line in filter(None, lines):
        key, colon, value = (part.strip() for part in line.partition(": "))
        if not colon:
            raise Stale(f"line {line!r} of a marker has no ': '")
        if key == "where":
            marker.where = value
        elif key == "bold":
            marker.bold = value
        elif key == "call":
            old, _, new = value.partition(" = ")
            marker.names[old] = new
        elif key in ("down", "across", "cell", "mean"):
            marker.pivot[key] = value
        else:
            marker.columns.append((key, value))
    return marker


def load(file: str) -> Any:
    """Return the content of results/FILE.json."""
    path = RESULTS / f"{file}.json"
    if not path.exists():
        raise Stale(f"results/{file}.json does not exist")
    return json.loads(path.read_text(encoding="utf-8"))


def _lines(head: list[str], body: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *body]
    return "".join(f"| {' | '.join(row)} |\n".replace("|  ", "| ") for row in rows)


def _pivot(rows: list[Any], root: Any, marker: Marker) -> str:
    """Return a table with a row for each value of one field and a column for each of another."""
    down, across = marker.pivot["down"], marker.pivot["across"]
    tops = list(dict.fromkeys(_evaluate(row, root, across) for row in rows))
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        found.setdefault(_evaluate(row, root, down), {})[_evaluate(row, root, across)] = row
    cells = [cell.strip() for cell in marker.pivot["cell"].split(";")]
    mean = marker.pivot.get("mean") == "yes"

    def show(row: Any) -> str:
        return "" if row is None else ", ".join(_evaluate(row, root, cell) for cell in cells)

    label = across.rpartition(".")[2]
    body = []
    for name, line in found.items():
        texts = [marker.names.get(name, name), *(show(line.get(top)) for top in tops)]
        if mean:
            path, _, form = cells[0].partition(" as ")
            values = [_compute(row, root, path.strip()) for row in line.values()]
            texts.append(_with_spread(values, form.strip()))
        body.append([f"**{x}**" for x in texts] if name == marker.bold else texts)
    head = [down.rpartition(".")[2], *(f"{label} {top}" for top in tops), *(["mean"] * mean)]
    return _lines(head, body)


def _grouped(rows: list[Any], marker: Marker) -> list[list[Any]]:
    """Return the rows of each line of a table: those of one network, a seed each."""
    apart = "seed" in marker.where or any(path == "seed" for _, path in marker.columns)
    groups: dict[Any, list[Any]] = {}
    for number, row in enumerate(rows):
        known = isinstance(row, dict) and {"name", "seed"} <= row.keys() and not apart
        key = (row["name"], row.get("part")) if known else number
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def table(text: str) -> str:
    """Return the Markdown table that a marker asks for."""
    marker = _parse(text)
    root = load(marker.file)
    rows = _follow(root, marker.path, marker.path)
    if isinstance(rows, dict):
        rows = [{"name": name, "value": value} for name, value in rows.items()]
    rows = [row for row in rows if not marker.where or _matches(row, marker.where)]
    if not rows:
        raise Stale(f"no row of results/{marker.file}.json has {marker.where}")
    if marker.pivot:
        return _pivot(rows, root, marker)
    body = []
    for lines in _grouped(rows, marker):
        texts = [_over_seeds(lines, root, expression) for _, expression in marker.columns]
        texts = [marker.names.get(text, text) for text in texts]
        bold = marker.bold and _matches(lines[0], marker.bold)
        body.append([f"**{x}**" if x else x for x in texts] if bold else texts)
    return _lines([name for name, _ in marker.columns], body)


def rewrite(page: str) -> str:
    """Return a page with all of its tables and values made anew."""
    if re.search(r"^\s*<!-- value: ", page, re.MULTILINE):
        raise Stale(
            "a value at the start of a line would end its paragraph; join it to the line above"
        )

    def one_table(found: re.Match[str]) -> str:
        return f"{found[1]}\n{table(found[2])}\n{found[4]}"

    def one_value(found: re.Match[str]) -> str:
        return f"{found[1]}{_in_file(load(found[2]), found[3])}{found[5]}"

    return VALUE.sub(one_value, TABLE.sub(one_table, page))


def main() -> int:
    """Rewrite the pages, or print which are stale."""
    parser = argparse.ArgumentParser(description="Write the numbers of the docs from results/.")
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if a page is stale")
    check = parser.parse_args().check
    stale = 0
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        name, old = path.relative_to(ROOT), path.read_text(encoding="utf-8")
        try:
            new = rewrite(old)
        except Stale as fault:
            print(f"{name}: {fault}", file=sys.stderr)
            stale += 1
            continue
        if new != old and check:
            print(f"{name}: a table is stale; run python tools/tables.py", file=sys.stderr)
            stale += 1
        elif new != old:
            path.write_text(new, encoding="utf-8")
            print(f"{name}: rewritten")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
