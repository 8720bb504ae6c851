"""The option that says how many processes are killed, and the table of what became of them."""

import pytest

TALLIES = pytest.StashKey[list]()


def pytest_addoption(parser):
    parser.addoption(
        "--kills", type=int, default=50, help="processes to kill, over all experiments"
    )


def pytest_configure(config):
    config.stash[TALLIES] = []


@pytest.fixture
def kills(request):
    """Return how many processes are to be killed in all."""
    return request.config.getoption("--kills", default=50)


@pytest.fixture
def tallies(request):
    """Return the list to which each test adds what it counted."""
    return request.config.stash.setdefault(TALLIES, [])


def pytest_terminal_summary(terminalreporter, config):
    tallies = config.stash.get(TALLIES, [])
    if not tallies:
        return
    terminalreporter.section("killed processes")
    head = ("experiment", "kills", "at a random moment", "at a temporary file", "survived", "runs")
    lines = [[t.name, t.kills, t.at_moments, t.at_sights, t.survived, t.runs] for t in tallies]
    total = ["all", *(sum(line[i] for line in lines) for i in range(1, len(head)))]
    for line in [head, *lines, total]:
        terminalreporter.write_line("| " + " | ".join(map(str, line)) + " |")
