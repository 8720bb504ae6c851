"""The program of a GPU that is not there: its kernels and their bytes, counted."""

import pytest

from experiments.bench.studies import gpu_program
from jaxsnn.errors import UserError

PROGRAM = """
HloModule m

ENTRY %main (a: f32[4,2], b: bf16[8]) -> f32[4,2] {
  %a = f32[4,2]{1,0} parameter(0)
  %b = bf16[8]{0} parameter(1)
  %view = bf16[4,2]{1,0} bitcast(%b)
  %fusion.1 = (f32[4,2]{1,0}, pred[3]{0}) fusion(%a, %view), kind=kLoop, calls=%f
  ROOT %out = f32[4,2]{1,0} custom-call(%a, %b), custom_call_target="x"
}
"""


def test_each_kernel_reads_its_operands_and_writes_its_results():
    kinds, moved = gpu_program.traffic(PROGRAM)
    assert kinds == {"fusion": 1, "custom-call": 1}
    assert moved == (32 + 3) + (32 + 16) + 32 + (32 + 16)


def test_without_the_plugin_it_says_how_to_install_it(monkeypatch):
    def missing(*_, **__):
        raise NotImplementedError("topology_factory is not implemented for cuda")

    monkeypatch.setattr(gpu_program.topologies, "get_topology_desc", missing)
    with pytest.raises(UserError, match="no CUDA plugin here: pip install jax-cuda12-plugin"):
        gpu_program.device()
