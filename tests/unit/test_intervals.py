import numpy as np
import pytest
from comfyui_ddm.debias.evaluation import intervals, metrics

HALF = np.array([0.5, 0.5])


def _images(prompts=20, per_prompt=60, share=None, seed=0, shared_seeds=False):
    rng = np.random.default_rng(seed)
    prompt = np.repeat(np.arange(prompts), per_prompt)
    share = np.full(prompts, 0.5) if share is None else share
    first = rng.random(len(prompt)) < share[prompt]
    onehot = np.stack([first, ~first], 1).astype(float)
    seeds = np.tile(np.arange(per_prompt), prompts) if shared_seeds else np.arange(len(prompt))
    return onehot, np.zeros(len(prompt), dtype=int), prompt, seeds


def test_wilson_agrees_with_the_textbook():
    low, high = intervals.wilson(8, 10)
    assert (low, high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    low, high = intervals.wilson(0, 0)
    assert (low, high) == (0, 1)


def test_wilson_covers_the_truth():
    counts = np.random.default_rng(1).binomial(40, 0.15, size=4000)
    low, high = intervals.wilson(counts, 40)
    assert 0.93 < ((low <= 0.15) & (high >= 0.15)).mean() < 0.98


def test_1200_images_are_resampled_2000_times_at_once():
    draws = intervals.clustered_bootstrap(*_images(), metrics.shares, 2000)
    assert draws.shape == (2, 2000, 1, 2)


def test_images_that_are_alike_within_a_prompt_widen_the_interval():
    uneven = np.where(np.arange(20) % 2 == 0, 0.95, 0.05)
    even_low, even_high = intervals.envelope(intervals.clustered_bootstrap(*_images(), metrics.shares))
    low, high = intervals.envelope(intervals.clustered_bootstrap(*_images(share=uneven), metrics.shares))
    assert (high - low)[0, 0] > 4 * (even_high - even_low)[0, 0]


def test_images_that_are_alike_within_a_seed_widen_the_interval():
    _, condition, prompt, seed = _images(prompts=6, per_prompt=50, shared_seeds=True)
    first = np.random.default_rng(2).random(50)[seed] < 0.5
    onehot = np.stack([first, ~first], 1).astype(float)
    low, high = intervals.envelope(intervals.clustered_bootstrap(onehot, condition, prompt, seed, metrics.shares))
    plain_low, plain_high = intervals.wilson(onehot[:, 0].sum(), len(onehot))
    assert (high - low)[0, 0] > 1.8 * (plain_high - plain_low)


def test_one_prompt_still_has_an_interval():
    low, high = intervals.envelope(intervals.clustered_bootstrap(*_images(prompts=1, per_prompt=100), metrics.shares))
    assert 0.15 < (high - low)[0, 0] < 0.25


def test_a_difference_between_conditions_is_paired_by_seed():
    onehot, _, prompt, seed = _images(prompts=5)
    double = (np.tile(onehot, (2, 1)), np.repeat([0, 1], len(onehot)), np.tile(prompt, 2), np.tile(seed, 2))
    draws = intervals.clustered_bootstrap(*double, metrics.shares)
    assert np.allclose(draws[:, :, 0], draws[:, :, 1])


def test_the_same_seed_gives_the_same_interval():
    one, two = (intervals.clustered_bootstrap(*_images(), metrics.shares, 50) for _ in range(2))
    assert np.array_equal(one, two)


def test_coverage_of_the_overall_share_is_honest():
    hits = 0
    for trial in range(60):
        share = np.random.default_rng(100 + trial).beta(6, 4, size=12)
        data = _images(12, 30, share, seed=trial)
        low, high = intervals.envelope(intervals.clustered_bootstrap(*data, metrics.shares, 400))
        hits += low[0, 0] <= 0.6 <= high[0, 0]
    assert hits >= 50


def test_a_fair_model_does_not_score_zero():
    def bias(counts):
        return metrics.pairwise_bias(metrics.shares(counts))[..., None]

    for images, expected in ((16, 0.20), (60, 0.10), (100, 0.08), (384, 0.04)):
        mean, high = intervals.fair_floor(HALF, np.array([images]), bias, draws=4000)
        assert mean[0] == pytest.approx(expected, abs=0.006)
        assert high[0] > mean[0]


def test_the_floor_without_images_is_unknown():
    mean, high = intervals.fair_floor(HALF, np.array([0]), metrics.shares)
    assert np.isnan(mean).all() and np.isnan(high).all()


def _said(count, total, coverage=1.0, margin=0.1):
    counts = np.array([count, total - count])
    return intervals.equivalence(lambda level: intervals.wilson(counts, total, level), HALF, total, coverage, margin)


def test_fair_needs_proof():
    assert _said(500, 1000) == "fair within ±.10"
    assert _said(850, 1000) == "not fair"
    assert _said(590, 1000) == "cannot tell"
    assert _said(30, 60) == "cannot tell"
    assert _said(48, 60) == "not fair"


def test_below_60_images_there_is_no_verdict():
    assert _said(59, 59) == "too few to say"
    assert _said(0, 0) == "too few to say"


def test_nothing_is_called_fair_when_much_is_undetermined():
    assert _said(500, 1000, coverage=0.7) == "cannot tell"


def test_the_margin_is_in_the_words():
    assert _said(500, 1000, margin=0.05) == "fair within ±.05"


def test_a_fair_verdict_is_rarely_wrong_at_the_edge():
    counts = np.random.default_rng(3).binomial(600, 0.6, size=1000)
    wrong = np.mean([_said(count, 600).startswith("fair") for count in counts])
    assert wrong < 0.08


def test_as_many_images_as_advised_are_enough():
    needed = intervals.images_needed(HALF)
    counts = np.random.default_rng(4).binomial(needed, 0.5, size=500)
    assert 0.7 < np.mean([_said(count, needed).startswith("fair") for count in counts]) < 0.9
