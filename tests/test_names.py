"""What the package promises: every module says which names, and one name means one thing."""

import importlib
import inspect
import pkgutil
from collections import defaultdict

import pytest

import jaxsnn

MODULES = [
    importlib.import_module(info.name)
    for info in pkgutil.walk_packages(jaxsnn.__path__, prefix="jaxsnn.")
    if not info.name.endswith("__main__")
]

# A page of a method is used under its name, `admm.prune`: its words are those of its paper.
PAGES = {module.__name__ for module in MODULES if hasattr(module, "Options")}

# A set is loaded from its name, a network from its file: `data.load`, `export.load`.
TWICE = {"load"}


def is_from(module, member):
    """Return whether a member of a module was defined there; of plain values nobody knows."""
    return getattr(member, "__module__", module.__name__) == module.__name__


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_module_says_what_it_promises(module):
    assert hasattr(module, "__all__"), f"{module.__file__} has no __all__"
    names = list(module.__all__)
    assert len(set(names)) == len(names), f"a name is in {module.__name__}.__all__ twice"
    missing = [name for name in names if not hasattr(module, name)]
    assert not missing, f"{module.__name__} promises what it does not have: {missing}"
    assert not [name for name in names if name.startswith("_")]


def test_one_name_is_one_thing():
    places = defaultdict(set)
    for module in MODULES:
        if not hasattr(module, "__path__") and module.__name__ not in PAGES:
            for name in module.__all__:
                if is_from(module, getattr(module, name)):
                    places[name].add(module.__name__)
    shared = {name: where for name, where in places.items() if len(where) > 1}
    assert shared.keys() <= TWICE, f"one name for several things: {shared}"


def test_no_function_is_named_as_its_module():
    for module in MODULES:
        last = module.__name__.rpartition(".")[2]
        member = getattr(module, last, None)
        assert not (inspect.isfunction(member) and is_from(module, member)), module.__name__
