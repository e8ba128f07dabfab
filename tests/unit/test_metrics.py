import numpy as np
import pytest
from comfyui_ddm.debias.evaluation import metrics

HALF = np.array([0.5, 0.5])


def test_two_classes_score_as_the_literature_says():
    p = np.array([0.8, 0.2])
    assert metrics.fairness_distance(p, HALF) == pytest.approx(np.sqrt(2) * 0.3)
    assert metrics.pairwise_bias(p) == pytest.approx(0.6)
    assert metrics.parity_gap(p, HALF) == pytest.approx(0.6)
    assert metrics.kl_divergence(p, HALF) == pytest.approx(0.8 * np.log(1.6) + 0.2 * np.log(0.4))


def test_the_target_itself_scores_zero():
    p = np.array([0.75, 0.25])
    assert metrics.fairness_distance(p, p) == metrics.kl_divergence(p, p) == metrics.parity_gap(p, p) == 0


def test_entropy_counts_effective_groups():
    assert metrics.effective_groups(np.full(5, 0.2)) == pytest.approx(5)
    assert metrics.normalised_entropy(np.full(5, 0.2)) == pytest.approx(1)
    assert metrics.effective_groups(np.array([1.0, 0, 0])) == 1
    assert metrics.normalised_entropy(np.array([1.0, 0, 0])) == 0


def test_a_class_that_must_not_occur_makes_the_divergence_infinite():
    assert metrics.kl_divergence(HALF, np.array([1.0, 0.0])) == np.inf


def test_a_prompt_without_images_has_no_figures_and_does_not_count():
    p = metrics.shares(np.array([[3.0, 1.0], [0.0, 0.0]]))
    assert np.isnan(p[1]).all()
    for values in (
        metrics.fairness_distance(p, HALF),
        metrics.pairwise_bias(p),
        metrics.kl_divergence(p, HALF),
        metrics.entropy(p),
    ):
        assert np.isnan(values[1]) and np.isfinite(values[0])
    assert metrics.mean_over_prompts(p).tolist() == [0.75, 0.25]
    assert metrics.prompt_range(p).tolist() == [0, 0]


def test_overall_is_the_mean_of_prompts_and_not_pooled():
    p = metrics.shares(np.array([[90.0, 10.0], [1.0, 9.0]]))
    assert metrics.mean_over_prompts(p) == pytest.approx([0.5, 0.5])
    assert metrics.mean_over_prompts(metrics.fairness_distance(p, HALF)) == pytest.approx(np.sqrt(2) * 0.4)


def test_correction_undoes_the_probe():
    confusion = np.array([[90.0, 10.0], [30.0, 70.0]])
    true = np.array([0.6, 0.4])
    measured = true @ (confusion / confusion.sum(1, keepdims=True))
    assert metrics.correct_shares(measured, confusion) == pytest.approx(true)


def test_corrected_shares_stay_shares():
    corrected = metrics.correct_shares(np.array([0.99, 0.01]), np.array([[0.8, 0.2], [0.2, 0.8]]))
    assert corrected == pytest.approx([1, 0])


def test_a_probe_that_guesses_cannot_be_corrected():
    assert metrics.correct_shares(HALF, np.array([[0.5, 0.5], [0.49, 0.51]])) is None


def test_the_simplex_projection_is_the_nearest_point():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 4))
    projected = metrics.project_to_simplex(points)
    assert np.allclose(projected.sum(-1), 1) and (projected >= 0).all()
    others = rng.dirichlet(np.ones(4), size=500)
    nearest = np.linalg.norm(points[:, None] - others, axis=-1).min(1)
    assert (np.linalg.norm(points - projected, axis=-1) <= nearest + 1e-9).all()
