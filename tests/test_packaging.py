"""The files that describe the distribution agree with each other and with what is installed."""

import configparser
import importlib.metadata
import re
from pathlib import Path

import setuptools

import jaxsnn

ROOT = Path(__file__).parents[1]


def read_setup():
    """Return setup.cfg as a parsed configuration."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    return setup


def requirements(text):
    """Return the requirements in a block of text, without blank lines and comments."""
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def test_the_version_is_one():
    version = read_setup()["metadata"]["version"]
    assert jaxsnn.__version__ == version == importlib.metadata.version("jaxsnn-compress")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (\S+)", changes, re.MULTILINE)
    assert next(each for each in headings if each != "Unreleased") == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_requirements_txt_is_the_run_time_list_of_setup_cfg():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert requirements(text) == requirements(read_setup()["options"]["install_requires"])


def test_the_wheel_installs_jaxsnn_and_nothing_else():
    patterns = read_setup()["options.packages.find"]["include"].split()
    found = setuptools.find_packages(str(ROOT), include=patterns)
    assert "jaxsnn.compress" in found
    assert {name.partition(".")[0] for name in found} == {"jaxsnn"}


def test_every_folder_of_the_library_is_a_package():
    folders = {path.parent for path in (ROOT / "jaxsnn").rglob("*.py")}
    assert [str(x) for x in sorted(folders) if not (x / "__init__.py").exists()] == []


def test_python_versions_agree_between_setup_and_ruff():
    lowest = re.search(r">=3\.(\d+)", read_setup()["options"]["python_requires"]).group(1)
    assert f'target-version = "py3{lowest}"' in (ROOT / "pyproject.toml").read_text("utf-8")
