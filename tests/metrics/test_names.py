"""The names of the package: all there, and light until they are touched."""

import subprocess
import sys

import pytest

from jaxsnn import metrics


def test_every_promised_name_is_there():
    assert all(callable(getattr(metrics, name)) for name in metrics.__all__)
    assert dir(metrics) == sorted(metrics.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        metrics.nothing  # noqa: B018


@pytest.mark.long
def test_what_trains_does_not_load_what_measures():
    program = (
        "import sys, jaxsnn.metrics; assert 'jax' not in sys.modules\n"
        "import jaxsnn.train; assert 'jaxsnn.metrics.report' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
