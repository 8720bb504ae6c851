"""What the package promises: few names, each listed by its module, and each one thing."""

import importlib
import inspect
import pkgutil
from collections import defaultdict

import pytest

import jaxsnn
from tools.architecture import promised

MODULES = [
    importlib.import_module(info.name)
    for info in pkgutil.walk_packages(jaxsnn.__path__, prefix="jaxsnn.")
    if not info.name.endswith("__main__")
]

# A page of a method is used under its name, `admm.prune`: its words are those of its paper.
PAGES = {module.__name__ for module in MODULES if hasattr(module, "Options")}

PROMISED = promised()
MOST_PROMISED = 175  # modules aside; a promise is a burden: demote a name before raising this

# A set is loaded from its name, a network from its file; a network is built from its layout, a
# library of machine code from its source: `data.load`, `export.load`, `models.build`. A sweep
# searches points; scales and groups of weights are searched below: `sweep.search`. There are sets
# and networks of a name: `data.names`, `zoo.names`.
TWICE = {"build", "load", "names", "search"}


def is_from(module, member):
    """Return whether a member of a module was defined there; of plain values nobody knows."""
    return getattr(member, "__module__", module.__name__) == module.__name__


def test_few_names_are_promised():
    names = sorted(name for name, member in PROMISED.items() if not inspect.ismodule(member))
    assert len(names) <= MOST_PROMISED, names


def test_a_page_promises_its_options_and_the_whole_method():
    pages = {x for name, x in PROMISED.items() if name.startswith("jaxsnn.methods.")}
    pages = {page for page in pages if inspect.ismodule(page)}
    assert {page.__name__ for page in pages} <= PAGES
    assert all({"Options", "compress"} <= set(page.__all__) for page in pages)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_module_lists_what_others_may_import(module):
    assert hasattr(module, "__all__"), f"{module.__file__} has no __all__"
    names = list(module.__all__)
    assert len(set(names)) == len(names), f"a name is in {module.__name__}.__all__ twice"
    missing = [name for name in names if not hasattr(module, name)]
    assert not missing, f"{module.__name__} lists what it does not have: {missing}"
    assert not [name for name in names if name.startswith("_")]


def test_one_name_is_one_thing():
    """Check promised names, and classes: other functions are called `module.function`."""
    places, unique = defaultdict(set), {name.rpartition(".")[2] for name in PROMISED}
    for module in MODULES:
        if not hasattr(module, "__path__") and module.__name__ not in PAGES:
            for name in module.__all__:
                member = getattr(module, name)
                if is_from(module, member):
                    places[name].add(module.__name__)
                    unique |= {name} if inspect.isclass(member) else set()
    shared = {name: places[name] for name in unique if len(places[name]) > 1}
    assert shared.keys() <= TWICE, f"one name for several things: {shared}"


def test_no_function_is_named_as_its_module():
    for module in MODULES:
        last = module.__name__.rpartition(".")[2]
        member = getattr(module, last, None)
        assert not (inspect.isfunction(member) and is_from(module, member)), module.__name__
