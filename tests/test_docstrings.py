"""Every public name says what it does, and the examples in docstrings are true."""

import doctest
import importlib
import inspect
import pkgutil

import pytest

import jaxsnn
from tools.architecture import promised

MODULES = ["jaxsnn"] + sorted(
    info.name for info in pkgutil.walk_packages(jaxsnn.__path__, prefix="jaxsnn.")
)


# What a function returns is shown by the function's own example.
RETURNED = {"Counts", "Evaluation", "Membrane", "Result", "Swept", "Trained"}


def public_members(module):
    """Yield (dotted name, object) of the functions and classes defined in a module."""
    for name, member in vars(module).items():
        defined_here = getattr(member, "__module__", None) == module.__name__
        if name.startswith("_") or not defined_here:
            continue
        if inspect.isclass(member):
            yield f"{module.__name__}.{name}", member
            for method, function in vars(member).items():
                if inspect.isfunction(function) and not method.startswith("_"):
                    in_source = function.__code__.co_filename == module.__file__
                    if in_source and not overrides(member, method):
                        yield f"{module.__name__}.{name}.{method}", function
        elif inspect.isfunction(inspect.unwrap(member)) or callable(member):
            yield f"{module.__name__}.{name}", member


def overrides(cls, method):
    """Tell whether a base class has the method too, and so documents it."""
    return any(hasattr(base, method) for base in cls.__bases__)


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_has_a_docstring(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    bare = [dotted for dotted, member in public_members(module) if not first_line(member)]
    assert not bare, f"without a docstring: {bare}"


def first_line(member):
    """Return the first line of an object's own docstring, or an empty string."""
    if inspect.isclass(member):
        # A dataclass or named tuple without one is given its signature by Python.
        text = member.__dict__.get("__doc__") or ""
        return "" if text.startswith(f"{member.__name__}(") else text.partition("\n")[0]
    return (getattr(member, "__doc__", None) or "").partition("\n")[0]


def makers():
    """Yield (dotted name, object) of what users call: promised, or a function of `compress.*`."""
    for dotted, member in promised().items():
        yield dotted, member
        if inspect.ismodule(member) and dotted.startswith("jaxsnn.compress."):
            for name in member.__all__:
                if inspect.isfunction(getattr(member, name)):
                    yield f"{dotted}.{name}", getattr(member, name)


def has_example(member):
    """Return whether the docstring of a function, or of a class or its methods, has an example."""
    parts = [member, *vars(member).values()] if inspect.isclass(member) else [member]
    return any(">>>" in (getattr(part, "__doc__", None) or "") for part in parts)


def test_every_promised_function_and_class_has_an_example():
    bare = []
    for dotted, member in makers():
        if not inspect.isclass(member) and not inspect.isfunction(member):
            member = type(member)  # `models.vgg16` is a `Published`; a plain value needs none
        ours = member.__module__.startswith("jaxsnn")
        fault = inspect.isclass(member) and issubclass(member, Exception)
        if ours and not fault and member.__name__ not in RETURNED and not has_example(member):
            bare.append(dotted)
    assert not bare, f"without an example: {bare}"


@pytest.mark.long
@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(name)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    assert doctest.testmod(module, optionflags=flags).failed == 0
