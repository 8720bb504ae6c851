"""What cannot fit is refused before it is made, and what fits never is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsnn import layers, memory, models
from jaxsnn.data import unread
from jaxsnn.errors import UserError

MEMINFO = "MemTotal: 8000 kB\nMemFree: 100 kB\nMemAvailable: 5000 kB\nSwapFree: 700 kB\n"


def machine(folder, files):
    """Write the files of a pretended machine."""
    for name, text in (
        {"proc/meminfo": MEMINFO, "proc/self/status": "RssAnon:\t 30 kB\n"} | files
    ).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


GROUP = "sys/fs/cgroup/pod/box/memory"
OLD = "sys/fs/cgroup/memory/box/memory"
MACHINES = {
    "no group": ({}, 5000 * 1024),
    "a group": (
        {
            "proc/self/cgroup": "0::/pod/box\n",
            f"{GROUP}.max": "2000000",
            f"{GROUP}.current": "1500000",
            f"{GROUP}.stat": "anon 7\ninactive_file 300000\nactive_file 100000\n",
        },
        900000,  # the cache of files is given back
    ),
    "a group within a smaller one": (
        {
            "proc/self/cgroup": "0::/pod/box\n",
            f"{GROUP}.max": "max",
            f"{GROUP}.current": "5",
            "sys/fs/cgroup/pod/memory.max": "1000000",
            "sys/fs/cgroup/pod/memory.current": "400000",
        },
        600000,
    ),
    "a group that is full": (
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "10",
         "sys/fs/cgroup/memory.current": "20"},
        0,
    ),
    "the first version": (
        {
            "proc/self/cgroup": "5:cpu:/box\n4:memory,blkio:/box\n0::/\n",
            f"{OLD}.limit_in_bytes": "3000000",
            f"{OLD}.usage_in_bytes": "1000000",
            f"{OLD}.stat": "total_inactive_file 50\n",
        },
        2000050,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MACHINES)
def test_what_is_free_is_the_least_that_the_host_or_a_group_has_left(name, tmp_path):
    files, expected = MACHINES[name]
    root = machine(tmp_path, files)
    assert memory.host_bytes(reserves=False, root=root) == expected
    assert memory.host_bytes(root=root) == expected + (700 + 30) * 1024


def test_a_machine_that_says_nothing_has_what_is_built_in(tmp_path):
    assert memory.host_bytes(root=tmp_path) >= memory.host_bytes(reserves=False) > 1e8


def test_only_what_needs_more_than_is_free_is_refused():
    memory.check("an array", 1000, "", free=1000)
    with pytest.raises(UserError, match="1001 bytes of memory needed, at most 1000 bytes free"):
        memory.check("an array", 1001, "take less", free=1000)
    with pytest.raises(UserError, match="take less"):
        memory.check("an array", 1e18, "take less")
    memory.check("a small one", 1e6, "")


WIDE = 100_000_000
TOO_LARGE = {
    "dense": lambda: models.build(f"{WIDE}-10", (784,)),
    "recurrent": lambda: models.build(f"{WIDE}R-10", (2,)),
    "convolution": lambda: models.build(f"{WIDE}C3-10C3-10", (8, 8, 1)),
    "block": lambda: models.build(f"4C3-4B3M{WIDE}-10", (8, 8, 1)),
    "many": lambda: models.build("-".join(["20000"] * 1000), (20000,)),
    "published": lambda: models.vgg16((32, 32, 3), width=1e5),
    "a layer": lambda: layers.Dense(WIDE, 1000, neurons=layers.Integrator(), rngs=nnx.Rngs(0)),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_network_that_cannot_fit_is_one_line_before_it_is_made(name):
    with pytest.raises(UserError, match=r"weights: at least .* [GT]iB .*free: take") as caught:
        TOO_LARGE[name]()
    assert "\n" not in str(caught.value)


def test_shapes_alone_need_no_memory():
    net = jax.eval_shape(TOO_LARGE["dense"])
    assert memory.size_of(net.params) == 4 * (784 * WIDE + WIDE + 10 * WIDE + 10)
    assert memory.size_of({"a": jnp.zeros((2, 3), jnp.bfloat16), "b": np.zeros(4)}) == 44


def test_recordings_that_cannot_fit_as_frames_are_refused_before_they_are_read():
    def fill(indices, images):
        raise AssertionError("read")

    split = unread.Unread(np.zeros(60_000, np.int32), (1_000_000, 34, 34, 2), fill)
    message = r"60,000 samples of 1,000,000 x 34 x 34 x 2: at least 126.2 TiB of memory needed"
    with pytest.raises(UserError, match=message + ".* take a smaller limit, size or number of"):
        split.whole()
