"""Write the tables of docs/evidence.md: what is run, for how long, and which claims it bears out.

python tools/evidence.py            rewrite what is stale
python tools/evidence.py --check    change nothing; exit with 1 if it is stale
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from experiments.reproduce.claims import CLAIMS, judge  # noqa: E402
from experiments.reproduce.measured import is_of_today  # noqa: E402
from experiments.reproduce.rows import ROWS  # noqa: E402

PAGE, RESULTS = ROOT / "docs" / "evidence.md", ROOT / "results"
SECTION = re.compile(r"(<!-- written: (\w+) -->\n)(.*?)(<!-- /written -->)", re.DOTALL)


def _cores(number: int) -> str:
    return "1 core" if number == 1 else f"{number} cores"


def read(name: str) -> dict[str, Any] | None:
    """Return a file of results/, None if there is none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def plan() -> Iterator[tuple[str, ...]]:
    """Yield the cells of the plan: each row, its minutes, and what is stored of it."""
    yield "row", "what it shows", "data", "seeds", "minutes", "stored", "by", "commit"
    hours = 0.0
    for name, row in ROWS.items():
        content = read(name)
        is_there = is_of_today(content)
        minutes = content["seconds"] / 60 if content and is_there else row.minutes * len(row.seeds)
        hours += minutes / 60
        seeds = ", ".join(map(str, content["seeds"] if content and is_there else row.seeds))
        if content and is_there:
            machine, commit = content["machine"], content["commit"].split(",")[-1].strip()
            by = machine.get("gpu") or f"{machine['processor']}, {_cores(machine['cores'])}"
            stored = content["stored"], by
            yield f"`{name}`", row.shows, row.dataset, seeds, f"{minutes:.0f}", *stored, commit[:7]
        else:
            before = "by an older engine" if content else "not run yet"
            yield f"`{name}`", row.shows, row.dataset, seeds, f"about {minutes:.0f}", before, "", ""
    yield "all", "", "", "", f"{hours:.1f} hours", "", "", ""


def claims() -> Iterator[tuple[str, ...]]:
    """Yield the cells of the claims: each with its verdict, its numbers and its file."""
    yield "claim", "from", "verdict", "measured", "file"
    for claim in CLAIMS:
        content = read(claim.file)
        verdict, said = judge(claim, content)
        if said and content is not None and len(content["seeds"]) == 1:
            said += ", one seed"
        reason = f" ({claim.why})" if claim.why else ""
        yield claim.text, claim.source, f"**{verdict}**{reason}", said, f"`{claim.file}`"


def rewrite(page: str) -> str:
    """Return the page with its tables made anew."""

    def one(found: re.Match[str]) -> str:
        head, *body = {"plan": plan, "claims": claims}[found[2]]()
        lines = [head, ["---"] * len(head), *body]
        table = "".join(f"| {' | '.join(line)} |\n".replace("|  ", "| ") for line in lines)
        return f"{found[1]}\n{table}\n{found[4]}"

    return SECTION.sub(one, page)


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite the page, or say that it is stale."""
    parser = argparse.ArgumentParser(description="Write the tables of docs/evidence.md.")
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if it is stale")
    check = parser.parse_args(argv).check
    old = PAGE.read_text(encoding="utf-8")
    if (new := rewrite(old)) == old:
        return 0
    if check:
        print("docs/evidence.md is stale; run python tools/evidence.py", file=sys.stderr)
        return 1
    PAGE.write_text(new, encoding="utf-8")
    print("docs/evidence.md: rewritten")
    return 0


if __name__ == "__main__":
    sys.exit(main())
