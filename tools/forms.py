"""Write down what each leaf of packed networks takes in each form: results/forms.json.

    python tools/forms.py quickstart=runs/digits/models/compressed.safetensors ...

puts the rows of each named network into the file, in the place of those it had; the others stay.
`tools/tables.py` writes the tables of `docs/packing.md` from it.
"""

import json
import sys
from pathlib import Path
from typing import Any

from jaxsnn.cli import facts
from jaxsnn.cli.tables import FORMS
from jaxsnn.metrics.columns import number

OUT = Path(__file__).resolve().parents[1] / "results" / "forms.json"


def rows_of(name: str, path: Path) -> list[dict[str, Any]]:
    """Return a row for each leaf of a packed file, its other bytes, and all of them.

    The fields are the columns of `jaxsnn inspect FILE --forms`, bytes of the smallest form of each
    kind, None where there is none; those of the file's other bytes and of all are `bytes` alone.
    """
    found: list[dict[str, Any]] = []
    for row in facts.forms_of(path):
        line = {"product": name, "leaf": f"`{row['name']}`", "shape": number("shape", row["shape"])}
        line |= {"density": row["density"], "bytes": row["bytes"], "least": round(row["least"], 1)}
        for column, start in FORMS.items():
            sizes = [size for form, size in row["forms"].items() if form.startswith(start)]
            line[column] = min(sizes, default=None)
        found.append(line | {"form": row["form"]})
    about, _ = facts.of_file(path)
    rest = about["file_bytes"] - sum(row["bytes"] for row in found)
    last = {"all else": rest, "the file": about["file_bytes"]}
    return found + [{"product": name, "leaf": x, "bytes": size} for x, size in last.items()]


def main(words: list[str]) -> None:
    """Add networks to the file."""
    before = json.loads(OUT.read_text(encoding="utf-8"))["rows"] if OUT.exists() else []
    named = dict(word.split("=", 1) for word in words)
    rows = [row for row in before if row["product"] not in named]
    for name, path in named.items():
        rows += rows_of(name, Path(path))
    rows.sort(key=lambda row: row["product"])  # a stable order: that of the leaves stays
    OUT.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
