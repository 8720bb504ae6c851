"""Whole files or none, links and devices, full disks, folders that one process has."""

import errno
import os
import subprocess
import sys
import textwrap

import pytest

from jaxsnn import files
from jaxsnn.errors import UserError
from jaxsnn.files import Lock, make_folder, remove_temporaries, write_atomic


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def dead_process():
    """Return the number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def run(code, *arguments):
    """Run Python code in a process of its own, without JAX."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )


# --- Writing --------------------------------------------------------------------------------------


def test_content_appears_whole_in_folders_that_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "größe.txt"
    assert write_atomic(path, "größe") == 7
    assert write_atomic(path, b"new") == 3
    assert path.read_bytes() == b"new"
    assert names(path.parent) == [path.name]


def test_a_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "real").write_text("old")
    link, dangling = tmp_path / "link", tmp_path / "dangling"
    link.symlink_to(tmp_path / "there" / "real")
    dangling.symlink_to(tmp_path / "there" / "new")
    for path in (link, dangling):
        write_atomic(path, "new")
        assert path.is_symlink() and path.read_text() == "new"
    assert names(tmp_path / "there") == ["new", "real"]


def test_what_is_no_regular_file_is_refused_and_stays(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to-device").symlink_to("/dev/null")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name, what in {
        "pipe": "it is a pipe", "folder": "it is a folder", "to-device": "it is a device",
        "circle": "[Ss]ymbolic links",
    }.items():  # fmt: skip
        before = os.lstat(tmp_path / name)
        with pytest.raises(UserError, match=f"cannot write .*{name}: .*{what}"):
            write_atomic(tmp_path / name, "text")
        assert os.lstat(tmp_path / name).st_ino == before.st_ino
    assert not os.path.isfile("/dev/null")
    assert names(tmp_path) == ["circle", "folder", "pipe", "to-device"]


def test_the_longest_name_can_be_written_and_a_longer_one_is_one_line(tmp_path):
    write_atomic(tmp_path / ("ä" * 127), "text")
    assert names(tmp_path) == ["ä" * 127]
    for bad in ("x" * 256, "a\0b"):
        with pytest.raises(UserError, match="cannot write"):
            write_atomic(tmp_path / bad, "text")
    assert names(tmp_path) == ["ä" * 127]


@pytest.mark.parametrize("site", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_failure_at_any_step_is_one_line_and_keeps_the_old_file(
    tmp_path, monkeypatch, site, code
):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, site, fail)
    with pytest.raises(UserError, match=f"cannot write {path}: {os.strerror(code)}"):
        write_atomic(path, "new")
    assert names(tmp_path) == ["file"] and path.read_text() == "old"


def test_a_file_size_limit_is_one_line_and_keeps_the_old_file(tmp_path):
    done = run(
        """
        import resource, sys
        from jaxsnn.errors import UserError
        from jaxsnn.files import write_atomic
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        write_atomic(sys.argv[1], "x" * 1000)
        try:
            write_atomic(sys.argv[1], "x" * 1001)
        except UserError as error:
            print(error)
        """,
        tmp_path / "file",
    )
    assert done.stdout == f"cannot write {tmp_path / 'file'}: File too large\n", done.stderr
    assert names(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "x" * 1000


# --- What killed processes left -------------------------------------------------------------------


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path):
    dead, alive = dead_process(), os.getppid()
    kept = [f".b.{dead}", f".a.{alive}", ".a.x", ".a.b"]
    for name in [f".a.{dead}", f".a.{os.getpid()}", *kept]:
        (tmp_path / name).write_text("half")
    write_atomic(tmp_path / "a", "whole")
    assert names(tmp_path) == sorted(["a", *kept])


def test_a_whole_tree_is_freed_of_what_killed_writers_left(tmp_path):
    dead = dead_process()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / f".folder.{dead}").mkdir()
    for name in (f".a.json.{dead}", f"deep/er/.b.npz.{dead}", f"deep/.c.{os.getppid()}"):
        (tmp_path / name).write_text("half")
    remove_temporaries(tmp_path)
    left = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert [str(path) for path in left] == [f"deep/.c.{os.getppid()}"]
    assert (tmp_path / "deep" / f".folder.{dead}").is_dir()


# --- Folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [(b"caf\xe9/run", "is not UTF-8"), (b"x" * 256, "256 bytes, at most 255"),
     (b"run\0", "null byte"), (b"/".join([b"y" * 200] * 20), "a path of .* bytes"),
     (b"file", "is a file"), (b"file/run", "Not a directory")],
)  # fmt: skip
def test_a_folder_that_cannot_be_is_refused_and_nothing_is_made(tmp_path, name, message):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=f"--out .*{message}") as caught:
        make_folder(tmp_path / os.fsdecode(b"new/" * (b"file" not in name) + name), "--out")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert names(tmp_path) == ["file"]


def test_a_folder_that_nobody_can_write_to_is_refused(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--out /proc/new/run cannot be made"):
        make_folder("/proc/new/run", "--out")
    monkeypatch.setattr(files.os, "access", lambda *_: False)
    with pytest.raises(UserError, match="cannot be written to"):
        make_folder(tmp_path, "--out")


HOLD = """
import sys
from jaxsnn.files import Lock
lock = Lock(sys.argv[1])
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_for_one_process_until_it_is_killed(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], **pipes) as child:
        assert child.stdout.readline() == b"locked\n"
        with pytest.raises(UserError, match=rf"--out .* another process \({child.pid}\); wait"):
            Lock(tmp_path, "--out")
        child.kill()
    lock = Lock(tmp_path)
    Lock(tmp_path).release()  # this process has it
    refused = run(HOLD, tmp_path)
    assert refused.returncode == 1 and "is in use by another process" in refused.stderr
    lock.release()
    assert run(HOLD, tmp_path).stdout == "locked\n"


def test_without_locks_of_the_file_system_nothing_is_kept(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(files.fcntl, "flock", unknown)
    assert not refused_twice(tmp_path)
    monkeypatch.setattr(files, "fcntl", None)
    assert not refused_twice(tmp_path)


def refused_twice(folder):
    """Return whether a second lock of a folder is refused while there is a first."""
    first = Lock(folder)
    try:
        Lock(folder).release()
    except UserError:
        return True
    finally:
        first.release()
    return False
