"""Every Python block of the docs runs as written, and prints what the page shows behind it.

The blocks of a page run one after the other. A block of text right behind one is what it prints, to
the letter, or with a title (```text title="printed on ...") but for numbers, which other machines
round otherwise. A line of three dots stands for lines that are left out.
"""

import contextlib
import io
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FENCED = re.compile(r"^(`{3,})(\w*)([^\n]*)\n(.*?)^\1\s*$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"[-+÷×]?\d[\d.,]*(?:e[-+]?\d+)?[kMG]?\b|–")
KINDS = {"python", "sh", "text", "c"}
PAGES = sorted((ROOT / "docs").rglob("*.md"))


class Block(NamedTuple):
    """A fenced block of a page."""

    kind: str
    content: str
    line: int  # number of the line in front of the first one
    title: str  # what stands behind the kind
    printed: "Block | None"  # the block of text right behind it, if there is one


def name_of(path: Path) -> str:
    """Return the path of a page from the root of the repository."""
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> list[Block]:
    """Return all fenced blocks of a page."""
    text = path.read_text(encoding="utf-8")
    made: list[Block] = []
    following, start = None, len(text)
    for found in reversed(list(FENCED.finditer(text))):
        kind, title, content = found[2], found[3].strip(), found[4]
        printed = None if text[found.end() : start].strip() else following
        if printed is not None and printed.kind != "text":
            printed = None
        following = Block(kind, content, text.count("\n", 0, found.start(4)), title, printed)
        start = found.start()
        made.insert(0, following)
    return made


def has_code(path: Path) -> bool:
    """Tell whether a page has Python blocks."""
    return any(block.kind == "python" for block in blocks(path))


def check_printed(block: Block, out: str, where: str) -> None:
    """Compare what a block printed with the text that the page shows behind it."""
    shown = block.printed
    assert shown is not None
    parts = [masked(part) if shown.title else tidy(part) for part in elided(shown.content)]
    found = masked(out) if shown.title else tidy(out)
    pattern = ".*".join(re.escape(part) for part in parts)
    assert re.fullmatch(pattern, found, re.DOTALL), f"{where} printed:\n{out}"


def elided(text: str) -> list[str]:
    """Return the parts of a text between its lines of three dots.

    >>> elided("a\\n...\\nb\\n")
    ['a\\n', 'b\\n']
    """
    return re.split(r"^\.\.\.\n", text, flags=re.MULTILINE)


def tidy(text: str) -> str:
    """Return a text without what cannot be seen in it: blanks at the ends of lines."""
    return "".join(line.rstrip() + "\n" for line in text.strip("\n").splitlines())


def masked(text: str) -> str:
    """Return a text in which numbers, how many are in a row and how many such rows do not matter.

    >>> masked("dense  98.33 100  ÷8\\n") == masked("dense 9.1 – ×1.3k\\ndense 1\\n")
    True
    """
    lines = [" ".join(_once(NUMBER.sub("#", line).split(), "#")) for line in text.splitlines()]
    return "\n".join(_once(lines))


def _once(words: list[str], only: str | None = None) -> list[str]:
    """Return words of which equal ones, or those equal to one, do not follow each other."""
    pairs = zip(["", *words], words, strict=False)
    return [word for before, word in pairs if word and (before != word or only not in (None, word))]


# Pages that train for long.
LONG = {
    "channels.md", "events.md", "fast.md", "library.md", "quantize.md", "spikformer.md", "sweep.md",
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
    for block in blocks(path):
        if block.kind != "python":
            continue
        # Blank lines in front: a traceback then has the page's own line numbers.
        code = compile("\n" * block.line + block.content, str(path), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, names)
        if block.printed is not None:
            check_printed(block, out.getvalue(), f"{path.name}:{block.line}")
    assert len(names) > len({"__name__", "__builtins__"}), "the blocks define nothing"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_block_has_a_known_kind(path):
    assert {block.kind for block in blocks(path)} <= KINDS


def test_a_text_behind_a_block_is_what_it_prints_and_one_elsewhere_is_not(tmp_path):
    path = tmp_path / "page.md"
    fence = "`" * 3
    path.write_text(
        f"{fence}python\nprint(1)\n{fence}\n\n{fence}text\n1\n{fence}\nwords\n"
        f'{fence}python\nprint("a 2")\n{fence}\n{fence}text title="here"\na 3\n{fence}\n'
        f"{fence}python\nx = 1\n{fence}\nmore words\n{fence}text\na list\n{fence}\n"
    )
    code = [block for block in blocks(path) if block.kind == "python"]
    assert [block.printed and block.printed.content for block in code] == ["1\n", "a 3\n", None]
    check_printed(code[0], "1\n", "page")
    check_printed(code[1], "a 2.5k\n", "page")
    for block, out in ((code[0], "2\n"), (code[1], "b 3\n")):
        with pytest.raises(AssertionError, match="printed"):
            check_printed(block, out, "page")


def test_three_dots_stand_for_lines_that_are_left_out():
    block = Block("python", "", 0, "", Block("text", "first\n...\nlast\n", 0, "", None))
    check_printed(block, "first\n1\n2\nlast\n", "page")
    check_printed(block, "first\nlast\n", "page")
    with pytest.raises(AssertionError, match="printed"):
        check_printed(block, "first\n1\n", "page")
