"""The sampler: deterministic, the same noise for the same seed, and cancellable."""

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.models.base import Base
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.models.lora import TEXT_TARGETS, add_lora, lora_parameters
from comfyui_ddm.training.sampling.generate import generate, generate_batches

PROMPTS = ["a firefighter", "a doctor", "a firefighter"]
SEEDS = [3, 4, 5]


@pytest.fixture(scope="module")
def plain(tiny_base):
    return load_base(tiny_base)


@pytest.fixture(scope="module")
def adapted(tiny_base):
    base = load_base(tiny_base)
    for name in ("style", "debias"):
        add_lora(base.denoiser, name, 2)
        random = torch.Generator().manual_seed(len(name))
        with torch.no_grad():
            for parameter in lora_parameters(base.denoiser, name):
                parameter.add_(torch.randn(parameter.shape, generator=random) * 0.3)
    return base


def latents(base, prompts=PROMPTS, seeds=SEEDS, **options) -> torch.Tensor:
    return torch.cat([batch.latents for batch in generate_batches(base, prompts, seeds, steps=3, **options)])


def test_images_have_the_models_size_and_are_the_same_every_time(plain):
    images = generate(plain, PROMPTS, SEEDS, steps=2)
    assert images.shape == (3, 64, 64, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images, generate(plain, PROMPTS, SEEDS, steps=2))
    assert not np.array_equal(images[0], images[2])


def test_an_image_does_not_depend_on_its_batch(plain):
    together = latents(plain)
    for batch_size in (1, 2):
        torch.testing.assert_close(latents(plain, batch_size=batch_size), together, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(latents(plain, PROMPTS[1:2], SEEDS[1:2]), together[1:2], atol=1e-4, rtol=1e-4)


def test_out_of_memory_makes_fewer_images_at_a_time_and_they_stay_the_same(plain, monkeypatch):
    together, run_denoiser, told = latents(plain), Base.run_denoiser, []

    def only_one(self, noisy, t, text):
        if len(noisy) > 2:  # with guidance, an image is two rows
            raise torch.OutOfMemoryError("no room")
        return run_denoiser(self, noisy, t, text)

    monkeypatch.setattr(Base, "run_denoiser", only_one)
    found = latents(plain, progress=lambda *figures: told.append(figures))
    torch.testing.assert_close(found, together, atol=1e-4, rtol=1e-4)
    assert told == [(done, 9) for done in range(1, 10)]


def test_batches_come_one_by_one(plain):
    starts = [
        (batch.start, len(batch.images)) for batch in generate_batches(plain, PROMPTS, SEEDS, steps=1, batch_size=2)
    ]
    assert starts == [(0, 2), (2, 1)]


def test_the_strength_is_also_that_of_the_text_encoder(plain, tiny_base):
    base = load_base(tiny_base)
    add_lora(base.text_encoder, "debias", 2, TEXT_TARGETS)
    with torch.no_grad():
        for parameter in lora_parameters(base.text_encoder, "debias"):
            parameter.add_(0.3)
    assert torch.equal(latents(base, alpha=0.0), latents(plain))
    half, full = latents(base, alpha=0.5), latents(base, alpha=1.0)
    assert not torch.equal(half, latents(plain)) and not torch.equal(half, full)
    mixed = latents(base, alpha=[0.0, 0.5, 1.0])
    for row, alone in enumerate((latents(plain), half, full)):
        torch.testing.assert_close(mixed[row], alone[row], atol=1e-4, rtol=1e-4)


def test_guidance_of_1_is_the_conditional_model_alone(plain):
    calls = []
    hook = plain.denoiser.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    alone = latents(plain, guidance_scale=1.0)
    latents(plain, guidance_scale=2.0)
    hook.remove()
    assert calls == [3, 3, 3, 6, 6, 6]
    torch.testing.assert_close(latents(plain, guidance_scale=1.0 + 1e-7), alone, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(latents(plain, guidance_scale=1.0, negative="a man"), latents(plain, negative="a man"))


def test_alpha_0_is_the_model_without_the_adapter_bit_for_bit(plain, tiny_base):
    base = load_base(tiny_base)
    add_lora(base.denoiser, "debias", 2)
    with torch.no_grad():
        for parameter in lora_parameters(base.denoiser, "debias"):
            parameter.add_(0.3)
    assert torch.equal(latents(base, alpha=0.0), latents(plain))
    assert not torch.equal(latents(base, alpha=1.0), latents(plain))


def test_alpha_can_differ_between_images_and_is_put_back(adapted):
    mixed = latents(adapted, alpha=[0.0, 0.5, 1.0], batch_size=2)
    for row, alpha in enumerate([0.0, 0.5, 1.0]):
        torch.testing.assert_close(mixed[row], latents(adapted, alpha=alpha)[row], atol=1e-4, rtol=1e-4)
    assert adapted.denoiser.lora_strengths["debias"].alpha == 1.0
    assert adapted.denoiser.lora_strengths["style"].alpha == 1.0


def test_another_scheduler_and_size_can_be_given(plain):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(plain.scheduler.config)
    assert latents(plain, scheduler=scheduler, resolution=32).shape == (3, 4, 4, 4)
    assert torch.equal(latents(plain, scheduler=scheduler), latents(plain, scheduler=scheduler))


def test_many_steps_of_two_solvers_meet(plain):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(plain.scheduler.config, timestep_spacing="linspace", set_alpha_to_one=True)
    one, two = (
        next(generate_batches(plain, PROMPTS[:1], SEEDS[:1], steps=steps, scheduler=given)).latents
        for steps, given in ((60, None), (200, scheduler))
    )
    assert (one - two).norm() / two.norm() < 0.05


def test_bf16_is_close(plain):
    full, half = latents(plain), latents(plain, bf16=True)
    assert half.dtype == torch.float32
    assert (full - half).norm() / full.norm() < 0.05


def test_latents_can_be_trained_on(plain):
    assert not latents(plain).is_inference()


def test_progress_counts_steps_and_cancelling_keeps_whole_batches(plain):
    seen = []
    images = generate(
        plain,
        PROMPTS,
        SEEDS,
        steps=2,
        batch_size=1,
        progress=lambda done, total: seen.append((done, total)),
        cancelled=lambda: len(seen) == 3,
    )
    assert seen == [(1, 6), (2, 6), (3, 6)]
    assert len(images) == 1
    assert len(generate(plain, PROMPTS, SEEDS, cancelled=lambda: True)) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seeds": [1]}, "3 prompts for 1"), ({"steps": 0}, "0 sampling steps"), ({"resolution": 60}, "60")],
)
def test_settings_out_of_range_are_sentences(plain, options, message):
    with pytest.raises(DDMError, match=message):
        generate(plain, PROMPTS, **({"seeds": SEEDS} | options))


def test_images_that_are_not_finite_are_an_error_and_not_black(tiny_base):
    base = load_base(tiny_base, "cpu")
    with torch.no_grad():
        base.denoiser.conv_out.bias.fill_(float("nan"))
    with pytest.raises(DDMError, match="2 of 2 images came out as numbers that are not finite"):
        generate(base, ["a"] * 2, range(2), steps=2)
