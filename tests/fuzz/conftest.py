"""The option of the fuzzer: `python -m pytest tests/fuzz -m slow --mutations 20000`."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add how many damages the slow test makes."""
    parser.addoption("--mutations", type=int, default=2000, help="damages of the slow fuzzer")
    parser.addoption("--fuzz-seed", type=int, default=0, help="seed of the fuzzer")
