"""Several processes compute as one: they meet, share one mesh of devices, and end together.

Every process runs the same program on the same data. What lies on the mesh (`train.parallel`) is
computed by all of them; the rest each computes by itself, and comes to the same. Files are read and
written by the first process alone, which sends the others what it has read.
"""

import contextlib
import json
import math
import os
import socket
import sys
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxsnn import tree
from jaxsnn.arrays import check_range, check_whole
from jaxsnn.errors import UserError
from jaxsnn.train import lifeline

__all__ = [
    "arrays_from_first",
    "check_equal",
    "from_first",
    "is_first",
    "least",
    "processes",
]

AUTO = "auto"  # in the place of an address: ask the scheduler
WAIT = 60.0  # seconds, by default, in which all processes must have come
HEARTBEAT = 100  # seconds after which JAX gives up a process that is there and does not move
PATIENCE = 2.0  # seconds between a failed collective and the end of the process that it names


@contextlib.contextmanager
def processes(
    coordinator: str | None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    facts: Mapping[str, str] | None = None,
    timeout: float = WAIT,
) -> Iterator[None]:
    """Compute together with other processes inside a `with` block, each of which runs the same.

    On a CPU they talk by Gloo, on GPUs by NCCL, on TPUs by their links. At the end of the block
    they wait for each other. If one fails in it or dies, all end with a line that says so, with the
    exit code 2 for a `UserError`: no exception leaves the block.

    Args:
      coordinator: `HOST:PORT` of process 0, where a port is free; "auto" takes address, number and
        id from SLURM, Open MPI or a TPU pod; None: this process is the only one.
      num_processes: how many there are, this one among them.
      process_id: which one this is, 0 to `num_processes` - 1; the first writes and prints.
      facts: name -> value of what must be the same in all of them, such as options.
      timeout: seconds in which all must have come, > 0.

    Raises:
      UserError: on all processes, if one does not come or fit: another count, an id twice, other
        facts or devices; or if JAX computes already.

    Example:
      >>> with processes(None):
      ...     is_first()
      True
    """
    if coordinator is None:
        if num_processes is not None or process_id is not None:
            raise UserError(
                "num_processes and process_id need the coordinator's address, HOST:PORT"
            )
        yield
        return
    check_range("timeout", timeout, 0, 1e6, open_low=True)
    service: dict[str, Any] = {}
    if coordinator == AUTO:
        if num_processes is not None or process_id is not None:
            raise UserError("coordinator 'auto' takes num_processes and process_id by itself")
        line = _meet_scheduled(dict(facts or {}), timeout)
    else:
        line, service = _meet(coordinator, num_processes, process_id, dict(facts or {}), timeout)
    with _ending_together(line):
        if service:
            _start(timeout, **service)
        yield


def is_first() -> bool:
    """Return whether this process is the one that writes and prints; a single process is."""
    return jax.process_index() == 0


def from_first(content: Callable[[], bytes]) -> bytes:
    """Return on all processes what a function returns on the first one, where alone it is called.

    >>> from_first(lambda: b"read once")
    b'read once'
    """
    if jax.process_count() == 1:
        return content()
    own = content() if is_first() else b""
    size = int.from_bytes(_broadcast(len(own).to_bytes(8, "little")), "little")
    return _broadcast(own if is_first() else bytes(size))


def arrays_from_first(arrays: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Do what `from_first` does with arrays, name -> array, of any number type.

    >>> arrays_from_first(lambda: {"w": np.ones(2)})["w"].tolist()
    [1.0, 1.0]
    """
    if jax.process_count() == 1:
        return dict(arrays())

    def packed() -> bytes:
        found = {name: np.asarray(each, order="C") for name, each in arrays().items()}
        about = [[name, str(each.dtype), each.shape] for name, each in found.items()]
        return b"".join([json.dumps(about).encode(), b"\n", *(x.tobytes() for x in found.values())])

    content = bytearray(from_first(packed))  # which may be written to
    start, arrived = content.index(b"\n") + 1, {}
    for name, dtype, shape in json.loads(content[:start]):
        count, size = math.prod(shape), np.dtype(dtype).itemsize
        arrived[name] = np.frombuffer(content, dtype, count, start).reshape(shape)
        start += count * size
    return arrived


def least(value: float) -> float:
    """Return the least of the processes' numbers, on all of them."""
    if jax.process_count() == 1:
        return value
    return float(np.min(_of_all(np.float32(value))))


def check_equal(what: str, found: Any) -> None:
    """Raise, on all processes, unless they have the same numbers, bit for bit.

    Args:
      what: how these are called, for the message.
      found: a tree of arrays.

    Raises:
      UserError: naming a process whose numbers differ from those of the first.
    """
    if jax.process_count() == 1:
        return
    checksum = 0
    for leaf in tree.named_leaves(found).values():
        checksum = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data, checksum)
    every = _of_all(np.uint32(checksum))
    if len(set(every.tolist())) > 1:
        other = int(np.argmax(every != every[0]))
        raise UserError(
            f"{what} of process {other} differs from that of process 0; use hosts with the same "
            "processors, devices and software"
        )


@contextlib.contextmanager
def _ending_together(line: lifeline.Lifeline) -> Iterator[None]:
    """Wait for the other processes at the end of a block, or end with them and say why."""
    try:
        yield
        line.finish()
    except BaseException as error:
        if isinstance(error, jax.errors.JaxRuntimeError):
            time.sleep(PATIENCE)  # if another process has died, the line ends this one meanwhile
        said, code = _farewell(error)
        line.break_off(f"process {line.own}{said}", code)
        if code == 1:
            traceback.print_exc()
        else:
            print(f"error{said}", file=sys.stderr)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(AttributeError, OSError, ValueError):
                stream.flush()
        os._exit(code)  # at a usual end JAX would wait for those that are gone


def _farewell(error: BaseException) -> tuple[str, int]:
    """Return how the line ends that says why a process does, and its exit code."""
    if isinstance(error, KeyboardInterrupt):
        return ": interrupted", 130
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return f": {text}", 2
    return f" failed: {type(error).__name__}: {text[:300]}", 1


def _meet(
    coordinator: str, count: int | None, own: int | None, facts: lifeline.Facts, timeout: float
) -> tuple[lifeline.Lifeline, dict[str, Any]]:
    """Meet the processes at an address; return the line to them, and how JAX starts."""
    if count is None or own is None:
        raise UserError(
            f"coordinator {coordinator!r} needs num_processes and process_id, or be 'auto'"
        )
    check_whole("num_processes", count, 1, 1 << 20)
    if own not in range(count):
        raise UserError(f"process_id = {own}: of {count} processes the ids are 0 to {count - 1}")
    host, _, text = coordinator.rpartition(":")
    if not host or not text.isdecimal() or int(text) not in range(1, 1 << 16):
        raise UserError(f"coordinator must be HOST:PORT or 'auto', found {coordinator!r}")
    meeting, address = lifeline.Meeting(count, own, facts, timeout), (host.strip("[]"), int(text))
    if own:
        line, go = lifeline.connect([address], meeting)
        port = go["port"]
    else:
        with _server(0) as free:  # for JAX's own service, which starts when all are here
            port = free.getsockname()[1]
        line = lifeline.listen(_server(address[1]), meeting, {"port": port})
    return line, {
        "coordinator_address": f"{host}:{port}",
        "num_processes": count,
        "process_id": own,
        "cluster_detection_method": "deactivate",
    }


def _meet_scheduled(facts: lifeline.Facts, timeout: float) -> lifeline.Lifeline:
    """Start JAX with what it finds of the scheduler, and meet the processes over its devices."""
    _start(timeout)
    server = _server(0) if is_first() else None
    places = from_first(lambda: json.dumps(_addresses(server)).encode())
    meeting = lifeline.Meeting(jax.process_count(), jax.process_index(), facts, timeout)
    if server is not None:
        return lifeline.listen(server, meeting, {})
    return lifeline.connect([(host, port) for host, port in json.loads(places)], meeting)[0]


def _start(timeout: float, **service: Any) -> None:
    """Start JAX's service for several processes; without arguments it looks for a scheduler."""
    jax.config.update("jax_enable_preemption_service", False)  # it would take no SIGTERM for an end
    try:
        jax.distributed.initialize(
            initialization_timeout=math.ceil(timeout), heartbeat_timeout_seconds=HEARTBEAT,
            **service,
        )  # fmt: skip
    except ValueError as error:
        raise UserError(
            f"the scheduler's variables give no processes ({error}); give the coordinator's "
            "HOST:PORT, num_processes and process_id"
        ) from error
    except RuntimeError as error:
        text = " ".join(str(error).split())[:200]
        raise UserError(f"the processes cannot start JAX together: {text}") from error
    _check_devices()
    with _silent():
        _of_all(np.uint32(0))  # the first talk: Gloo prints a line


def _check_devices() -> None:
    """Raise unless all processes have as many devices."""
    each = Counter(device.process_index for device in jax.devices())
    if len(set(each.values())) > 1:
        found = ", ".join(f"process {n} has {each[n]}" for n in sorted(each)[:8])
        raise UserError(f"give every process as many devices; {found}")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Throw away what libraries print on the standard output, where results go."""
    sys.stdout.flush()
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _server(port: int) -> socket.socket:
    """Return a socket that listens on a port of all addresses; 0 is a free one."""
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, dualstack_ipv6=dual)
    except OSError as error:
        raise UserError(
            f"port {port} of the coordinator cannot be opened here: {error.strerror}; choose "
            "another, on every process"
        ) from error


def _addresses(server: socket.socket | None) -> list[tuple[str, int]]:
    """Return where this host may be reached: its names, and the address that it calls others by."""
    if server is None:
        return []
    hosts = [socket.getfqdn(), socket.gethostname()]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; RFC 5737 gives that address to nobody
        hosts.append(probe.getsockname()[0])
    return [(host, server.getsockname()[1]) for host in dict.fromkeys(hosts)]


def _broadcast(content: bytes) -> bytes:
    found: Any = multihost_utils.broadcast_one_to_all(np.frombuffer(content, np.uint8))
    return bytes(np.asarray(found))


def _of_all(value: Any) -> np.ndarray:
    """Return a number of every process, `[processes]`."""
    return np.asarray(multihost_utils.process_allgather(value))
