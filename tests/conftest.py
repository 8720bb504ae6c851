"""What all tests share, also in processes they start: two devices, no implicit rank promotion."""

import gc
import os
import re
import shutil
import tempfile
from collections import Counter
from importlib.metadata import version
from typing import Any

import pytest

# Before jax is imported: it reads the environment once.
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_NUM_CPU_DEVICES"] = "2"
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"  # programs are lowered faster without

# Tests compile much and compute little: leave out what makes long runs fast. A flag that a release
# of XLA does not know ends the process, so the last three are for the release they were tried on.
FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if version("jaxlib").startswith("0.10."):
    FAST += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    FAST += " --xla_cpu_experimental_ynn_fusion_type=-LIBRARY_FUSION_TYPE_REDUCE"  # see host.py
os.environ.setdefault("XLA_FLAGS", FAST)

# A program that several tests or workers need is compiled once, however small: many tests trace one
# program anew, and the workers inherit the folder.
CACHE = "JAX_COMPILATION_CACHE_DIR"
OWNER = CACHE not in os.environ
if OWNER:
    os.environ[CACHE] = tempfile.mkdtemp(prefix="jaxsnn-tests-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"


# The first tier, `-m quick`: the first case of each test but of those whose marker says that they
# take longer. The default tier has the first cases of a `long` test; its others are `slow`.
LONGER = {"long", "run", "slow", "thorough"}
MOST_CASES = 3


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the first tier, and what a `long` test has beyond it."""
    chosen: set[tuple[str, str]] = set()
    cases: Counter[tuple[str, str]] = Counter()
    for item in items:
        test = str(item.path), getattr(item, "originalname", item.name)
        cases[test] += 1
        if cases[test] > MOST_CASES and item.get_closest_marker("long"):
            item.add_marker(pytest.mark.slow)
        if test not in chosen and LONGER.isdisjoint(mark.name for mark in item.iter_markers()):
            chosen.add(test)
            item.add_marker(pytest.mark.quick)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Send tests that share something to one worker: fixtures, runs, what JAX traced for them."""
    from xdist.scheduler import LoadScopeScheduling

    class Shared(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return shares_with(nodeid)

    return Shared(config, log)


# `test_admm_run.py` looks at the runs of these three.
OF_ADMM = {"admm", "quickstart", "rivals"}


def shares_with(nodeid: str) -> str:
    """Return a name for the tests that one worker should do: those of a file or of a run."""
    file, _, test = nodeid.partition("::")
    run = re.search(r"/experiments/test_(\w+)_run\.py$", file)
    if file.endswith("/experiments/test_contract.py"):
        run = re.search(r"\[(\w+)", test)
    if run is None:
        return file
    return "admm" if run[1] in OF_ADMM else run[1]


def pytest_collection_finish() -> None:
    """Keep what is there by now out of garbage collections; tracing makes much garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_unconfigure() -> None:
    """Throw the compiled programs away."""
    if OWNER:
        shutil.rmtree(os.environ[CACHE], ignore_errors=True)
