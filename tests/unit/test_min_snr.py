"""Weights of the loss over timesteps, as the paper has them."""

import pytest
import torch
from comfyui_ddm.training.loop.min_snr import min_snr_weight

SCHEDULE = torch.linspace(0.999, 0.001, 100)


def test_easy_timesteps_weigh_less():
    weights = min_snr_weight(SCHEDULE, 5.0)
    assert (weights.diff() >= 0).all() and weights[-1] == 1 and weights[0] < 0.01


def test_both_predictions_weigh_the_same_error_of_the_image():
    # An error of x0 is √SNR times as large as one of ε, and √(SNR + 1) times as large as one of v.
    snr = SCHEDULE / (1 - SCHEDULE)
    epsilon, v = (min_snr_weight(SCHEDULE, 5.0, kind) for kind in ("epsilon", "v_prediction"))
    assert epsilon * snr == pytest.approx(v * (snr + 1), rel=1e-4)


def test_v_has_a_weight_where_no_signal_is_left():
    assert min_snr_weight(torch.tensor([0.0]), 5.0, "v_prediction") == 0
