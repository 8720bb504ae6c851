"""The chips that networks are fitted to: each limit with the document that states it.

A limit that no document at hand states is not here; `Chip.unchecked` names it. Dates are those of
the documents, or of their last change.
"""

from dataclasses import dataclass

__all__ = ["CHIPS", "CORES", "Chip", "Limit"]

LOIHI = "open-neuromorphic.org/neuromorphic-computing/hardware/loihi-2-intel, 2024-05"
LAVA_LIF = "github.com/lava-nc/lava, src/lava/proc/lif/models.py at b6822fb, 2025-07"
LAVA_WEIGHTS = "github.com/lava-nc/lava, src/lava/utils/weightutils.py at b6822fb, 2025-07"
XYLO = "rockpool.ai/devices/xylo-overview.html, column XyloAudio 3, 2025-12"
XYLO_RAM = "github.com/synsense/rockpool, devices/xylo/syns65302/ram.py at 42cee1c, 2025-12"
XYLO_STATE = (
    "github.com/synsense/rockpool, devices/xylo/syns65302/xa3_devkit_utils.py at 42cee1c, 2025-12"
)
SPECK = "sinabs.readthedocs.io/en/develop/speck/overview.html, 2025-10"
SPECK_NET = "sinabs.readthedocs.io/v3.1.3/speck/faqs/available_network_arch.html, 2026-02"
STM32 = (
    "docs.platformio.org/en/latest/boards/ststm32/stm32f4stamp.html (STM32F405RG), 2026-11; ST, "
    "RM0090 reference manual, section 2.1: SRAM1 112 kB, SRAM2 16 kB"
)

# Words of kernels and of neurons that each core of a Speck has (SPECK, 'memory constraints').
CORES = tuple(
    (1024 * kernels, 1024 * neurons)
    for kernels, neurons in [(16, 64)] * 3 + [(32, 32)] * 2 + [(64, 16)] * 2 + [(16, 16)] * 2
)


@dataclass(frozen=True)
class Limit:
    """The largest number that a chip takes, or the numbers that it takes, and who says so."""

    what: str  # as `measures.needs_of` calls it
    allowed: int | tuple[float, ...]
    source: str

    def admits(self, value: float) -> bool:
        """Return whether a number is within the limit."""
        if isinstance(self.allowed, tuple):
            return value in self.allowed
        return value <= self.allowed


@dataclass(frozen=True)
class Chip:
    """A chip and its limits.

    Attributes:
      name: what a user types.
      about: maker, part and what is in it.
      limits: what is checked.
      unchecked: what is not, as no document at hand states it, or it cannot be known before.

    Example:
      >>> CHIPS["speck"].about
      'SynSense Speck 2e/2f: 9 cores, each a convolution'
    """

    name: str
    about: str
    limits: tuple[Limit, ...]
    unchecked: tuple[str, ...]


def _limits(source: str, **most: int | tuple[float, ...]) -> tuple[Limit, ...]:
    return tuple(Limit(name.replace("_", " "), allowed, source) for name, allowed in most.items())


SHIFTS = tuple(1 - 2.0**-n for n in range(16))  # of a state of 16 bits

ALL = (
    Chip(
        "loihi2",
        "Intel Loihi 2, one chip: 128 cores",
        _limits(LOIHI, neurons=1_000_000, synapses=120_000_000, input_bits=32)
        + _limits(LAVA_WEIGHTS, weight_bits=8)
        + _limits(LAVA_LIF, state_bits=24),
        ("neurons, synapses, axons and memory of a single core", "the largest fan-in and fan-out"),
    ),
    Chip(
        "xylo3",
        "SynSense XyloAudio 3 (SYNS65302)",
        _limits(
            XYLO,
            input_channels=16,
            events_of_an_input=15,
            neurons_that_hear_the_input=128,
            hidden_neurons=992,
            fan_out_of_hidden_neurons=1024,
            neurons_that_the_output_hears=128,
            output_neurons=32,
            weight_bits=8,
            decay=SHIFTS,
            layers_with_hard_reset=0,
            max_pooling_layers=0,
        )
        + _limits(XYLO_RAM, hidden_synapses=2 * 32 * 992)
        + _limits(XYLO_STATE, state_bits=16),
        ("the largest fan-in", "steps of time a second"),
    ),
    Chip(
        "speck",
        "SynSense Speck 2e/2f: 9 cores, each a convolution",
        _limits(
            SPECK,
            layers=9,
            channels=1024,
            kernel_size=16,
            stride=(1, 2, 4, 8),
            padding=7,
            pooling=(1, 2, 4),
            max_pooling_layers=0,
            input_side=128,
            output_side=64,
            weight_bits=8,
            state_bits=16,
            decay=(1.0,),  # the leak takes a constant away
            layers_without_a_core=0,
        )
        + _limits(SPECK_NET, recurrent_layers=0),
        ("events a second of a core", "where several spikes of a step meet"),
    ),
    Chip(
        "cortex-m4",
        "Arm Cortex-M4, STM32F405/407: 1 MB of flash, 112 + 16 kB of memory in one piece",
        _limits(STM32, bytes_of_flash=1 << 20, bytes_of_memory=128 << 10),
        ("machine code (some kB of flash)", "the stack, and what else the program keeps"),
    ),
)
CHIPS = {chip.name: chip for chip in ALL}
