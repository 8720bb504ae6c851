"""Compiled programs are kept from run to run, and never stop one."""

import json
import os
import subprocess
import sys
import warnings

import jax
import pytest

from experiments.common import programs

# A run of its own process, without what the tests say about caches: what it compiled and what it
# read, and what it said on stderr.
RUN = """
import json, sys
from experiments.common import programs
from jaxsnn.timing import Timing
import jax, jax.numpy as jnp
said = programs.keep("--no-cache" not in sys.argv)
with Timing() as timing:
    jax.jit(lambda x: jnp.sin(x) @ x.T + 3)(jnp.ones((4, 4))).block_until_ready()
row = timing.rows()[0]
print(json.dumps([said, row["programs"], row["cached"]]))
"""


def run(cache, *argv):
    environment = {k: x for k, x in os.environ.items() if not k.startswith("JAX_COMPILATION")}
    environment |= {"JAXSNN_CACHE": str(cache)}
    command = [sys.executable, "-c", RUN, *argv]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture
def settings():
    """Restore what JAX is told about its cache."""
    names = [*programs.SETTINGS, "jax_compilation_cache_dir", "jax_enable_compilation_cache"]
    before = {name: jax.config.values[name] for name in names}
    with warnings.catch_warnings():
        yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.mark.slow
def test_a_second_run_reads_what_the_first_one_compiled(tmp_path):
    said, compiled, read = run(tmp_path)
    assert said is None and compiled > 0 and read == 0
    assert run(tmp_path) == [None, 0, compiled]
    for path in (tmp_path / "programs").iterdir():  # as a killed process leaves them
        path.write_bytes(path.read_bytes()[:20])
    assert run(tmp_path) == [None, compiled, 0]
    assert run(tmp_path / "other", "--no-cache")[1:] == [compiled, 0]
    assert not (tmp_path / "other").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, settings):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("JAXSNN_CACHE", str(tmp_path / "file"))
    jax.config.update("jax_compilation_cache_dir", None)
    said = programs.keep(True)
    assert said.startswith("compiled programs are not kept: ") and "\n" not in said
    assert str(tmp_path / "file") in said
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_the_folder_is_that_of_the_user_unless_jax_was_given_one(tmp_path, monkeypatch, settings):
    monkeypatch.setenv("JAXSNN_CACHE", str(tmp_path))
    for given in (str(tmp_path / "given"), None):
        jax.config.update("jax_compilation_cache_dir", given)
        assert programs.keep(True) is None
        found = jax.config.values["jax_compilation_cache_dir"]
        assert found == (given or str(tmp_path / "programs"))
    assert jax.config.values["jax_persistent_cache_enable_xla_caches"].startswith("xla_gpu")


def test_what_was_used_longest_ago_goes_first(tmp_path):
    for number, name in enumerate(("old", "used", "new")):
        (tmp_path / name).write_bytes(b"x" * 10)
        os.utime(tmp_path / name, (1000 + number, 1000 + number))
    os.utime(tmp_path / "old", (3000, 500))  # read lately
    programs._shrink(tmp_path, 20)
    assert {path.name for path in tmp_path.iterdir()} == {"old", "new"}
