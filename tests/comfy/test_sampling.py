"""What the nodes make of the embedded model, against diffusers and against the host's own nodes."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load as load_safetensors

from . import graphs
from .server import ADAPTER, EMBEDDED, PACK


def images(server, outputs):
    return np.stack([np.asarray(Image.open(io.BytesIO(server.view(file)))) for file in outputs["image"]["images"]])


def latents(server, outputs):
    (file,) = outputs["latent"]["latents"]
    return load_safetensors(server.view(file))["latent_tensor"]


@pytest.fixture(scope="module")
def sampled(server):
    """Graph -> (latents, images); the same graph is asked for once."""
    made = {}

    def run(graph):
        key = str(graph)
        if key not in made:
            outputs = server.run(graph)
            made[key] = latents(server, outputs), images(server, outputs)
        return made[key]

    return run


@pytest.fixture(scope="module")
def base():
    from comfyui_ddm.training.models.load_base import load_base

    return load_base(PACK / "examples" / "tiny_people")


def euler(base, noise, prompt, steps, cfg):
    """Euler's method on diffusers' U-Net, with the sigmas that the host calls `simple`: scaled latents."""
    sigmas = ((1 - base.scheduler.alphas_cumprod) / base.scheduler.alphas_cumprod) ** 0.5
    times = [999 - int(step * 1000 / steps) for step in range(steps)]
    schedule = [*sigmas[times].tolist(), 0.0]
    text = base.encode_text([""] * len(noise) + [prompt] * len(noise)).tokens
    x = noise * (1 + schedule[0] ** 2) ** 0.5
    for time, sigma, after in zip(times, schedule[:-1], schedule[1:], strict=True):
        scaled = torch.cat([x, x]) / (1 + sigma**2) ** 0.5
        with torch.no_grad():
            without, told = base.denoiser(scaled, time, text, return_dict=False)[0].chunk(2)
        x = x + (after - sigma) * (without + cfg * (told - without))
    return x


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_images_are_those_of_diffusers(sampled, base, alpha):
    from comfyui_ddm.debias.adapter.lora_file import load_adapter
    from comfyui_ddm.training.models.lora import load_lora_into, lora_names, set_alpha

    graph = graphs.load() | graphs.adapter(alpha) | graphs.sample("adapter", steps=8, seed=7, batch=2)
    latent, image = sampled(graph)
    if not lora_names(base.denoiser):
        load_lora_into(base.denoiser, load_adapter(PACK / "examples" / "adapters" / ADAPTER), "debias")
    set_alpha(base.denoiser, "debias", alpha)
    noise = torch.randn((2, 4, 8, 8), generator=torch.manual_seed(7))
    expected = euler(base, noise, graphs.PROMPT, steps=8, cfg=3.0)
    assert (latent * base.vae.config.scaling_factor - expected).abs().max() < 1e-3
    # The host cuts where diffusers rounds, so half a level is expected.
    difference = np.abs(image.astype(float) - base.decode(expected).astype(float))
    assert difference.mean() < 1.0
    assert difference.max() <= 2


def test_at_alpha_0_the_model_is_as_it_was_bit_for_bit(sampled):
    without = sampled(graphs.load() | graphs.sample())
    nothing = sampled(graphs.load() | graphs.adapter(0.0) | graphs.sample("adapter"))
    assert torch.equal(nothing[0], without[0])
    assert np.array_equal(nothing[1], without[1])


def test_the_adapter_changes_the_images(sampled):
    without = sampled(graphs.load() | graphs.sample())
    full = sampled(graphs.load() | graphs.adapter(1.0) | graphs.sample("adapter"))
    assert np.abs(full[1].astype(float) - without[1]).mean() > 1


@pytest.mark.parametrize("alpha", [-0.5, 0.3, 1.0, 1.5])
def test_the_adapter_does_exactly_what_the_stock_loader_does(sampled, alpha):
    stock = sampled(graphs.load() | graphs.stock_lora(alpha) | graphs.sample("lora"))
    ours = sampled(graphs.load() | graphs.adapter(alpha, clip=True) | graphs.sample("adapter"))
    assert torch.equal(ours[0], stock[0])


def test_the_stock_loader_knows_every_key_of_the_adapter(server):
    before = len(server.log())
    server.run(graphs.load() | graphs.stock_lora(0.77) | graphs.sample("lora", steps=1))
    said = server.log()[before:].lower()
    assert "not loaded" not in said
    assert "missing" not in said and "unexpected" not in said


def test_the_text_half_of_an_adapter_acts_as_in_our_sampler(server, sampled):
    from comfyui_ddm.debias.adapter.lora_file import save_adapter
    from comfyui_ddm.training.models.load_base import load_base
    from comfyui_ddm.training.models.lora import TEXT_TARGETS, add_lora, export_lora, lora_parameters

    base = load_base(PACK / "examples" / "tiny_people")
    add_lora(base.text_encoder, "debias", 2, TEXT_TARGETS)
    generator = torch.manual_seed(0)
    with torch.no_grad():
        for matrix in lora_parameters(base.text_encoder, "debias"):
            matrix.copy_(torch.randn(matrix.shape, generator=generator) * 0.3)
    save_adapter(
        server.base / "models" / "loras" / "text.safetensors", export_lora(base.text_encoder, "debias", "text_encoder")
    )
    load = graphs.load() | graphs.stock_lora(1.0, "text.safetensors")
    graph = load | graphs.sample("lora", steps=8, seed=7, batch=2)
    for node in ("yes", "no"):
        graph[node]["inputs"]["clip"] = ["lora", 1]
    latent, _ = sampled(graph)
    noise = torch.randn((2, 4, 8, 8), generator=torch.manual_seed(7))
    expected = euler(base, noise, graphs.PROMPT, steps=8, cfg=3.0)
    assert (latent * base.vae.config.scaling_factor - expected).abs().max() < 1e-3
    assert (latent - sampled(graphs.load() | graphs.sample(steps=8, seed=7, batch=2))[0]).abs().max() > 0.1


def test_soft_tokens_are_said_by_the_hosts_own_embedding_word(server, sampled):
    from comfyui_ddm.debias.adapter.lora_file import AdapterCard
    from comfyui_ddm.training.models.load_base import load_base
    from comfyui_ddm.training.models.soft_tokens import SoftTokens
    from comfyui_ddm.training.models.text import Text

    base = load_base(PACK / "examples" / "tiny_people")
    soft = SoftTokens.from_vocabulary(base, 5, seed=0)
    soft.save(server.base / "models" / "embeddings" / "fair.safetensors", AdapterCard())
    graph = graphs.load() | graphs.sample(steps=8, seed=7, batch=2, prompt="embedding:fair " + graphs.PROMPT)
    latent, _ = sampled(graph)
    noise = torch.randn((2, 4, 8, 8), generator=torch.manual_seed(7))
    encode = base.encode_text
    base.encode_text = lambda prompts: Text.cat([encode(prompts[:2]), encode(prompts[2:], soft)])
    expected = euler(base, noise, graphs.PROMPT, steps=8, cfg=3.0)
    assert (latent * base.vae.config.scaling_factor - expected).abs().max() < 1e-3
    assert (latent - sampled(graphs.load() | graphs.sample(steps=8, seed=7, batch=2))[0]).abs().max() > 0.1


def test_the_recommended_strength_comes_from_the_card(server, sampled):
    graph = graphs.load() | graphs.adapter(0.2, strength_from="recommended") | graphs.sample("adapter")
    panel = server.run(graph)["adapter"]["ddm_panel"][0]
    same = graphs.load() | graphs.adapter(panel["recommended_alpha"]) | graphs.sample("adapter")
    assert panel["alpha"] == panel["recommended_alpha"]
    assert torch.equal(sampled(graph)[0], sampled(same)[0])


# Schedules


def test_a_constant_schedule_is_the_loader_and_a_constant_0_the_base(sampled):
    loader = sampled(graphs.load() | graphs.adapter(1.0) | graphs.sample("adapter"))
    base = sampled(graphs.load() | graphs.sample())
    assert torch.equal(sampled(graphs.scheduled("constant", alpha=1.0))[0], loader[0])
    assert torch.equal(sampled(graphs.scheduled("constant", alpha=0.0))[0], base[0])


def test_early_acts_before_the_switch_and_late_after_it(sampled):
    base = sampled(graphs.load() | graphs.sample())[0]
    full = sampled(graphs.load() | graphs.adapter(1.0) | graphs.sample("adapter"))[0]
    early = sampled(graphs.scheduled("early", alpha=1.0, end=0.0))[0]
    late = sampled(graphs.scheduled("early", alpha=0.0, end=1.0))[0]
    for one in (early, late):
        assert not torch.equal(one, base)
        assert not torch.equal(one, full)
    assert torch.equal(sampled(graphs.scheduled("early", alpha=1.0, end=0.0, switch=1.0))[0], full)
    assert torch.equal(sampled(graphs.scheduled("early", alpha=0.0, end=1.0, switch=0.0))[0], full)


def test_only_the_steps_after_the_switch_differ(server, sampled):
    """With 8 steps of the `simple` schedule, step k lies at k/8: what stops before the switch has seen no change."""

    def stopped(graph, last):
        inputs = graph["sampler"]["inputs"]
        advanced = {key: value for key, value in inputs.items() if key not in ("seed", "denoise")}
        advanced |= {"noise_seed": inputs["seed"], "add_noise": "enable", "start_at_step": 0, "end_at_step": last}
        advanced |= {"return_with_leftover_noise": "enable"}
        return graph | {"sampler": {"class_type": "KSamplerAdvanced", "inputs": advanced}}

    full = graphs.load() | graphs.adapter(1.0) | graphs.sample("adapter")
    early = graphs.scheduled("early", alpha=1.0, end=0.0, switch=0.5)
    assert torch.equal(sampled(stopped(early, 4))[0], sampled(stopped(full, 4))[0])
    assert not torch.equal(sampled(stopped(early, 6))[0], sampled(stopped(full, 6))[0])


def test_custom_points_are_the_other_shapes_in_words(sampled):
    for points, shape, values in (
        ("0:1", "constant", {"alpha": 1.0}),
        ("0:.2, 1:1.2", "ramp", {"alpha": 0.2, "end": 1.2}),
        ("0:1, .5:1, .5:0", "early", {"alpha": 1.0, "end": 0.0}),
    ):
        words = sampled(graphs.scheduled("custom", points=points))
        assert torch.equal(words[0], sampled(graphs.scheduled(shape, **values))[0]), points


def test_a_schedule_draws_its_curve_in_the_panel(server):
    graph = graphs.load() | graphs.schedule("early", alpha=0.8, end=0.1, switch=0.25, model=["base", 0])
    graph |= graphs.sample(positive=("schedule", 0), negative=("schedule", 1))
    panel = server.run(graph)["schedule"]["ddm_panel"][0]
    assert panel["kind"] == "schedule"
    assert [(one["position"], one["alpha"]) for one in panel["schedule"]] == [
        (0.0, 0.8),
        (0.25, 0.8),
        (0.25, 0.1),
        (1.0, 0.1),
    ]


# Cards


def test_the_embedded_model_is_recognised_as_the_one_that_the_adapter_was_trained_on(server):
    outputs = server.run(graphs.load() | graphs.adapter(0.9) | graphs.sample("adapter"))["adapter"]
    (panel,) = outputs["ddm_panel"]
    assert panel["kind"] == "card"
    assert panel["verdict"]["text"] == "Trained on this base."
    assert "another base" not in outputs["text"][0]


def test_the_lists_show_what_comes_with_the_pack(server):
    assert server.options("DDMLoadWeights", "weights")[0] == EMBEDDED
    for node, name in (("DDMLoadAdapter", "adapter"), ("LoraLoader", "lora_name")):
        assert ADAPTER in server.options(node, name)
