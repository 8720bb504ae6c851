"""Who is measured: ours, the peers, and in which flavour of the neuron each can be compared.

Libraries differ in when a neuron is reset and what the gradient sees of it. With `s` the spikes,
theta = 1 the threshold and 0.9 the decay, a peer is compared to ours in the peer's own flavour:

| flavour       | neuron                                            | of                    |
|---------------|---------------------------------------------------|-----------------------|
| subtract      | u[t] = 0.9 u[t-1] - s[t-1] + x[t], reset detached | snnTorch, torch by hand|
| decay         | u[t] = 0.9 (u[t-1] - s[t-1]) + x[t], detached     | SpikingJelly          |
| decay-through | the same, the gradient flows through the reset    | Sinabs                |
| zero          | u[t] = 0.9 u[t-1] (1 - s[t-1]) + x[t], through    | Norse                 |
| late          | as "subtract", through, s[t] = 1[u[t-1] > theta]  | Spyx                  |
| through       | as "subtract", through                            | Spyx, where see below |

A network that hears itself, or has as many layers as steps, is another one if every layer speaks
a step late, or gives nothing at all. There Spyx's loss is checked with these delays taken out.

All of ours have the arc tangent as surrogate. Norse and Sinabs have others, about as costly.
"""

import ctypes.util
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jaxsnn.errors import UserError
from jaxsnn.train import host

PEERS_FOLDER = Path(__file__).parent / "peers"

# Options of `neurons.LIF`.
FLAVOURS: dict[str, dict[str, Any]] = {
    "subtract": {"reset": "soft_undecayed", "detach_reset": True},
    "decay": {"reset": "soft", "detach_reset": True},
    "decay-through": {"reset": "soft", "detach_reset": False},
    "zero": {"reset": "hard", "detach_reset": False},
    "late": {
        "reset": "soft_undecayed",
        "detach_reset": False,
        "order": "fire_then_integrate",
    },
    "through": {"reset": "soft_undecayed", "detach_reset": False},
}


@dataclass(frozen=True)
class Contender:
    """One row of a table: a module of `experiments.peers` and how to run it.

    Attributes:
      module: its name.
      variant: passed to its `build`.
      package: what must be installed; "" for ours.
      jax: whether it runs with the interpreter for JAX peers instead of the one for torch.
      flavour: key of `FLAVOURS`; None if no neuron of ours computes the same.
      prompt: the flavour where a delay of a step a layer would count, if that is another.
      dtype: of its products, if it is not the workload's.
      preload: library to load before the process's own, such as another allocator.
      note: printed below the table.
    """

    module: str
    variant: str = ""
    package: str = ""
    jax: bool = False
    flavour: str | None = "subtract"
    prompt: str = ""
    dtype: str = ""
    preload: str = ""
    note: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether it is a row of ours."""
        return not self.package

    def flavour_on(self, delays_count: bool) -> str | None:
        """Return the flavour in which it is compared to ours."""
        return self.prompt if delays_count and self.prompt else self.flavour


PEERS = {
    "torch": Contender("torch_step", package="torch", note="by hand, time folded, eager"),
    "torch-tuned": Contender(
        "torch_step",
        "tuned",
        package="torch",
        preload="tcmalloc_minimal",
        note="by hand: NHWC, backward pass written out, fused Adam, tcmalloc",
    ),
    "torch-bf16": Contender(
        "torch_step",
        "tuned amp",
        package="torch",
        dtype="bfloat16",
        preload="tcmalloc_minimal",
        note="as torch-tuned, its products in bfloat16 by autocast",
    ),
    "snntorch": Contender("snntorch_step", package="snntorch"),
    "spikingjelly": Contender(
        "spikingjelly_step", package="spikingjelly", flavour="decay", note="multi-step mode"
    ),
    "norse": Contender("norse_step", package="norse", flavour="zero", note="LIFBoxCell"),
    "sinabs": Contender("sinabs_step", package="sinabs", flavour="decay-through"),
    "spyx": Contender(
        "spyx_step",
        package="spyx",
        jax=True,
        flavour="late",
        prompt="through",
        note="decay trained; on W3 and W4 the delay of each layer is left out of the check",
    ),
    "snnax": Contender(
        "snnax_step",
        package="snnax",
        jax=True,
        flavour=None,
        note="0.0.1, made to run: each layer reads the last step's spikes, another network",
    ),
}

# What the three that are installed without their dependencies import, and not what they only ask
# for (torchvision, torchaudio, samna, ...).
INSTALL_TORCH = (
    "python3 -m venv torch-venv && torch-venv/bin/pip install torch==2.13.0 numpy scipy matplotlib "
    "tqdm loguru pbr snntorch nir nirtorch && torch-venv/bin/pip install --no-deps spikingjelly "
    "norse sinabs"
)
INSTALL_JAX = "python3 -m venv jax-venv && jax-venv/bin/pip install jax spyx snnax equinox"


@dataclass(frozen=True)
class Interpreters:
    """Where each family's packages are installed, and the device on which they run."""

    torch: Path = Path(sys.executable)
    jax: Path = Path(sys.executable)
    device: str = "cpu"

    @property
    def environment(self) -> dict[str, str]:
        """Return what hides a GPU from a process that is to run on the processor."""
        return {} if self.device == "gpu" else {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}

    def of(self, contender: Contender) -> Path:
        """Return the interpreter that runs a contender."""
        if contender.is_ours:
            return Path(sys.executable)
        return self.jax if contender.jax else self.torch

    def missing(self, jax: bool, packages: list[str]) -> list[str]:
        """Return the packages that an interpreter does not have.

        Raises:
          UserError: if it cannot be started.
        """
        option, python = self.option(jax), self.jax if jax else self.torch
        code = (
            "import importlib.util as u, json, sys; "
            "print(json.dumps([p for p in sys.argv[1:] if u.find_spec(p) is None]))"
        )
        try:
            done = subprocess.run(
                [python, "-c", code, *packages], capture_output=True, text=True, check=True
            )
            return json.loads(done.stdout)
        except (OSError, subprocess.CalledProcessError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no Python"
            raise UserError(f"{option} {python}: cannot be started ({reason})") from None

    @staticmethod
    def option(jax: bool) -> str:
        """Return the name of the option that sets an interpreter."""
        return "--jax-peer-python" if jax else "--peer-python"


def choose(names: tuple[str, ...], interpreters: Interpreters) -> dict[str, Contender]:
    """Return the peers of these names; "installed" stands for all that are.

    Raises:
      UserError: if one that is named is not installed.
    """
    found: dict[str, Contender] = {}
    for jax in (False, True):
        family = {name: peer for name, peer in PEERS.items() if peer.jax == jax}
        asked = [name for name in family if name in names]
        if "installed" not in names and not asked:
            continue
        missing = interpreters.missing(jax, sorted({peer.package for peer in family.values()}))
        lost = [name for name in asked if family[name].package in missing]
        if lost:
            install = INSTALL_JAX if jax else INSTALL_TORCH
            raise UserError(
                f"--peers {' '.join(lost)}: not installed there; name an interpreter that has it "
                f"by {interpreters.option(jax)}, made by: {install}"
            )
        wanted = family if "installed" in names else asked
        found |= {n: PEERS[n] for n in wanted if PEERS[n].package not in missing}
    return {name: peer for name, peer in PEERS.items() if name in found}


def on_gpu(peer: Contender, dtype: str) -> Contender:
    """Return a peer as it is fastest on a GPU.

    Those of torch get convolutions with channels last, cuDNN's search for the fastest, products in
    TF32, the fused Adam, and with bfloat16 autocast; SpikingJelly takes its own fused kernels
    wherever Triton or CuPy is there. JAX peers have no such settings.
    """
    if peer.jax or peer.is_ours:
        return peer
    words = [peer.variant, "gpu", *(["amp"] if dtype == "bfloat16" else [])]
    said = "channels last, TF32, fused Adam" + (", autocast" if dtype == "bfloat16" else "")
    return replace(
        peer,
        variant=" ".join(filter(None, words)),
        dtype="" if dtype == "bfloat16" else peer.dtype,  # the workload's
        preload="",
        note="; ".join(filter(None, (peer.note, said))),
    )


def find_library(name: str) -> str | None:
    """Return what LD_PRELOAD takes for a shared library, None if it is not installed."""
    return ctypes.util.find_library(name) if name else None


def note_of(contender: Contender) -> str:
    """Return what is to be said of a contender, and of what it lacks here."""
    if contender.preload and find_library(contender.preload) is None:
        return f"{contender.note}; but {contender.preload} is not installed: without it"
    return contender.note


def run_script(python: Path, script: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run a file of `experiments.peers` in a process of its own; return the JSON that it prints.

    Raises:
      UserError: with the last line that it wrote, if it fails.
    """
    command = [str(python), str(PEERS_FOLDER / script), *arguments]
    try:
        own = host.untuned() | environment
        done = subprocess.run(command, env=own, capture_output=True, text=True)
    except OSError as error:
        raise UserError(f"{python}: cannot be started ({error.strerror})") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise UserError(f"{script} {' '.join(arguments)} failed: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(
    contender: Contender, problem: Path, seconds: float, interpreters: Interpreters
) -> dict[str, Any]:
    """Run one contender once and return what it measured."""
    environment = interpreters.environment
    if contender.is_ours:
        environment["PYTHONPATH"] = str(PEERS_FOLDER.parents[2])  # a checkout is not installed
    if library := find_library(contender.preload):
        environment["LD_PRELOAD"] = library
    return run_script(
        interpreters.of(contender),
        "measure.py",
        contender.module,
        str(problem),
        "--variant",
        contender.variant,
        "--seconds",
        str(seconds),
        **environment,
    )
