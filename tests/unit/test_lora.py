"""LoRA on a U-Net: α per image, exact files, and the same effect in diffusers' own loader."""

from pathlib import Path

import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import Adapter, Lora, kohya_name, load_adapter, save_adapter
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.models.lora import (
    ATTENTION,
    TARGETS,
    TEXT_TARGETS,
    add_lora,
    at_alpha,
    base_shapes,
    export_lora,
    load_lora_into,
    lora_names,
    lora_parameters,
    scale_lora,
    set_alpha,
)
from peft.tuners.lora import LoraLayer


@pytest.fixture
def unet(tiny_base: Path):
    return load_base(tiny_base).denoiser


@pytest.fixture(scope="module")
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    return (
        torch.randn(4, 4, 8, 8, generator=random),
        torch.tensor([10, 400, 700, 990]),
        torch.randn(4, 77, 32, generator=random),
    )


def stir(unet, name: str, seed: int = 5) -> None:
    """Give a LoRA an effect, as training would."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in lora_parameters(unet, name):
            parameter.add_(torch.randn(parameter.shape, generator=random) * 0.1)


@torch.no_grad()
def run(unet, inputs) -> torch.Tensor:
    return unet(*inputs).sample


def test_a_new_lora_changes_nothing(unet, inputs):
    before = run(unet, inputs)
    add_lora(unet, "debias", 4)
    assert torch.equal(run(unet, inputs), before)


@pytest.mark.parametrize("alpha", [0.0, [0.0, 0.0], torch.zeros(4)])
def test_alpha_0_leaves_the_output_unchanged_bit_for_bit(unet, inputs, alpha):
    before = run(unet, inputs)
    add_lora(unet, "debias", 4)
    stir(unet, "debias")
    assert not torch.equal(run(unet, inputs), before)
    set_alpha(unet, "debias", alpha)
    assert torch.equal(run(unet, inputs), before)
    set_alpha(unet, "debias", 1.0)
    assert not torch.equal(run(unet, inputs), before)


def test_each_image_has_its_own_alpha(unet, inputs):
    before = run(unet, inputs)
    add_lora(unet, "debias", 4)
    stir(unet, "debias")
    alphas = [0.0, 0.5, 1.0, -1.0]
    set_alpha(unet, "debias", torch.tensor(alphas))
    mixed = run(unet, inputs)
    assert torch.equal(mixed[0], before[0])
    for row, alpha in enumerate(alphas):
        set_alpha(unet, "debias", alpha)
        torch.testing.assert_close(mixed[row], run(unet, inputs)[row], atol=1e-5, rtol=1e-5)


def test_guidance_repeats_the_images_alphas(unet, inputs):
    add_lora(unet, "debias", 4)
    stir(unet, "debias")
    set_alpha(unet, "debias", [0.0, 1.5, 0.0, 1.5])
    full = run(unet, inputs)
    set_alpha(unet, "debias", [0.0, 1.5])
    assert torch.equal(run(unet, inputs), full)
    set_alpha(unet, "debias", [0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match="3 strengths for a batch of 4"):
        run(unet, inputs)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_a_lora_is_added_to_a_layers_output_as_peft_adds_it(unet, inputs, order):
    add_lora(unet, "debias", 4)
    stir(unet, "debias")
    scale_lora(unet, "debias", 0.7)
    unet.to(memory_format=order)
    set_alpha(unet, "debias", [0.5, -1.0, 1.0, 0.0])
    layers = [layer for layer in unet.modules() if isinstance(layer, LoraLayer)]
    ours = run(unet, inputs)
    for layer in layers:
        getattr(layer, "lora_variant", {}).clear()  # older versions of peft have none
    assert layers and torch.allclose(ours, run(unet, inputs), atol=1e-4)


def test_strengths_are_put_back_and_those_of_a_sampler_take_gradients(unet, inputs):
    add_lora(unet, "debias", 4)
    stir(unet, "debias")
    with torch.inference_mode():  # as samplers set them
        set_alpha(unet, "debias", [0.0, 0.5, 1.0, 1.5])
    before = run(unet, inputs)
    with at_alpha(unet, "debias", torch.tensor([1.5, 1.0, 0.5, 0.0])):
        assert not torch.equal(run(unet, inputs), before)
    assert torch.equal(run(unet, inputs), before)
    unet(*inputs).sample.sum().backward()
    assert lora_parameters(unet, "debias")[0].grad.abs().sum() > 0


def test_two_loras_act_side_by_side(unet, inputs):
    add_lora(unet, "style", 2, seed=1)
    stir(unet, "style")
    alone = run(unet, inputs)
    add_lora(unet, "debias", 4, seed=2)
    stir(unet, "debias")
    assert lora_names(unet) == ["style", "debias"]
    both = run(unet, inputs)
    set_alpha(unet, "debias", 0.0)
    assert torch.equal(run(unet, inputs), alone)
    set_alpha(unet, "debias", 1.0)
    assert torch.equal(run(unet, inputs), both)


def test_on_a_base_of_half_precision_it_stays_in_full_precision_and_acts_and_learns_alike(tiny_base, inputs):
    effects, gradients = [], []
    for dtype in (torch.float32, torch.bfloat16):
        base = load_base(tiny_base, dtype=dtype)
        latents, t, text = inputs[0].to(dtype), inputs[1], inputs[2].to(dtype)
        plain = run(base.denoiser, (latents, t, text))
        add_lora(base.denoiser, "debias", 4)
        stir(base.denoiser, "debias")
        output = base.denoiser(latents, t, text).sample
        assert plain.dtype == output.dtype == dtype
        effects.append((output.detach() - plain).float())
        output.float().square().sum().backward()
        parameters = lora_parameters(base.denoiser, "debias")
        assert {parameter.dtype for parameter in parameters} == {torch.float32}
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in parameters]))
    for full, half in (effects, gradients):
        assert torch.cosine_similarity(full.flatten(), half.flatten(), 0) > 0.99


def test_only_loras_are_trained_whatever_their_alpha(unet, inputs):
    add_lora(unet, "style", 2)
    add_lora(unet, "debias", 4)
    set_alpha(unet, "debias", 0.0)
    set_alpha(unet, "debias", 1.0)
    set_alpha(unet, "debias", 0.0)
    trained = [*lora_parameters(unet, "style"), *lora_parameters(unet, "debias")]
    assert all(parameter.requires_grad for parameter in trained)
    assert sum(parameter.requires_grad for parameter in unet.parameters()) == len(trained)
    set_alpha(unet, "debias", [0.5, 0.0, 1.0, 1.5])
    unet(*inputs).sample.square().mean().backward()
    assert all(parameter.grad is not None for parameter in trained)


def test_an_image_of_alpha_0_gives_no_gradient(unet, inputs):
    add_lora(unet, "debias", 4)
    set_alpha(unet, "debias", [0.0, 0.0, 0.0, 1.0])
    unet(*inputs).sample[:3].sum().backward()
    assert all(not parameter.grad.any() for parameter in lora_parameters(unet, "debias"))


def test_the_start_depends_on_the_seed_alone(tiny_base):
    starts = []
    for seed, noise in ((7, 1), (7, 2), (8, 1)):
        unet = load_base(tiny_base).denoiser
        torch.manual_seed(noise)
        state = torch.get_rng_state()
        add_lora(unet, "debias", 4, seed=seed)
        assert torch.equal(torch.get_rng_state(), state)
        starts.append(torch.cat([parameter.flatten() for parameter in lora_parameters(unet, "debias")]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_targets_choose_the_layers(unet):
    add_lora(unet, "few", 4, ATTENTION)
    assert {name.split(".")[-1] for name in export_lora(unet, "few")} == {"to_q", "to_k", "to_v", "0"}
    add_lora(unet, "all", 4, TARGETS)
    assert len(export_lora(unet, "all")) > 2 * len(export_lora(unet, "few"))
    with pytest.raises(DDMError, match="No layer"):
        add_lora(unet, "none", 4, ("to_z",))
    with pytest.raises(DDMError, match="already"):
        add_lora(unet, "few", 4)


def test_the_shapes_of_the_base_do_not_depend_on_loras(unet):
    before = base_shapes(unet)
    add_lora(unet, "debias", 4)
    assert base_shapes(unet) == before
    assert before["conv_in"] == (32, 4, 3, 3)


def test_a_file_saved_and_loaded_gives_the_same_output_exactly(unet, inputs, tiny_base, tmp_path):
    add_lora(unet, "debias", 4)
    stir(unet, "debias")
    save_adapter(tmp_path / "a.safetensors", export_lora(unet, "debias"))
    other = load_base(tiny_base).denoiser
    assert load_lora_into(other, load_adapter(tmp_path / "a.safetensors"), "debias") is None
    for alpha in (1.0, 0.3, [0.0, 1.0]):
        for model in (unet, other):
            set_alpha(model, "debias", alpha)
        assert torch.equal(run(other, inputs), run(unet, inputs))
    assert not any(parameter.requires_grad for parameter in other.parameters())
    save_adapter(tmp_path / "b.safetensors", export_lora(other, "debias"))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_ranks_and_scales_of_a_foreign_lora_are_kept(unet, inputs):
    first, second = "mid_block.resnets.0.conv1", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    random = torch.Generator().manual_seed(0)
    loras = {
        first: Lora(torch.randn(3, 32, 3, 3, generator=random), torch.randn(32, 3, 1, 1, generator=random), 1.5),
        second: Lora(torch.randn(5, 32, generator=random), torch.randn(32, 5, generator=random), 10.0),
    }
    load_lora_into(unet, Adapter({kohya_name(name): lora for name, lora in loras.items()}), "style")
    assert {name: (lora.rank, lora.alpha) for name, lora in export_lora(unet, "style").items()} == {
        first: (3, 1.5),
        second: (5, 10.0),
    }
    got = run(unet, inputs)
    set_alpha(unet, "style", 0.0)
    with torch.no_grad():
        for name, (down, up, alpha) in loras.items():
            weight = unet.get_submodule(name).base_layer.weight
            weight += alpha / len(down) * (up.flatten(1) @ down.flatten(1)).view_as(weight)
    torch.testing.assert_close(run(unet, inputs), got, atol=1e-4, rtol=1e-4)


def test_the_file_has_the_same_effect_in_diffusers_own_loader(unet, inputs, tiny_base, tmp_path):
    from diffusers import StableDiffusionPipeline

    add_lora(unet, "debias", 4)
    stir(unet, "debias")
    save_adapter(tmp_path / "a.safetensors", export_lora(unet, "debias"))
    base = load_base(tiny_base)
    pipeline = StableDiffusionPipeline(
        base.vae,
        base.text_encoder,
        base.tokenizer,
        base.denoiser,
        base.scheduler,
        None,
        None,
        requires_safety_checker=False,
    )
    pipeline.load_lora_weights(str(tmp_path), weight_name="a.safetensors", adapter_name="fair")
    for alpha in (1.0, 0.5, -1.0):
        pipeline.set_adapters("fair", alpha)
        set_alpha(unet, "debias", alpha)
        torch.testing.assert_close(run(pipeline.unet, inputs), run(unet, inputs), atol=1e-5, rtol=1e-5)


def encode(model, alpha: float) -> torch.Tensor:
    set_alpha(model, "debias", alpha)
    with torch.no_grad():
        return model(torch.tensor([[188, 64, 65, 189]])).last_hidden_state


def test_a_lora_on_the_text_encoder_is_saved_and_loaded_beside_that_on_the_unet(tiny_base, inputs, tmp_path):
    base, other = load_base(tiny_base), load_base(tiny_base)
    add_lora(base.denoiser, "debias", 2)
    add_lora(base.text_encoder, "debias", 4, TEXT_TARGETS)
    stir(base.denoiser, "debias")
    stir(base.text_encoder, "debias", seed=6)
    both = export_lora(base.denoiser, "debias") | export_lora(base.text_encoder, "debias", "text_encoder")
    save_adapter(tmp_path / "a.safetensors", both)
    adapter = load_adapter(tmp_path / "a.safetensors")
    assert load_lora_into(other.denoiser, adapter, "debias", text_encoders=other.text_encoders) is None
    assert torch.equal(run(other.denoiser, inputs), run(base.denoiser, inputs))
    for alpha in (1.0, 0.3, 0.0):
        assert torch.equal(encode(other.text_encoder, alpha), encode(base.text_encoder, alpha))
    plain = load_base(tiny_base).text_encoder
    add_lora(plain, "debias", 1, TEXT_TARGETS)
    assert torch.equal(encode(other.text_encoder, 0.0), encode(plain, 1.0))
    assert not torch.equal(encode(other.text_encoder, 1.0), encode(plain, 1.0))


def test_a_lora_may_change_the_text_encoder_alone(tiny_base, tmp_path):
    base = load_base(tiny_base)
    add_lora(base.text_encoder, "debias", 4, TEXT_TARGETS)
    save_adapter(tmp_path / "a.safetensors", export_lora(base.text_encoder, "debias", "text_encoder"))
    other = load_base(tiny_base)
    load_lora_into(
        other.denoiser, load_adapter(tmp_path / "a.safetensors"), "debias", text_encoders=other.text_encoders
    )
    assert (lora_names(other.denoiser), lora_names(other.text_encoder)) == ([], ["debias"])


def test_an_adapter_of_another_base_is_refused(unet):
    layer = Lora(torch.ones(2, 99), torch.ones(32, 2), 2.0)
    with pytest.raises(DDMError, match="another base"):
        load_lora_into(unet, Adapter({kohya_name("mid_block.resnets.0.time_emb_proj"): layer}), "debias")


@pytest.mark.parametrize("kernel", [(), (1, 1)])
def test_a_convolution_of_one_by_one_is_changed_alike_by_a_file_that_takes_it_for_a_linear_layer(unet, inputs, kernel):
    name = "mid_block.attentions.0.proj_in"
    assert base_shapes(unet)[name] == (32, 32, 1, 1)
    random = torch.Generator().manual_seed(0)
    down, up = torch.randn(3, 32, generator=random), torch.randn(32, 3, generator=random)
    file = Adapter({kohya_name(name): Lora(down.view(3, 32, *kernel), up.view(32, 3, *kernel), 3.0)})
    load_lora_into(unet, file, "style")
    got = run(unet, inputs)
    set_alpha(unet, "style", 0.0)
    with torch.no_grad():
        weight = unet.get_submodule(name).base_layer.weight
        weight += (up @ down).view_as(weight)
    torch.testing.assert_close(run(unet, inputs), got, atol=1e-4, rtol=1e-4)


def test_text_encoder_layers_are_left_out_and_said(unet):
    text = {"lora_te_text_model_encoder_layers_0_mlp_fc1": Lora(torch.ones(2, 32), torch.ones(64, 2), 2.0)}
    with pytest.raises(DDMError, match="no layer of the U-Net"):
        load_lora_into(unet, Adapter(text), "style")
    layer = {kohya_name("mid_block.resnets.0.time_emb_proj"): Lora(torch.ones(2, 128), torch.ones(32, 2), 2.0)}
    assert "text encoder" in load_lora_into(unet, Adapter(text | layer), "style")
