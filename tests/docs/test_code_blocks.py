"""Every Python block of the docs runs as written, the blocks of a page one after the other."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^(`{3,})(\w*)[^\n]*\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
KINDS = {"python", "sh", "text", "c"}
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def name_of(path: Path) -> str:
    """Return the path of a page from the root of the repository."""
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> list[tuple[str, str, int]]:
    """Return (kind, content, number of its first line) of all fenced blocks of a page."""
    text = path.read_text(encoding="utf-8")
    return [
        (found[2], found[3], text.count("\n", 0, found.start(3))) for found in FENCED.finditer(text)
    ]


def has_code(path: Path) -> bool:
    """Tell whether a page has Python blocks."""
    return any(kind == "python" for kind, _, _ in blocks(path))


# Pages that train for long.
LONG = {
    "fast.md", "spikformer.md", "quantize.md", "first-network.md", "sweep.md", "events.md", "channels.md",
}  # fmt: skip


@pytest.mark.run  # most pages train
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.thorough] if path.name in LONG else [])
        for path in PAGES
        if has_code(path)
    ],
    ids=name_of,
)
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
