"""Every page is reached from the menu, and every method and package has its page."""

import pkgutil
import re
from pathlib import Path

import jaxsnn
from jaxsnn import methods

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MENU = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]


def test_every_page_is_in_the_menu():
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert set(re.findall(r"[\w/-]+\.md", MENU)) == pages


def test_every_method_has_a_page_that_the_overview_links():
    names = {name for name in methods.__all__ if name.islower()}
    pages = {path.stem for path in (DOCS / "methods").glob("*.md")} - {"index"}
    assert pages == names
    overview = (DOCS / "methods" / "index.md").read_text(encoding="utf-8")
    assert {name for name in names if f"]({name}.md)" not in overview} == set()


def test_the_reference_has_every_promised_module():
    shown = set()
    for path in (DOCS / "reference").glob("*.md"):
        shown |= set(re.findall(r"^::: jaxsnn\.(\S+)", path.read_text(encoding="utf-8"), re.M))
    promised = {
        each.name
        for each in pkgutil.iter_modules(jaxsnn.__path__)
        if each.name in jaxsnn.__all__ and each.name != "methods"
    }
    pages = {f"methods.{path.stem}" for path in (DOCS / "methods").glob("*.md")}
    assert promised | pages - {"methods.index"} <= shown
