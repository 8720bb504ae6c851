"""The line between the processes of one run: they meet on it, and hear when one of them ends.

Process 0 listens, the others connect to it. Before JAX is started they tell how many they are and
what each was given, so that a wrong number or another option is one line on each of them. The
connections then stay open, with a thread at each end: the system closes those of a process that
dies, however it dies, and the others end with one line instead of waiting for its numbers.

A message is a line of JSON: `hello` (who comes), `go` (all are here), `end` (a line, and the exit
code), `done` (has nothing more to compute).
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from jaxsnn.errors import UserError

__all__ = ["Lifeline", "Meeting", "connect", "listen"]

Facts = Mapping[str, str]  # name of an option -> its value, the same in every process

GREETING = 5.0  # seconds in which who connects must say who he is
FAREWELL = 5.0  # seconds that process 0, which serves JAX's heartbeat, waits for the others' ends
LONGEST = 1 << 20  # bytes of a message

# A host that vanishes closes no connection: ask after 10 s of silence, four times.
KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


@dataclass(frozen=True)
class Meeting:
    """Who meets: the same for each of them, but for `own`."""

    count: int  # of processes
    own: int  # the number of this one, 0 to count - 1
    facts: Facts
    timeout: float  # seconds


class Peer:
    """The other end of a connection."""

    def __init__(self, connection: socket.socket):
        self._socket = connection
        self._file: BinaryIO = connection.makefile("rb")
        self.done, self.gone = threading.Event(), threading.Event()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE.items():
            if hasattr(socket, name):  # not on every system
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, **message: Any) -> None:
        """Send a message; to a process that is gone it is none."""
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float | None = None) -> dict[str, Any]:
        """Return the next message; an empty one if the process is gone or says nothing in time."""
        try:
            self._socket.settimeout(seconds)
            found = json.loads(self._file.readline(LONGEST))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._file.close()
        self._socket.close()


def listen(server: socket.socket, meeting: Meeting, go: Mapping[str, Any]) -> "Lifeline":
    """Wait for the others, as process 0, and send them what they need to go on.

    Args:
      server: where they connect; closed at the end.
      meeting: who is expected.
      go: facts for all of them.

    Raises:
      UserError: if one does not come in time, or does not fit; those who came are told.
    """
    deadline = time.monotonic() + meeting.timeout
    peers: dict[int, Peer] = {}
    heard: list[Peer] = []
    try:
        with server:
            while len(peers) < meeting.count - 1:
                peer = _accept(server, deadline)
                if peer is None:
                    raise UserError(_missing(meeting, peers))
                hello = peer.receive(GREETING).get("hello")
                if hello is None:  # a stranger
                    peer.close()
                    continue
                heard.append(peer)
                _check(hello, meeting, peers)
                peers[hello["own"]] = peer
    except UserError as error:
        for peer in heard:
            peer.send(end=str(error), code=2)
            peer.close()
        raise
    for peer in peers.values():
        peer.send(go=dict(go))
    return Lifeline(meeting.own, peers)


def connect(
    addresses: list[tuple[str, int]], meeting: Meeting
) -> tuple["Lifeline", dict[str, Any]]:
    """Meet process 0, as another; return the line to it, and what it sent.

    Args:
      addresses: host and port under which it may be reached.
      meeting: who meets.

    Raises:
      UserError: if it does not answer in time, or sends the others away.
    """
    deadline = time.monotonic() + meeting.timeout
    where = ":".join(map(str, addresses[0]))
    peer = _reach(addresses, deadline)
    if peer is None:
        raise UserError(
            f"the coordinator {where} does not answer within {meeting.timeout:g} s; start process "
            "0 there, and give every process its address"
        )
    facts = dict(meeting.facts)
    peer.send(hello={"own": meeting.own, "count": meeting.count, "facts": facts})
    answer = peer.receive(meeting.timeout + GREETING)
    if isinstance(answer.get("go"), dict):
        return Lifeline(meeting.own, {0: peer}), answer["go"]
    peer.close()
    raise UserError(
        str(answer["end"]) if "end" in answer
        else f"process 0 at {where} ended, or is none of this program; look at its last line"
    )  # fmt: skip


def _accept(server: socket.socket, deadline: float) -> Peer | None:
    try:
        server.settimeout(max(deadline - time.monotonic(), 1e-3))
        return Peer(server.accept()[0])
    except OSError:
        return None


def _reach(addresses: list[tuple[str, int]], deadline: float) -> Peer | None:
    """Return a connection to the first address that takes one; None if none does in time."""
    while (left := deadline - time.monotonic()) > 0:
        for address in addresses:
            with contextlib.suppress(OSError):
                return Peer(socket.create_connection(address, timeout=min(left, GREETING)))
        time.sleep(min(left, 0.1))
    return None


def _missing(meeting: Meeting, peers: Mapping[int, Peer]) -> str:
    absent = [str(n) for n in range(1, meeting.count) if n not in peers]
    who = f"process {absent[0]}" if len(absent) == 1 else f"processes {', '.join(absent)}"
    return (
        f"{who} of {meeting.count} did not come within {meeting.timeout:g} s; start "
        f"{meeting.count}, with the ids 0 to {meeting.count - 1}"
    )


def _check(hello: Any, meeting: Meeting, peers: Mapping[int, Peer]) -> None:
    """Raise unless a process fits this one.

    Raises:
      UserError: naming what differs, in both.
    """
    if not isinstance(hello, dict) or not isinstance(hello.get("facts"), dict):
        raise UserError("a process of another release has come; install one on every host")
    own, count = hello.get("own"), hello.get("count")
    if count != meeting.count:
        raise UserError(
            f"process {own} expects {count} processes, process 0 expects {meeting.count}; give "
            "every process the same number"
        )
    if not isinstance(own, int) or own not in range(meeting.count):
        raise UserError(f"process {own} comes to {count}; the ids are 0 to {meeting.count - 1}")
    if own in peers or own == meeting.own:
        raise UserError(
            f"two processes have the id {own}; give each one of its own, 0 to {meeting.count - 1}"
        )
    facts = hello["facts"]
    for name in sorted(facts.keys() | meeting.facts.keys()):
        if facts.get(name) != meeting.facts.get(name):
            raise UserError(
                f"process {own} was given {name} = {facts.get(name)}, process 0 "
                f"{meeting.facts.get(name)}; give every process the same options"
            )


class Lifeline:
    """The open connections of a process: of process 0 to all others, of another to process 0.

    Args:
      own: number of this process.
      peers: number of a process -> the connection to it.
    """

    def __init__(self, own: int, peers: Mapping[int, Peer]):
        self.own, self._peers = own, dict(peers)
        self._ending = threading.Lock()  # taken for good by what ends this process
        for number, peer in self._peers.items():
            threading.Thread(target=self._follow, args=(number, peer), daemon=True).start()

    def finish(self) -> None:
        """Wait until all processes have nothing more to compute, and close the connections."""
        if self.own:
            self._send(done=True)
        for peer in self._peers.values():
            peer.done.wait()
        if not self.own:
            self._send(done=True)
        for peer in self._peers.values():
            peer.close()

    def break_off(self, line: str, code: int) -> None:
        """Tell the others that this process ends, and with what line they end."""
        self._ending.acquire()
        self._tell(line, code)

    def _follow(self, number: int, peer: Peer) -> None:
        """Hear a process until its end, in a thread."""
        while message := peer.receive():
            if "done" in message:
                peer.done.set()
            if "end" in message:
                self._end(str(message["end"]), int(message.get("code", 1)))
        peer.gone.set()
        if not peer.done.is_set():
            self._end(f"process {number} ended before the others; see its own last lines", 1)

    def _end(self, line: str, code: int) -> None:
        """End this process with a line, unless it does so already."""
        self._ending.acquire()
        self._tell(line, code)
        with contextlib.suppress(OSError, ValueError):
            print(f"error: {line}", file=sys.stderr, flush=True)
            sys.stdout.flush()
        os._exit(code)  # the main thread waits for numbers that never come

    def _tell(self, line: str, code: int) -> None:
        self._send(end=line, code=code)
        until = time.monotonic() + FAREWELL
        if not self.own:
            for peer in self._peers.values():
                peer.gone.wait(max(until - time.monotonic(), 0))

    def _send(self, **message: Any) -> None:
        for peer in self._peers.values():
            peer.send(**message)
