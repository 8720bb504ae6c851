"""What `experiments.joint` refuses, and the chart that only it draws."""

import pytest

MISTAKES = {
    "stage": (["--stages", "bits", "chanels"], "chanels"),
    "stage twice": (["--stages", "bits", "spikes", "bits"], "stages has 'bits' twice"),
    "together alone": (["--together", "bits"], "together 'bits' is alone"),
    "rising timesteps": (["--timesteps-schedule", "5"], "5"),
    "no validation": (["--validation=0"], "validation"),
    "ratio": (["--channel-ratios", "1.0"], "--channel-ratios"),
    "layer of a ratio": (["--channel-ratios", "conv9=0.5"], "conv9"),
    "sparsity that empties": (["--sparsity=0.9999"], "conv1/kernel"),
    "calibration": (["--calibration-batches=100"], "calibration_batches"),
    "bits of the levels": (["--levels=pow2", "--bits=1"], "bits of levels pow2"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mistake, mistake_of):
    options, culprit = MISTAKES[mistake]
    assert culprit in mistake_of("joint", ["--preset=smoke", *options])


@pytest.mark.run
def test_the_page_has_a_chart_of_the_stages(run_of):
    folder = run_of("joint")
    assert (folder / "plots" / "stages.png").exists()
    assert "What each stage cost in accuracy" in (folder / "report.html").read_text("utf-8")
