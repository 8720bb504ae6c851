"""Write `leaky.pt` by torch: `python leaky.py`, by an interpreter that has it."""

from collections import OrderedDict
from pathlib import Path

import torch

if __name__ == "__main__":
    weight = torch.arange(6, dtype=torch.float32).reshape(3, 2)
    state = OrderedDict(
        {
            "fc.weight": torch.nn.Parameter(weight),
            "fc.bias": torch.zeros(3),
            "lif.beta": torch.tensor(0.75),
            "lif.threshold": torch.tensor(1.0),
            "lif.reset_mechanism_val": torch.tensor(0),
            "turned": weight.T,
            "part": weight[1:, 1],
            "short": torch.tensor([1.5], dtype=torch.bfloat16),
        }
    )
    state._metadata = OrderedDict({"": {"version": 1}})
    torch.save(state, Path(__file__).with_suffix(".pt"))
