"""A program has only the options that it uses: each is read by code that its `run` reaches."""

import ast
import dataclasses
import functools
import importlib
import inspect
import re
import textwrap
from types import FunctionType, ModuleType

import pytest

PROGRAMS = ("quickstart", "admm", "rivals", "qp_snn", "joint", "spatiotemporal", "spike_thrift",
            "sweep", "fast")  # fmt: skip
CHECKS = ("check", "post_init")  # of a class of options: they read what nobody may use
WHERE = ("experiments.", "jaxsnn.methods.")  # options go no further down


@functools.cache
def parsed(thing):
    """Return the syntax tree of a function or a class."""
    return ast.parse(textwrap.dedent(inspect.getsource(thing)))


def resolved(node, names):
    """Return what a name or `module.name.name` stands for, None if that is not known."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = resolved(node.value, names)
        if isinstance(owner, (ModuleType, type)):
            return getattr(owner, node.attr, None)
    return None


@functools.cache
def is_ours(thing):
    """Return whether a thing is code that is given options."""
    if not isinstance(thing, (FunctionType, type)) or not thing.__module__.startswith(WHERE):
        return False
    try:
        return bool(inspect.getsource(thing))
    except OSError:  # made by a function
        return False


def parts(thing):
    """Return a function or class; of a class of options what it computes, its checks left out."""
    if isinstance(thing, type) and inspect.getsource(thing).startswith("@checked"):
        own = [each for each in vars(thing).values() if isinstance(each, FunctionType)]
        return [each for each in own if is_ours(each) and each.__name__ not in CHECKS]
    return [thing]


def reached(start):
    """Return the functions and classes that a function may come to call, itself among them."""
    found, left = set(), [start]
    while left:
        thing = inspect.unwrap(left.pop())
        if thing in found:
            continue
        found.add(thing)
        names = vars(importlib.import_module(thing.__module__))
        for node in ast.walk(parsed(thing)):
            if isinstance(node, (ast.Name, ast.Attribute)):
                other = resolved(node, names)
                if isinstance(other, (FunctionType, type)) and is_ours(other):
                    left += parts(other)
    return found


def names_read(things):
    """Return a pattern of the attributes that are read: by name, or by a text with gaps."""
    found = set()
    for thing in things:
        for node in ast.walk(parsed(thing)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(re.escape(node.attr))
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
                if isinstance(node.args[1], ast.JoinedStr):
                    parts = node.args[1].values
                    found.add("".join(
                        re.escape(part.value) if isinstance(part, ast.Constant) else r"\w+"
                        for part in parts
                    ))  # fmt: skip
    return re.compile("|".join(sorted(found)))


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_option_of_a_program_is_read(name):
    module = importlib.import_module(
        f"experiments.{name}" if name == "quickstart" else f"experiments.{name}.run"
    )
    read = names_read(reached(module.EXPERIMENT.run))
    config = module.EXPERIMENT.config()
    unread = [
        f"{group.name}.{option.name}"
        for group in dataclasses.fields(config)
        if group.name not in ("run", "processes")  # read by every program's `main`
        for option in dataclasses.fields(getattr(config, group.name))
        if not read.fullmatch(option.name)
    ]
    assert not unread


def test_an_option_that_no_way_of_a_program_reads_is_noticed():
    from experiments.rivals import run as rivals
    from jaxsnn.methods import admm

    read = names_read(reached(rivals.run))
    assert read.fullmatch("dual_steps") and not read.fullmatch("quantize_levels")
    assert not names_read(reached(admm.quieten)).fullmatch("dual_steps_of_nobody")
