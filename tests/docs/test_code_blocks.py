"""Every Python block of the docs runs as written, the blocks of a page one after the other."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^(`{3,})(\w*)[^\n]*\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
KINDS = {"python", "sh", "text", "c"}
PAGES = sorted((ROOT / "docs").rglob("*.md"))

# Pages that train: the first tier of the tests leaves them out.
LONG = {
    "docs/scaling.md",
    "docs/tutorials/channels.md",
    "docs/tutorials/events.md",
    "docs/tutorials/export.md",
    "docs/tutorials/first-network.md",
    "docs/tutorials/quantize.md",
    "docs/tutorials/sweep.md",
    "docs/tutorials/your-own-model.md",
}


def name_of(path: Path) -> str:
    """Return the path of a page from the root of the repository."""
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> list[tuple[str, str, int]]:
    """Return (kind, content, number of its first line) of all fenced blocks of a page."""
    text = path.read_text(encoding="utf-8")
    return [
        (found[2], found[3], text.count("\n", 0, found.start(3))) for found in FENCED.finditer(text)
    ]


def pages_with_code() -> list:
    """Return the pages that have Python blocks, marked if they train."""
    found = []
    for path in PAGES:
        if any(kind == "python" for kind, _, _ in blocks(path)):
            marks = (
                [pytest.mark.run] if name_of(path) in LONG or "methods/" in name_of(path) else []
            )
            found.append(pytest.param(path, id=name_of(path), marks=marks))
    return found


@pytest.mark.long
@pytest.mark.parametrize("path", pages_with_code())
def test_the_python_blocks_of_a_page_run(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": path.stem}
    code = [(content, line) for kind, content, line in blocks(path) if kind == "python"]
    for content, line in code:
        # Blank lines in front: a traceback then has the page's own line numbers.
        exec(compile("\n" * line + content, str(path), "exec"), names)
    assert len(names) > len({"__name__", "__builtins__"}), "the blocks define nothing"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_block_has_a_known_kind(path):
    assert {kind for kind, _, _ in blocks(path)} <= KINDS


def test_the_long_pages_exist():
    assert LONG <= {name_of(path) for path in PAGES}
