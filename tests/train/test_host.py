"""The process-wide settings: asked for, early, and with the effect that is promised."""

import os
import subprocess
import sys

import jax
import pytest

from jaxsnn.errors import UserError
from jaxsnn.train import host

ALONE = {"JAX_PLATFORMS": "cpu", "PATH": ""}  # an environment without $JAX_NUM_CPU_DEVICES

FAULTS = """
import resource, numpy
{tune}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    numpy.ones(8 << 20).sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def output_of(program):
    done = subprocess.run(
        [sys.executable, "-c", program], env=ALONE, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.long
@pytest.mark.parametrize(
    "call, devices",
    [
        ("", "1"),
        ("host.tune(); host.tune()", "2"),
        pytest.param("host.tune(1)", "1", marks=pytest.mark.slow),
    ],
)
def test_the_cpu_becomes_devices_only_if_asked(call, devices):
    program = f"import jax\nimport jaxsnn\nfrom jaxsnn.train import host\n{call}\n"
    if devices == "2" and host.cores() < 2:
        pytest.skip("needs two cores")
    assert output_of(program + "print(jax.local_device_count())") == devices


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="the C library's allocator is tuned on Linux")
def test_freed_memory_is_not_mapped_again():
    plain, tuned = (
        int(output_of(FAULTS.format(tune=tune)))
        for tune in ("", "from jaxsnn.train import host; host.tune(1)")
    )
    assert tuned * 10 < plain  # 64 MiB are 16,384 pages


def test_too_late_is_an_error():
    jax.devices()
    with pytest.raises(UserError, match="host.tune comes too late"):
        host.tune(1)


@pytest.mark.parametrize("devices", [0, 100_000])
def test_more_devices_than_cores_are_refused(devices):
    with pytest.raises(UserError, match=f"devices = {devices}: choose 1 to"):
        host.tune(devices)


OWN, QUICK = host.OWN_SUMS, host.QUICK_TO_COMPILE


@pytest.mark.parametrize(
    "given, expected",
    [
        ("", [OWN, QUICK]),
        ("--xla_cpu_max_isa=AVX", ["--xla_cpu_max_isa=AVX", OWN, QUICK]),
        ("--xla_cpu_use_fusion_emitters=true", ["--xla_cpu_use_fusion_emitters=true", OWN]),
    ],
)
def test_flags_are_added_to_those_of_the_user(monkeypatch, given, expected):
    monkeypatch.setenv("XLA_FLAGS", given)
    host.tune(jax.local_device_count())
    host.tune(jax.local_device_count())
    assert os.environ["XLA_FLAGS"].split() == expected
    assert host.untuned().get("XLA_FLAGS", "") == given


def test_a_release_without_the_flags_is_left_alone(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(host, "version", lambda package: "0.13.0")
    monkeypatch.setattr(host, "OWN_SUMS", "--xla_cpu_own_sums=-LIBRARY_FUSION_TYPE_REDUCE")
    host.tune(jax.local_device_count())
    assert "XLA_FLAGS" not in os.environ


SUMS = """
import collections, jax, jax.numpy as jnp
{tune}
from jaxsnn import data, inputs, layers, models
from jaxsnn.network import Network

digits = data.load("digits", limit=100)
net = models.build("32C3-AP2-32C3-AP2-128-10", digits.shape, seed=2)
x = digits.inputs(timesteps=4).prepare(jax.random.key(2), jnp.asarray(digits.train.images[:16]))
watched = Network.of(layers.watch(net.module))

@jax.jit
def deviations(params):
    current = watched.replace(params=params)(x).activity.current
    return [jnp.std(each) for each in current.values()]

found = collections.Counter(tuple(map(float, deviations(net.params))) for _ in range(400))
print(len(found))
"""


@pytest.mark.long
def test_sums_are_those_of_all_their_numbers():
    tune = "from jaxsnn.train import host; host.tune()"
    assert output_of(SUMS.format(tune=tune)) == "1"
