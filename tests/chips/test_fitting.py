"""A network fits a chip, or the report names each limit that it breaks, in numbers."""

import itertools
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsnn import chips, models, tree
from jaxsnn.chips.limits import CORES
from jaxsnn.chips.measures import without_core
from jaxsnn.cli import main
from jaxsnn.compile import to_c
from jaxsnn.errors import UserError
from jaxsnn.export import save
from jaxsnn.inputs import Inputs
from jaxsnn.neurons import LIF, SynapticLIF

PIXELS, SOUND = Inputs((8, 8, 1), 4), Inputs((12,), 4, "bernoulli")
EVENTS = Inputs((8, 8, 1), 4, "bernoulli")
STAYS = LIF(1.0, 0.3, reset="soft")  # what a Speck has: no decay
FADES = LIF(0.75, 0.3, reset="soft")


def quantized(layout, inputs, neuron, largest=7):
    """Return a network whose weights are whole numbers of 4 bits, scaled."""
    net = models.build(layout, inputs.shape, neuron, use_bias=False)
    random = np.random.default_rng(0)

    def draw(name, leaf):
        codes = random.integers(-largest, largest + 1, leaf.shape)
        return jnp.asarray(codes / 16, jnp.float32) if name.endswith("kernel") else leaf

    return net.replace(params=tree.map_named(draw, net.params))


def broken(net, inputs, chip):
    """Return (what, where, number) of each limit that is broken."""
    return [
        (x.limit.what, x.need.where, x.need.value)
        for x in chips.check_fit(net, inputs, chip).broken
    ]


FITTING = {
    "loihi2": (LIF(0.5, 0.3), "8C3-AP2-10", PIXELS),
    "speck": (STAYS, "8C3-AP2-10", EVENTS),
    "xylo3": (FADES, "20-6R-5", SOUND),
    "cortex-m4": (LIF(0.5, 0.3), "8C3-AP2-10", PIXELS),
}


@pytest.mark.parametrize("chip", FITTING)
def test_a_small_network_fits(chip):
    neuron, layout, inputs = FITTING[chip]
    found = chips.check_fit(quantized(layout, inputs, neuron), inputs, chip)
    assert found.fits and found.broken == ()
    assert {row.limit for row in found.rows} == set(found.chip.limits)


def test_floats_do_not_fit_the_weights_of_loihi():
    net = models.build("8C3-AP2-10", PIXELS.shape, LIF(0.5, 0.3))
    bits = ("weight bits", "conv1", 32), ("weight bits", "dense1", 32)
    assert broken(net, PIXELS, "loihi2") == [*bits]
    wide = quantized("8C3-AP2-10", PIXELS, LIF(0.5, 0.3), largest=199)
    assert [value for _, _, value in broken(wide, PIXELS, "loihi2")] == [9, 9]


def test_neurons_that_no_limit_is_about_are_refused_by_layer():
    net = quantized("6-3", SOUND, SynapticLIF(0.5, 0.3, 0.5))
    with pytest.raises(UserError, match="layer 'dense1' has a synaptic current .* of xylo3"):
        chips.check_fit(net, SOUND, "xylo3")
    assert chips.check_fit(net, SOUND, "cortex-m4").fits


def test_images_do_not_fit_a_chip_for_sound():
    found = broken(quantized("4C3-10", PIXELS, LIF(0.9, 0.3)), PIXELS, "xylo3")
    assert found[:4] == [
        ("input channels", "", 64),
        ("events of an input", "", 255),
        ("neurons that hear the input", "conv1", 256),
        ("neurons that the output hears", "conv1", 256),
    ]
    assert [where for what, where, _ in found if what == "decay"] == ["conv1", "dense1"]
    assert ("layers with hard reset", "conv1, dense1", 2) in found


def test_a_layer_of_the_makers_example_finds_no_core():
    """16 to 32 channels, 3 x 3, on 64 x 64: 8 Ki words of kernels and 128 Ki of neurons.

    From the section 'memory constraints' of the documentation of Sinabs (`limits.SPECK`).
    """
    inputs = Inputs((64, 64, 16), 1)
    net = quantized("32C3-AP4-AP2-AP2-5", inputs, STAYS)
    found = chips.check_fit(net, inputs, "speck")
    homeless = next(row for row in found.broken if row.limit.what == "layers without a core")
    assert homeless.need.where == "conv1" and homeless.need.value == 1
    assert homeless.need.note == "needs 8,192 words of kernels, 131,072 of neurons"
    assert ("pooling", "before dense1", 16) in broken(net, inputs, "speck")


def test_a_speck_takes_neither_decay_nor_max_pooling_nor_recurrence():
    found = broken(quantized("4C3-MP2-6R-10", PIXELS, LIF(0.5, 0.3)), PIXELS, "speck")
    assert ("max pooling layers", "before dense1", 1) in found
    assert ("recurrent layers", "dense1", 1) in found
    assert ("decay", "conv1", 0.5) in found


def test_a_large_image_does_not_fit_a_microcontroller():
    inputs = Inputs((64, 64, 1), 1)
    found = broken(quantized("12C3-AP2-AP2-AP2-5", inputs, LIF(0.5, 0.3)), inputs, "cortex-m4")
    assert [what for what, _, _ in found] == ["bytes of memory"]
    assert found[0][2] > 131_072


def test_the_bytes_are_those_that_compile_prints():
    net = quantized("8C3-AP2-10", PIXELS, LIF(0.5, 0.3))
    flash, ram = (row.need.value for row in chips.check_fit(net, PIXELS, "cortex-m4").rows)
    source = to_c(net, PIXELS, target="mcu")
    assert flash == source.table_bytes
    assert ram == source.state_bytes + 64 + 4 * 10  # a sample of bytes, scores of 32 bits


def test_numbers_are_those_of_a_count_by_hand():
    """2 x 2 taps at a stride of 2 on 4 x 4 pixels, then dense: each number is easily counted."""
    inputs = Inputs((4, 4, 1), 2)
    net = models.build("3C2S2-2", inputs.shape, LIF(0.5, 0.3), use_bias=False)
    ones = tree.map_named(lambda name, leaf: jnp.ones_like(leaf), net.params)
    ones["conv1"]["kernel"] = ones["conv1"]["kernel"].at[0, 0].set(0.0)
    found = {
        row.limit.what: row.need.value
        for chip in ("loihi2", "xylo3", "speck")
        for row in chips.check_fit(net.replace(params=ones), inputs, chip).rows
    }
    assert found["neurons"] == 12 + 2 and found["hidden neurons"] == 12
    assert found["synapses"] == 12 * 3 + 12 * 2
    assert found["fan out of hidden neurons"] == 2
    assert found["channels"] == 3 and found["kernel size"] == 2 and found["input side"] == 4


def test_layers_get_cores_whenever_there_is_a_way():
    random = np.random.default_rng(0)
    sizes = [1 << 10, 1 << 14, 1 << 15, 1 << 16]
    for _ in range(40):
        wanted = [tuple(random.choice(sizes, 2).tolist()) for _ in range(random.integers(1, 5))]
        possible = any(
            all(
                kernels <= CORES[core][0] and neurons <= CORES[core][1]
                for (kernels, neurons), core in zip(wanted, order, strict=True)
            )
            for order in itertools.permutations(range(9), len(wanted))
        )
        assert possible == (without_core(wanted) == [])


def test_every_limit_has_a_source_with_its_date():
    for chip in chips.CHIPS.values():
        for limit in chip.limits:
            assert re.search(r", 20\d\d-\d\d", limit.source), limit


def test_unknown_chips_and_inputs_are_refused():
    net = models.build("3", (4,), LIF(0.5))
    with pytest.raises(UserError, match="'loihi' is unknown; choose one of cortex-m4, loihi2, spe"):
        chips.check_fit(net, Inputs((4,), 2), "loihi")
    with pytest.raises(UserError, match="inputs must be an Inputs, found tuple"):
        chips.check_fit(net, (4,), "speck")


def test_inspect_prints_the_verdict_and_its_sources(tmp_path, capsys):
    neuron, layout, inputs = FITTING["xylo3"]
    net = quantized(layout, inputs, neuron)
    save(tmp_path / "net", net, inputs)
    file = str(tmp_path / "net")
    assert main(["inspect", file, "--chip", "xylo3"]) == 0
    text = capsys.readouterr().out
    assert "FITS xylo3: SynSense XyloAudio 3" in text and "NOT FIT" not in text
    assert "[1] rockpool.ai" in text and "not checked: the largest fan-in" in text
    assert main(["inspect", file, "--chip", "speck"]) == 0
    text = capsys.readouterr().out
    assert "DOES NOT FIT speck" in text and "decay (dense1): 0.75, allowed 1\n" in text
    assert main(["inspect", file, "--chip", "speck", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert not found["fits"] and found["file"] == file
    assert {"what": "layers", "where": "", "found": 3, "allowed": 9}.items() <= next(
        row for row in found["limits"] if row["what"] == "layers"
    ).items()
    assert main(["inspect", file, "--chip", "loihi"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "choose one of cortex-m4, loihi2, speck, xylo3" in error
