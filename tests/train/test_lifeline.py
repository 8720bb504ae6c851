"""Processes meet or are sent away with a line, and hear of each other's end."""

import contextlib
import json
import socket
import threading

import pytest

from jaxsnn.errors import UserError
from jaxsnn.train import lifeline
from jaxsnn.train.lifeline import Meeting

FACTS = {"epochs": "3", "seed": "0"}


def meet(*others, count=2, timeout=5.0):
    """Return what process 0 and others come to when they meet: a line, or what was sent."""
    server = socket.create_server(("127.0.0.1", 0))
    address = server.getsockname()
    found = {}

    def run(name, function, *args):
        try:
            found[name] = function(*args)
        except UserError as error:
            found[name] = str(error)

    jobs = [(0, lifeline.listen, server, Meeting(count, 0, FACTS, timeout), {"port": 7})]
    jobs += [(i + 1, lifeline.connect, [address], each) for i, each in enumerate(others)]
    threads = [threading.Thread(target=run, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[i] for i in range(len(jobs))]


def test_processes_meet_and_end_together():
    first, *others = meet(*(Meeting(3, own, FACTS, 5.0) for own in (2, 1)), count=3)
    assert [go for _, go in others] == [{"port": 7}] * 2
    ends = [threading.Thread(target=line.finish) for line, _ in others]
    for thread in ends:
        thread.start()
    assert all(thread.is_alive() for thread in ends)  # process 0 has not done its part
    first.finish()
    for thread in ends:
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("other", "line"),
    [
        (Meeting(3, 1, FACTS, 5.0), "process 1 expects 3 processes, process 0 expects 2"),
        (Meeting(2, 5, FACTS, 5.0), "process 5 comes to 2; the ids are 0 to 1"),
        (Meeting(2, 1, FACTS | {"epochs": "4"}, 5.0), "given epochs = 4, process 0 3; give every"),
        (Meeting(2, 1, {"epochs": "3"}, 5.0), "given seed = None, process 0 0"),
    ],
)
def test_what_does_not_fit_is_the_same_line_on_both(other, line):
    first, second = meet(other)
    assert first == second and line in first


def test_two_with_one_id_are_refused():
    found = meet(*2 * [Meeting(3, 1, FACTS, 5.0)], count=3)
    assert found == ["two processes have the id 1; give each one of its own, 0 to 2"] * 3


def test_who_does_not_come_is_named():
    first, second = meet(Meeting(4, 2, FACTS, 5.0), count=4, timeout=0.3)
    assert first == second
    assert first.startswith("processes 1, 3 of 4 did not come within 0.3 s; start 4, with the ids")


def test_a_coordinator_that_does_not_answer_is_a_line():
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()
    with pytest.raises(UserError, match=f"127.0.0.1:{free[1]} does not answer within 0.2 s"):
        lifeline.connect([free], Meeting(2, 1, FACTS, 0.2))


def test_a_stranger_at_the_port_disturbs_nobody():
    server = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(server.getsockname()) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n")
        mine = socket.create_connection(server.getsockname())
        hello = {"own": 1, "count": 2, "facts": FACTS}
        mine.sendall(json.dumps({"hello": hello}).encode() + b"\n")
        line = lifeline.listen(server, Meeting(2, 0, FACTS, 5.0), {})
        assert json.loads(mine.recv(100)) == {"go": {}}
        mine.sendall(b'{"done": true}\n')
        line.finish()
        mine.close()


def test_an_answer_of_another_program_is_a_line():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            with server.accept()[0] as other, contextlib.suppress(OSError):
                other.recv(1000)
                other.sendall(b"HTTP/1.1 400 Bad Request\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(UserError, match="ended, or is none of this program"):
            lifeline.connect([server.getsockname()], Meeting(2, 1, FACTS, 5.0))
        thread.join()
