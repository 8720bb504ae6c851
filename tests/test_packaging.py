"""The files that describe the distribution agree with each other and with what is installed."""

import configparser
import importlib.metadata
import re
from pathlib import Path

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


def test_requirements_txt_is_the_run_time_list_of_setup_cfg():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert requirements(text) == requirements(read_setup()["options"]["install_requires"])


def test_test_extra_holds_the_tfds_extra():
    extras = read_setup()["options.extras_require"]
    assert set(requirements(extras["tfds"])) <= set(requirements(extras["test"]))


def test_python_versions_agree_between_setup_and_ruff():
    lowest = re.search(r">=3\.(\d+)", read_setup()["options"]["python_requires"]).group(1)
    assert f'target-version = "py3{lowest}"' in (ROOT / "pyproject.toml").read_text("utf-8")
