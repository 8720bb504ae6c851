"""Our handlers are built once, in the background if asked for, and a failure is told by `load`."""

import subprocess
import sys
import threading

import jax.numpy as jnp
import pytest

from jaxsnn import native
from jaxsnn.errors import UserError
from jaxsnn.native import convolutions, handlers, onednn

installed = pytest.mark.skipif(not convolutions.available(jnp.float32), reason=native.describe())


@pytest.fixture
def fresh(monkeypatch):
    """Forget what was loaded, and put it back behind the test."""
    loaded = onednn._load
    monkeypatch.setattr(onednn, "_load", loaded.__wrapped__)
    monkeypatch.delenv("JAXSNN_NATIVE", raising=False)


@installed
def test_a_compiler_that_fails_is_told_where_it_is_needed(fresh, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("JAXSNN_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "false")
    native.begin().join()
    assert capfd.readouterr() == ("", "")
    with pytest.raises(UserError, match="the compiler failed"):
        onednn.load()
    assert list(tmp_path.iterdir()) == []


@installed
def test_all_are_built_in_the_background(monkeypatch):
    built, lock = [], threading.Lock()

    def build(self):
        with lock:
            built.append((self.name, threading.current_thread() is threading.main_thread()))

    monkeypatch.setattr(handlers.Handlers, "build", build)
    native.begin().join()
    names = [each.name for each in onednn._sources(onednn._find())]
    assert sorted(built) == sorted((name, False) for name in names)


def test_nothing_is_begun_where_it_is_switched_off(monkeypatch):
    monkeypatch.setenv("JAXSNN_NATIVE", "0")
    monkeypatch.setattr(onednn, "_build_quietly", lambda: pytest.fail("this was switched off"))
    assert native.begin() is None


def test_a_call_that_lacks_a_number_is_an_error_and_no_crash():
    code = (
        "import jax, jax.numpy as jnp, numpy as np\n"
        "from jaxsnn.native import convolutions\n"
        "if convolutions.available(jnp.float32):\n"
        "    x = jnp.ones((4, 2)); like = jax.ShapeDtypeStruct((2,), jnp.float32)\n"
        "    for given, names in (((x,), {}), ((x, x), {}), ((x, x), {'rows': np.float32(4)})):\n"
        "        try:\n"
        "            jax.ffi.ffi_call('jaxsnn_search', like)(*given, **names)\n"
        "        except jax.errors.JaxRuntimeError as error:\n"
        "            print(str(error).partition('jaxsnn_search: ')[2])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    if done.stdout:
        assert done.stdout.splitlines() == ["rows is missing, or of another type"] * 3
