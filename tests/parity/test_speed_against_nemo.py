"""Both sides' speed, measured where NeMo is installed; no figure is judged."""

import importlib.util
import math
import sys

import pytest

from tools.parity.cases import DENOISE, PLAIN, model_case
from tools.parity.records import Job
from tools.parity.speed import measure_speed

pytestmark = [
    pytest.mark.nemo,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("nemo") is None, reason="needs the real NeMo to be installed"),
]
CONFIGS = {
    "pre_conv": (DENOISE, {}),
    "without_optim_plain": (PLAIN, {"optim": None}),
    "post_conv": (DENOISE, {"mask_position": "post_conv", "quantizer.combine_time_steps": 1}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_figure_has_both_sides(name):
    class_name, changes = CONFIGS[name]
    job = Job(name, model_case(class_name, **changes), ())
    figures = measure_speed(job, dict.fromkeys(("ours", "nemo"), sys.executable), 1, batch=(2, 1.5), utterances=3)
    assert len(figures) == 9
    for figure in figures:
        assert len(figure.ours) == len(figure.nemo) == 1, figure
        assert math.isfinite(figure.ratios[0]) and figure.ratios[0] > 0
