"""Learning through sampling: the two passes give just the gradient of adjusted direct fine-tuning."""

import numpy as np
import pytest
import torch
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.models.lora import add_lora, lora_parameters
from comfyui_ddm.training.models.unet import gradient_scales
from comfyui_ddm.training.sampling.differentiable_sampling import drawn_steps, predict, roll_out

STEPS, GUIDANCE = 4, 3.0


@pytest.fixture
def base(tiny_base):
    base = load_base(tiny_base)
    add_lora(base.denoiser, "debias", 2)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lora_parameters(base.denoiser, "debias"):
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.1)
    # The test compares rounding, which half precision has more of.
    base.autocast = lambda: torch.autocast("cpu", enabled=False)
    return base


def setting(base):
    noise = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text, empty = (base.encode_text([prompt] * 3) for prompt in ("a cook", ""))
    goal = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    return noise, text, empty, lambda latents: (latents - goal).square().mean()


def gradients(base):
    return [parameter.grad for parameter in lora_parameters(base.denoiser, "debias")]


def literal(base, learns_text=False):
    """As the paper says it: one graph over all steps, latents detached where they enter the U-Net."""
    noise, text, empty, loss = setting(base)
    text.tokens.requires_grad_(learns_text)
    scheduler = base.family.solver(base)
    scheduler.set_timesteps(STEPS)
    scales = gradient_scales(base.scheduler.alphas_cumprod, scheduler.timesteps, "epsilon")
    latents = noise * scheduler.init_noise_sigma
    for timestep, scale in zip(scheduler.timesteps, scales, strict=True):
        predicted = predict(base, latents.detach(), timestep, text, empty, GUIDANCE)
        predicted.register_hook(lambda gradient, scale=scale: gradient * scale)
        latents = scheduler.step(predicted, timestep, latents, return_dict=False)[0]
    loss(latents).backward()
    return text.tokens.grad


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_the_gradient_is_that_of_one_graph_over_all_steps(base, rows):
    expected_text = literal(base, learns_text=True)
    expected = gradients(base)
    for parameter in lora_parameters(base.denoiser, "debias"):
        parameter.grad = None
    noise, text, empty, loss = setting(base)
    text.tokens.requires_grad_()
    made = roll_out(base, base.family.solver(base), noise, STEPS, text, empty, GUIDANCE, rows)
    loss(made.latents).backward()
    assert gradients(base)[0] is None
    made.backward(base, text, empty, GUIDANCE, range(STEPS), rows)
    assert any(gradient.abs().max() > 0 for gradient in expected)
    for found, wanted in zip(gradients(base), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(text.tokens.grad, expected_text, atol=1e-6, rtol=1e-3)


def test_steps_that_are_drawn_stand_for_all(base):
    """Over one step from each half, in all four combinations, the mean gradient is that of all steps."""
    noise, text, empty, loss = setting(base)

    def through(chosen):
        for parameter in lora_parameters(base.denoiser, "debias"):
            parameter.grad = None
        made = roll_out(base, base.family.solver(base), noise, STEPS, text, empty, GUIDANCE, 3)
        loss(made.latents).backward()
        made.backward(base, text, empty, GUIDANCE, chosen, 3)
        return torch.cat([gradient.flatten() for gradient in gradients(base)])

    mean = torch.stack([through([early, late]) for early in (0, 1) for late in (2, 3)]).mean(0)
    torch.testing.assert_close(mean, through(range(STEPS)), atol=1e-6, rtol=1e-3)


def test_each_sampling_step_is_drawn_equally_often():
    rng = np.random.default_rng(0)
    counts = np.bincount(np.concatenate([drawn_steps(rng, 21, 6) for _ in range(4000)]), minlength=21)
    assert np.allclose(counts / 4000, 6 / 21, atol=0.03)
    assert drawn_steps(rng, 5, 0) == drawn_steps(rng, 5, 9) == [0, 1, 2, 3, 4]


def test_the_scale_makes_every_step_count_alike():
    """√ᾱ √(1 − ᾱ) / (1 − α), over its geometric mean; in DDPM's sampler it undoes a prediction's weight."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)
    steps = torch.tensor([999, 750, 500, 250, 20])
    scales = gradient_scales(kept, steps, "epsilon")
    assert scales.double().log().mean().item() == pytest.approx(0, abs=1e-6)
    by_hand = [(kept[t] * (1 - kept[t])).sqrt() / betas[t] for t in steps]
    assert torch.allclose(scales / scales[0], torch.stack(by_hand).float() / by_hand[0].float(), rtol=1e-5)
    # x_{t−1} = (x_t − (1 − α_t)/√(1 − ᾱ_t) ε)/√α_t, and from there on only 1/√α: the weight of ε in x_0.
    weights = betas[steps] / (1 - kept[steps]).sqrt() / kept[steps].sqrt()
    assert torch.allclose(weights * scales, (weights * scales)[:1].expand(5), rtol=1e-4)


def test_a_last_step_of_noise_alone_teaches_nothing_and_spoils_nothing():
    kept = torch.cat([torch.linspace(0.999, 0.1, 999), torch.zeros(1)])
    scales = gradient_scales(kept, torch.tensor([999, 500]), "epsilon")
    assert scales.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("steps", [4, 19, 21, 23])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_every_step_of_the_solver_counts_about_alike_whatever_the_base_predicts(tiny_base, prediction, steps):
    """The early steps, which decide who is drawn, above all: no step has a tenth of another's weight."""
    base = load_base(tiny_base)
    base.scheduler.register_to_config(prediction_type=prediction)
    scheduler = base.family.solver(base)
    scheduler.set_timesteps(steps)
    latents, predictions = torch.zeros(1), []
    for timestep in scheduler.timesteps:
        predictions.append(torch.zeros(1, requires_grad=True))
        latents = scheduler.step(predictions[-1], timestep, latents, return_dict=False)[0]
    latents.sum().backward()
    weights = torch.cat([predicted.grad for predicted in predictions]).abs()
    counted = weights * gradient_scales(base.scheduler.alphas_cumprod, scheduler.timesteps, prediction)
    assert counted.min() > 0.1 * counted.max()
