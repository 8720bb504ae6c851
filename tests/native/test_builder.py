"""C code is compiled at first use and kept; what can go wrong is one line and leaves nothing."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from jaxsnn.errors import UserError
from jaxsnn.native import builder

SOURCE = "int answer(void) { return 42; }\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keep built libraries in a folder of the test."""
    monkeypatch.setenv("JAXSNN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def compiler():
    """Return the compiler at hand, or leave the test out."""
    try:
        return builder.find_compiler("c")
    except UserError as error:
        pytest.skip(str(error))


def program(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_a_library_is_built_once(compiler, cache, monkeypatch):
    path = builder.build(SOURCE)
    assert ctypes.CDLL(str(path)).answer() == 42
    monkeypatch.setattr(builder, "_run", lambda *_: pytest.fail("compiled again"))
    assert builder.build(SOURCE) == path
    assert list(cache.iterdir()) == [path]


def test_another_source_flag_or_compiler_is_another_library(compiler, tmp_path):
    other = program(tmp_path / "cc2", f'#!/bin/sh\nexec {compiler} "$@"\n')
    paths = {
        builder.build(SOURCE),
        builder.build(SOURCE.replace("42", "43")),
        builder.build(SOURCE, ["-O2"]),
        builder.build(SOURCE, compiler=other),
    }
    assert len(paths) == 4


def test_the_error_of_a_compiler_is_one_line(compiler, cache):
    with pytest.raises(UserError, match=r"the compiler failed \(.*error.*command was: .*-shared"):
        builder.build("int answer(void) { return forty; }")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 3\n", "#!/bin/sh\nkill -9 $$\n", "no program"])
def test_a_broken_compiler_is_one_line(text, tmp_path, cache):
    with pytest.raises(UserError, match=r"^the compiler failed \(") as caught:
        builder.build(SOURCE, compiler=program(tmp_path / "cc", text))
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_a_compiler_that_hangs_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "PATIENCE", 0.2)
    slow = program(tmp_path / "cc", '#!/bin/sh\n[ "$1" = --version ] || exec sleep 60\n')
    with pytest.raises(UserError, match="timed out"):
        builder.build(SOURCE, compiler=slow)


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(UserError, match="no C compiler: none of cc, gcc, clang was found"):
        builder.find_compiler("c")
    monkeypatch.setenv("CXX", "nothing++")
    with pytest.raises(UserError, match=r"\$CXX = 'nothing\+\+' is no program"):
        builder.find_compiler("c++")


def test_a_cache_that_cannot_be_written_is_one_line(compiler, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXSNN_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"cannot be kept there .*\$JAXSNN_CACHE"):
        builder.build(SOURCE)


@pytest.mark.thorough
def test_two_processes_may_build_at_once(compiler, cache):
    code = f"from jaxsnn.native import builder; print(builder.build({SOURCE!r}))"
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    paths = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    (path,) = paths
    assert ctypes.CDLL(path).answer() == 42
    assert list(cache.iterdir()) == [Path(path)]
