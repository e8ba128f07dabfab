"""Every family trains, samples and is audited like the embedded model, and its adapters work in diffusers."""

import ast
import json

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import AdapterCard, Lora, load_adapter, save_adapter
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.methods.distribution_guidance import Guidance
from comfyui_ddm.debias.probes.probe import Probe
from comfyui_ddm.debias.probes.probe_network import ProbeNetwork
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.data.dataset import folder_set
from comfyui_ddm.training.data.read_folder import read_folder
from comfyui_ddm.training.data.text_cache import encoders_hash
from comfyui_ddm.training.loop.settings import TrainSettings
from comfyui_ddm.training.loop.training import Training
from comfyui_ddm.training.models import ldm_checkpoint
from comfyui_ddm.training.models.base import Base
from comfyui_ddm.training.models.diffusers_folder import check_folder, read_config, tokenizer_of
from comfyui_ddm.training.models.family import FAMILIES, families, named_family
from comfyui_ddm.training.models.flow import PackedFlowFamily, pack
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.models.lora import (
    TEXT_TARGETS,
    add_lora,
    export_lora,
    load_lora_into,
    lora_parameters,
    set_alpha,
)
from comfyui_ddm.training.objectives.alignment import Alignment, AlignmentSettings
from comfyui_ddm.training.objectives.calibration import Sampling
from comfyui_ddm.training.objectives.ddm_run import Run
from comfyui_ddm.training.objectives.h_space_classifier import make_head
from comfyui_ddm.training.sampling import generate as generate_module
from comfyui_ddm.training.sampling.generate import generate, noise_of
from comfyui_ddm.training.sampling.guidance import SamplingGuidance
from safetensors import safe_open
from safetensors.torch import save_file
from typer.testing import CliRunner

from .checkpoints import ldm_tensors, make_folder, make_models, tiny_configuration
from .runs import write_folder
from .transformers import MAKERS, NAMES, full_size_layers, make_flow, make_sd3

KINDS = {
    "sd1": "epsilon",
    "sd1-v": "v_prediction",
    "sd2-v": "v_prediction",
    "sdxl": "epsilon",
    "sdxl-v": "v_prediction",
}
# Flow-matching transformers.
FLOWS = list(MAKERS)
EXACT = {"atol": 0, "rtol": 0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for each family and prediction; those with a U-Net are also checkpoints."""
    root = tmp_path_factory.mktemp("families")
    with torch.random.fork_rng():
        for kind, prediction in KINDS.items():
            torch.manual_seed(2)
            family = kind.removesuffix("-v")
            config = tiny_configuration(family, prediction)
            models = make_models(config)
            make_folder(root / kind, config, models)
            (root / f"{family}.json").write_text(json.dumps(config))
            told = {"v_pred": torch.zeros(1), "ztsnr": torch.zeros(1)} if kind.endswith("-v") else {}
            tensors = ldm_tensors(family, models) | told
            save_file({key: value.clone().contiguous() for key, value in tensors.items()}, root / f"{kind}.safetensors")
    for kind in FLOWS:
        make_flow(root / kind, kind)
    write_folder(root / "images")
    return root


def answer(base, seed=0):
    noisy = torch.randn(2, base.latent_channels, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return base.denoise(noisy, torch.tensor([300, 800]), base.encode_text(["a doctor", "a judge"]))


@pytest.fixture
def full_precision(monkeypatch):
    """Let bases answer in float32 on every processor: what rounds less, or elsewhere, is as right in bfloat16."""
    monkeypatch.setattr(Base, "half_is_native", False)


def with_random_lora(base):
    add_lora(base.denoiser, "debias", 2, base.family.targets)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for matrix in lora_parameters(base.denoiser, "debias"):
            matrix.copy_(torch.randn(matrix.shape, generator=generator) * 0.1)
    return base


@pytest.mark.parametrize("kind", [*(kind for kind in KINDS if kind != "sd1"), *FLOWS])
def test_a_run_trains_every_family_and_the_file_says_which(folders, tmp_path, kind, monkeypatch):
    if kind in FLOWS:  # whose file has the scale in its matrices, where it is rounded
        monkeypatch.setattr(Base, "half_is_native", False)
    base = load_base(folders / kind)
    settings = TrainSettings(steps=3, batch_size=4, rank=2, keep=0.5, calibrate=8 if kind in ("sdxl-v", *FLOWS) else 0)
    images = folder_set(base, read_folder(folders / "images"))
    run = Run(base, images, tmp_path / "fair.safetensors", groups="labels:gender", settings=settings)
    assert run.train()
    assert torch.isfinite(run.training.loss)
    adapter = load_adapter(tmp_path / "fair.safetensors")
    assert (adapter.card.architecture, adapter.card.prediction) == (base.architecture, base.prediction)
    assert adapter.card.base_hash == base.hash
    fresh = load_base(folders / kind)
    before = answer(fresh)
    assert load_lora_into(fresh.denoiser, adapter, "debias", fresh.hash) is None
    set_alpha(base.denoiser, "debias", 1.0)
    torch.testing.assert_close(
        answer(fresh), answer(base), **({"atol": 1e-5, "rtol": 1e-5} if kind in FLOWS else EXACT)
    )
    assert not torch.equal(answer(fresh), before)
    set_alpha(fresh.denoiser, "debias", 0.0)
    assert torch.equal(answer(fresh), before)
    save_adapter(tmp_path / "again.safetensors", export_lora(fresh.denoiser, "debias"), adapter.card)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "fair.safetensors").read_bytes()


def perfect(base, goal):
    """A stand-in for `Base.run_denoiser` that answers rightly for a set of nothing but `goal` [1, C, 8, 8]."""

    def run_denoiser(noisy, t, text):
        t = t.expand(len(noisy)) if t.ndim == 0 else t
        signal, spread = (torch.tensor(rate).view(-1, 1, 1, 1) for rate in zip(*map(base.rates, t), strict=True))
        return base.target(goal, (noisy - signal * goal) / spread, t)

    return run_denoiser


def goal(base):
    """A latent of several values."""
    return torch.linspace(-1, 1, base.latent_channels).view(1, -1, 1, 1).expand(1, -1, 8, 8)


@pytest.mark.parametrize("kind", ["sd1", "sd1-v", *FLOWS])
def test_a_model_that_answers_rightly_has_nothing_to_learn(folders, tmp_path, kind):
    base = load_base(folders / kind)
    images = folder_set(base, read_folder(folders / "images"))
    for mean, deviation in images.latents.rows:
        mean.copy_(goal(base)[0]), deviation.zero_()
    settings = TrainSettings(steps=1, batch_size=16, keep=0.0, rank=1)
    run = Run(base, images, tmp_path / "fair.safetensors", groups="labels:gender", settings=settings)
    right = perfect(base, goal(base))
    base.run_denoiser = lambda *given: right(*given) + 0 * sum(part.sum() for part in run.training.parameters)
    run.training.advance()
    assert run.training.loss < 1e-6


@pytest.mark.parametrize("kind", ["sd1-v", "sdxl", *FLOWS])
def test_sampling_follows_the_prediction(folders, kind):
    """A denoiser that answers rightly for one image leads there from any noise."""
    base = load_base(folders / kind)
    base.run_denoiser = perfect(base, goal(base))
    images = generate(base, ["a doctor", "a judge"], [1, 2], steps=8)
    assert np.abs(images.astype(int) - base.decode(goal(base)).astype(int)).max() <= 1


@pytest.mark.parametrize("kind", ["sd2-v", "sdxl", *FLOWS])
def test_a_base_in_half_precision_makes_nearly_the_same_images(folders, kind):
    def draw(dtype):
        base = load_base(folders / kind, dtype=dtype)
        assert base.encode_text(["a doctor"]).tokens.dtype == dtype
        return generate(base, ["a doctor"], [1], steps=2).astype(int)

    assert np.abs(draw(torch.bfloat16) - draw(torch.float32)).mean() < 4


def test_sdxl_is_told_the_images_size(folders):
    base = load_base(folders / "sdxl")
    seen = []
    base.denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["added_cond_kwargs"]), with_kwargs=True
    )
    text = base.encode_text(["a doctor"] * 3)
    base.denoise(torch.zeros(3, 4, 8, 6), torch.tensor([5, 6, 7]), text)
    assert seen[0]["time_ids"].tolist() == [[64, 48, 0, 0, 64, 48]] * 3
    assert torch.equal(seen[0]["text_embeds"], text.pooled)


def test_sdxls_text_is_that_of_diffusers_pipeline(folders):
    base = load_base(folders / "sdxl")
    text = base.encode_text(["a doctor!", "a"])
    tokens, _, pooled, _ = pipeline(base).encode_prompt(
        ["a doctor!", "a"], device=torch.device("cpu"), do_classifier_free_guidance=False
    )
    assert torch.equal(text.tokens, tokens) and torch.equal(text.pooled, pooled)


def pipeline(base):
    """diffusers' own pipeline around a base."""
    from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

    if base.family.part == "transformer":
        absent = base.family.text_encoders.keys() - base.text_encoders.keys()
        parts = {name: None for text in absent for name in (text, tokenizer_of(text))} | base.text_encoders
        parts |= {"transformer": base.denoiser, "vae": base.vae, "scheduler": base.scheduler}
        return DiffusionPipeline.from_pretrained(base.path, **parts, local_files_only=True)

    parts = {"vae": base.vae, "text_encoder": base.text_encoder, "tokenizer": base.tokenizer, "unet": base.denoiser}
    if len(base.text_encoders) == 2:
        parts |= {"text_encoder_2": base.text_encoders["text_encoder_2"]}
        parts |= {"tokenizer_2": base.tokenizers["text_encoder_2"]}
        return StableDiffusionXLPipeline(**parts, scheduler=base.scheduler, add_watermarker=False)
    off = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**parts, scheduler=base.scheduler, **off)


@pytest.mark.parametrize("kind", ["sd2-v", "sdxl", *FLOWS])
def test_every_part_of_every_family_learns_through_its_own_sampling(folders, kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        probe = Probe(("man", "woman"), "gender", torch.nn.Linear(16, 2), ProbeNetwork(16))
    train = "unet" if kind in FLOWS else "both"
    settings = AlignmentSettings(train, batch_size=2, rank=2, sampling=2, through=2, confidence=0.0)
    base, targets = load_base(folders / kind), [Target.uniform(probe.names)]
    training = Training(Alignment(base, [probe], targets, [["a doctor"]], settings))
    for _ in range(2):
        training.advance()
    assert training.skipped == 0
    for model in training.objective.parts.values():
        # Half of a LoRA's matrices are 0 until it learns. SDXL leaves out the last layer of its first text encoder.
        matrices = lora_parameters(model, "debias")
        assert sum(bool(matrix.any()) for matrix in matrices) > 0.7 * len(matrices)


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("kind", ["sd1", "sd2-v", "sdxl", *FLOWS])
@pytest.mark.parametrize("alpha", [1.0, 0.5])
def test_an_adapter_has_the_same_effect_in_diffusers(folders, tmp_path, kind, alpha):
    ours = with_random_lora(load_base(folders / kind))
    path = tmp_path / "fair.safetensors"
    save_adapter(path, export_lora(ours.denoiser, "debias"), AdapterCard(architecture=ours.architecture))
    with safe_open(path, framework="pt") as file:
        assert any("input_blocks" in key for key in file.keys()) == (kind == "sdxl")  # noqa: SIM118
        assert all(key.startswith("transformer.") for key in file.keys()) == (kind in FLOWS)  # noqa: SIM118
    set_alpha(ours.denoiser, "debias", alpha)
    theirs = load_base(folders / kind)
    plain, pipe = answer(theirs), pipeline(theirs)
    pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="fair", local_files_only=True)
    pipe.set_adapters("fair", alpha)
    found = answer(theirs)
    assert (found - plain).abs().mean() > 1e-4
    assert torch.allclose(found, answer(ours), atol=1e-5)


@pytest.mark.parametrize("kind", FLOWS)
def test_diffusers_loader_takes_every_key_of_a_full_size_adapter(folders, tmp_path, kind):
    import diffusers

    layers = full_size_layers(named_family(kind))
    lora = {name: Lora(torch.zeros(1, shape[1]), torch.zeros(shape[0], 1), 1.0) for name, shape in layers.items()}
    save_adapter(tmp_path / "a.safetensors", lora, AdapterCard(architecture="of a transformer/lora"))
    index = json.loads((folders / kind / "model_index.json").read_text())
    taken = getattr(diffusers, index["_class_name"]).lora_state_dict(tmp_path, weight_name="a.safetensors")
    taken = {key: list(value.shape) for key, value in (taken[0] if isinstance(taken, tuple) else taken).items()}
    wanted = {f"transformer.{name}.lora_A.weight": [1, shape[1]] for name, shape in layers.items()}
    wanted |= {f"transformer.{name}.lora_B.weight": [shape[0], 1] for name, shape in layers.items()}
    assert len(layers) >= 100 and taken == wanted


@pytest.mark.parametrize("kind", ["sd1", "sd2-v", "sdxl"])
def test_its_text_half_has_the_same_effect_in_diffusers(folders, tmp_path, kind):
    ours, theirs = load_base(folders / kind), load_base(folders / kind)
    for number, encoder in enumerate(ours.text_encoders.values()):
        add_lora(encoder, "debias", 2, TEXT_TARGETS)
        generator = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for matrix in lora_parameters(encoder, "debias"):
                matrix.copy_(torch.randn(matrix.shape, generator=generator) * 0.3)
    layers = {
        name: lora
        for part, encoder in ours.text_encoders.items()
        for name, lora in export_lora(encoder, "debias", part).items()
    }
    path = tmp_path / "fair.safetensors"
    save_adapter(path, layers, AdapterCard(architecture=ours.architecture))
    plain, pipe = theirs.encode_text(["a doctor"]), pipeline(theirs)
    pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="fair", local_files_only=True)
    for alpha in (1.0, 0.5):
        pipe.set_adapters("fair", alpha)
        for encoder in ours.text_encoders.values():
            set_alpha(encoder, "debias", alpha)
        found, expected = theirs.encode_text(["a doctor"]), ours.encode_text(["a doctor"])
        assert (found.tokens - plain.tokens).abs().mean() > 1e-2
        assert torch.allclose(found.tokens, expected.tokens, atol=1e-5)
        if kind == "sdxl":
            assert not torch.allclose(found.pooled, plain.pooled, atol=1e-2)
            assert torch.allclose(found.pooled, expected.pooled, atol=1e-5)


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_what_was_trained_on_unet_and_text_encoders_has_the_same_effect_in_diffusers(folders, tmp_path, kind):
    ours, theirs, path = load_base(folders / kind), load_base(folders / kind), tmp_path / "fair.safetensors"
    settings = TrainSettings(steps=4, batch_size=4, rank=2, learning_rate=0.05, calibrate=0, text_encoder=True)
    images = folder_set(ours, read_folder(folders / "images"))
    run = Run(ours, images, path, groups="labels:gender", settings=settings)
    assert run.train()
    with safe_open(path, framework="pt") as file:
        begins = {"_".join(key.split("_")[:2]) for key in file.keys()}  # noqa: SIM118
    assert begins == {"lora_unet", *(("lora_te1", "lora_te2") if kind == "sdxl" else ("lora_te",))}
    plain, said, pipe = answer(theirs), theirs.encode_text(["a doctor"]), pipeline(theirs)
    pipe.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name="fair", local_files_only=True)
    for alpha in (1.0, 0.5):
        pipe.set_adapters("fair", alpha)
        for model in ours.parts.values():
            set_alpha(model, "debias", alpha)
        assert not torch.allclose(answer(theirs), plain, atol=1e-3)
        assert not torch.allclose(theirs.encode_text(["a doctor"]).tokens, said.tokens, atol=1e-3)
        assert torch.allclose(answer(theirs), answer(ours), atol=1e-5)


def test_the_commands_take_a_checkpoint(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(ldm_checkpoint, "FAMILIES", folders)
    checkpoint = ["--base", str(folders / "sdxl-v.safetensors")]
    checkpoint += ["--tokenizer", str(folders / "sdxl" / "vocabulary"), "--device", "cpu"]
    adapter, out = tmp_path / "fair.safetensors", tmp_path / "out"

    def ddm(*arguments):
        done = CliRunner().invoke(app, [*arguments, *checkpoint], catch_exceptions=False)
        assert done.exit_code == 0, done.output

    small = ["--steps", "2", "--batch-size", "2", "--calibrate", "0"]
    ddm("train", str(folders / "images"), "--out", str(adapter), *small)
    card = load_adapter(adapter).card
    assert (card.architecture, card.prediction) == ("stable-diffusion-xl-v1-base/lora", "v_prediction")
    ddm("sample", "--prompts", "a", "--adapter", str(adapter), "--alpha", "0,1", "--steps", "2", "--out", str(out))
    assert len(list(out.rglob("*.png"))) == 8
    ddm("audit", str(folders / "images"), "--out", str(tmp_path / "audit.html"))
    assert (tmp_path / "audit.html").is_file()
    done = CliRunner().invoke(app, ["sample", "--prompts", "a", "--out", str(out), "--base", str(tmp_path / "a.ckpt")])
    assert done.exit_code == 2


def test_every_family_is_a_module_with_its_configuration_and_nothing_else_knows_its_name():
    names = {family.name for family in families()}
    assert (
        names == {path.stem for path in FAMILIES.glob("*.json")} == {kind.removesuffix("-v") for kind in KINDS} | NAMES
    )
    package = FAMILIES.parent.parent
    for path in (*package.rglob("*.py"), *(package.parent / "nodes").glob("*.py")):
        if path.parent != FAMILIES:
            said = {
                node.value for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant)
            }
            assert said.isdisjoint(names), path


def test_a_folder_is_of_one_family(folders):
    for kind in (*KINDS, *FLOWS):
        config = {part: read_config(folders / kind, part) for part in check_folder(folders / kind)}
        fitting = [family.name for family in families() if family.part in config and family.fits(config)]
        assert fitting == [kind.removesuffix("-v")]


@pytest.mark.parametrize("groups", ["words:man|woman", "discovered"])
@pytest.mark.parametrize("kind", FLOWS)
def test_a_transformers_training_that_was_stopped_goes_on_bit_for_bit(folders, tmp_path, kind, groups):
    def train(name, *stops):
        base = load_base(folders / kind)
        settings = TrainSettings(steps=4, batch_size=4, rank=2, keep=0.5, calibrate=0)
        images = folder_set(base, read_folder(folders / "images"))
        out = tmp_path / name / "fair.safetensors"
        out.parent.mkdir(exist_ok=True)
        run = Run(base, images, out, groups=groups, settings=settings)
        run.resume()
        run.train(stop=lambda: run.training.step in stops)
        return out

    assert not train("stopped", 2).exists()
    assert train("stopped").read_bytes() == train("whole").read_bytes()


@pytest.mark.parametrize("kind", FLOWS)
def test_each_row_has_its_own_strength_in_a_transformer(folders, kind):
    base = with_random_lora(load_base(folders / kind))
    whole = {}
    for alpha in (0.0, 1.0):
        set_alpha(base.denoiser, "debias", alpha)
        whole[alpha] = answer(base)
    set_alpha(base.denoiser, "debias", [0.0, 1.0])
    torch.testing.assert_close(answer(base), torch.stack([whole[0.0][0], whole[1.0][1]]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", FLOWS)
def test_guidance_at_scale_0_leaves_a_transformer_as_it_is_and_pushes_it_else(folders, tmp_path, kind):
    base = load_base(folders / kind)
    images = folder_set(base, read_folder(write_folder(tmp_path / "images", count=20, rare=3)))
    head = make_head(base, images, "labels:gender")
    # A model that knows nothing of the classes has a head that does not push.
    head.push = torch.randn(head.push.shape, generator=torch.Generator().manual_seed(0))

    def made(scale):
        guide = Guidance(head, scale=scale)
        return generate(base, ["a doctor"] * 4, range(4), steps=2, steering=SamplingGuidance([guide]))

    plain = generate(base, ["a doctor"] * 4, range(4), steps=2)
    assert np.array_equal(made(0.0), plain) and not np.array_equal(made(8.0), plain)


def test_the_text_of_sd3_is_that_of_diffusers_pipeline_with_and_without_t5(folders, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        make_sd3(tmp_path / "sd3", t5=False)
    for folder in (folders / "sd3", tmp_path / "sd3"):
        base = load_base(folder)
        text, prompts = base.encode_text(["a doctor!", "a"]), ["a doctor!", "a"]
        tokens, _, pooled, _ = pipeline(base).encode_prompt(
            prompts, prompts, prompts, do_classifier_free_guidance=False
        )
        assert torch.equal(text.tokens, tokens) and torch.equal(text.pooled, pooled)


def test_the_text_of_z_image_is_that_of_diffusers_pipeline(folders):
    base = load_base(folders / "z_image")
    text = base.encode_text(["a doctor!", "a"])
    tokens, _ = pipeline(base).encode_prompt(["a doctor!", "a"], do_classifier_free_guidance=False)
    for ours, mask, theirs in zip(text.tokens, text.mask, tokens, strict=True):
        assert torch.equal(ours[mask], theirs)


@pytest.mark.parametrize("kind", ["flux1", "flux2", "qwen_image", "krea2", "chroma"])
def test_the_text_of_packed_transformers_is_that_of_diffusers_pipeline(folders, kind):
    base, prompts = load_base(folders / kind), ["a doctor!", "a"]
    text = base.encode_text(prompts)
    options = {"max_sequence_length": list(base.tokenizers.values())[-1].model_max_length}
    options |= {"prompt_2": prompts} if kind == "flux1" else {}
    tokens, other, *more = pipeline(base).encode_prompt(prompts, **options)
    if kind == "chroma":
        assert torch.equal(text.tokens, tokens) and torch.equal(text.mask, more[0].bool())
        return
    if kind == "krea2":  # whose pipeline says the template's end after the padding
        for ours, theirs, own, other_mask in zip(text.tokens, tokens.flatten(2), text.mask, other, strict=True):
            torch.testing.assert_close(ours[own], theirs[other_mask], atol=1e-5, rtol=1e-5)
        return
    if kind == "qwen_image":
        assert torch.equal(text.mask[:, : other.shape[1]], other.bool()) and not text.mask[:, other.shape[1] :].any()
        for ours, theirs, mask in zip(text.tokens, tokens, other.bool(), strict=True):
            torch.testing.assert_close(ours[: len(theirs)][mask], theirs[mask], atol=1e-5, rtol=1e-5)
        return
    torch.testing.assert_close(text.tokens, tokens, atol=1e-6, rtol=1e-6)
    if kind == "flux1":
        assert torch.equal(text.pooled, other)


def true_mask(named):
    return {"attention_mask": named["attention_mask"].bool()} if "attention_mask" in named else {}


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("kind", FLOWS)
def test_a_transformers_images_are_those_of_diffusers_pipeline(folders, kind):
    """Two pipelines count guidance from 0; of others, guidance is an input, or shortened, or not for all.

    Chroma's gives its mask in numbers, which attention adds to what it compares; here it is given truth values.
    """
    base, steps = load_base(folders / kind), 4
    guidance = 3.0 if kind in ("sd3", "z_image", "flux2", "krea2", "chroma") else 1.0
    told = {"flux1": {"guidance_scale": 3.5}, "qwen_image": {"true_cfg_scale": 1.0}}
    told |= {name: {"guidance_scale": 2.0} for name in ("z_image", "krea2")}
    told = told.get(kind, {"guidance_scale": guidance}) | ({} if kind == "flux2" else {"negative_prompt": ""})
    if kind == "chroma":
        hook = {"with_kwargs": True}
        base.denoiser.register_forward_pre_hook(lambda _, given, named: (given, named | true_mask(named)), **hook)
    if kind in ("flux1", "flux2", "chroma"):
        told["max_sequence_length"] = list(base.tokenizers.values())[-1].model_max_length
    noise = noise_of(1, base.latent_channels, 8)[None]
    if isinstance(base.family, PackedFlowFamily):
        noise = pack(noise)
        noise = noise.transpose(1, 2).unflatten(2, (4, 4)) if kind == "flux2" else noise
    ours = generate(base, ["a doctor"], [1], steps=steps, guidance_scale=guidance)
    made = pipeline(base)(
        prompt="a doctor",
        height=64,
        width=64,
        num_inference_steps=steps,
        sigmas=np.linspace(1, 1 / steps, steps).tolist(),
        latents=noise,
        output_type="np",
        **told,
    )
    assert np.abs(ours / 255 - made.images).max() < 0.02


@pytest.mark.parametrize("kind", FLOWS)
def test_the_commands_take_a_transformer(folders, tmp_path, kind):
    adapter, out, base = tmp_path / "fair.safetensors", tmp_path / "out", ["--base", str(folders / kind)]

    def ddm(*arguments):
        return CliRunner().invoke(app, [*arguments, *base, "--device", "cpu"], catch_exceptions=False)

    small = [str(folders / "images"), "--out", str(adapter), "--groups", "labels:gender", "--steps", "2"]
    small += ["--batch-size", "2", "--calibrate", "0", "--no-cache"]
    done = ddm("train", *small)
    assert done.exit_code == 0, done.output
    done = ddm(
        "sample", "--prompts", "a", "--adapter", str(adapter), "--alpha", "0,1", "--steps", "2", "--out", str(out)
    )
    assert done.exit_code == 0, done.output
    assert len(list(out.rglob("*.png"))) == 8


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--min-snr-gamma", "5"], "trained by flow matching"),
        (["--text-encoder"], "only its transformer"),
        (["--objective", "ddm-paper"], "trained by flow matching"),
        (["--prediction", "epsilon"], "does not predict"),
    ],
)
def test_what_a_transformer_does_not_do_is_a_sentence(folders, tmp_path, options, sentence):
    small = ["train", str(folders / "images"), "--out", str(tmp_path / "fair.safetensors"), "--groups", "labels:gender"]
    small += ["--base", str(folders / "sd3"), "--device", "cpu", "--no-cache", "--steps", "2", "--calibrate", "0"]
    done = CliRunner().invoke(app, [*small, *options])
    assert done.exit_code == 2 and sentence in done.output.replace("\n", " ")


@pytest.mark.parametrize("kind", FLOWS)
def test_timesteps_are_those_of_the_recipe(folders, kind):
    """Logit-normal: half of them lie below the shifted middle, and 68% within a deviation of it."""
    base = load_base(folders / kind)
    shift = base.family.shift(base)
    t = base.family.timesteps(base, (np.arange(10_000) + 0.5) / 10_000) / 1000
    unshifted = t / (shift - (shift - 1) * t)
    assert np.median(t) == pytest.approx(shift / (shift + 1), abs=1e-3)
    logit = np.log(unshifted / (1 - unshifted))
    assert logit.mean() == pytest.approx(0, abs=0.01) and logit.std() == pytest.approx(1, abs=0.01)


@pytest.mark.usefixtures("full_precision")
@pytest.mark.parametrize("kind", ["sd1", "sdxl", *FLOWS])
def test_a_step_with_quantized_and_offloaded_blocks_is_the_plain_one(folders, kind):
    def gradients(**kept):
        base = with_random_lora(load_base(folders / kind, **kept))
        base.denoiser.enable_gradient_checkpointing()
        matrices = lora_parameters(base.denoiser, "debias")
        for matrix in matrices:
            matrix.requires_grad_(True).grad = torch.zeros_like(matrix)  # nothing follows a last block's words
        noisy = torch.randn(2, base.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
        base.predict(
            noisy, torch.tensor([300, 800]), base.encode_text(["a doctor", "a judge"])
        ).square().mean().backward()
        return torch.cat([matrix.grad.flatten() for matrix in matrices])

    plain = gradients()
    assert torch.equal(gradients(offload_blocks=True), plain)  # the text as well
    for offload in (False, True):
        small = gradients(quantize="int8", offload_blocks=offload)
        assert 0 < (small - plain).norm() < 0.05 * plain.norm()


def test_offloaded_text_encoders_are_known_by_their_weights_and_move_without_them(folders):
    plain, offloaded = load_base(folders / "z_image"), load_base(folders / "z_image", offload_blocks=True)
    assert encoders_hash(plain) == encoders_hash(offloaded)
    layers = [one for one in offloaded.text_encoder.modules() if hasattr(one, "kept")]
    offloaded.text_encoder.to("cpu", torch.float64)
    assert layers and all(one.weight.untyped_storage().nbytes() == 8 for one in layers)


@pytest.mark.parametrize("kind", ["sd1", *FLOWS])
def test_what_rests_is_brought_in_where_it_is_used(folders, kind):
    base = load_base(folders / kind)
    before = generate(base, ["a doctor"], [1], steps=1), base.encode_text(["a doctor"]).tokens
    base.rest()
    asked = []
    for model in (base.vae, *base.text_encoders.values()):
        model.to = lambda device, model=model: asked.append((model, str(device)))
    assert np.array_equal(generate(base, ["a doctor"], [1], steps=1), before[0])
    places = [[place for model, place in asked if model is one] for one in (base.vae, base.text_encoder)]
    assert places[0] == ["cpu"] * 2 and len(places[1]) % 2 == 0  # in and out again, on the one device there is


def test_the_commands_say_what_memory_it_takes_and_keep_blocks_small(folders, tmp_path):
    out = tmp_path / "fair.safetensors"
    small = [
        "train",
        str(folders / "images"),
        "--out",
        str(out),
        "--groups",
        "labels:gender",
        "--steps",
        "2",
        "--no-cache",
    ]
    small += ["--batch-size", "2", "--calibrate", "0", "--base", str(folders / "z_image"), "--device", "cpu"]
    done = CliRunner().invoke(app, [*small, "--quantize", "int8", "--offload-blocks"])
    assert done.exit_code == 0, done.output
    assert "of the GPU's memory (base" in " ".join(done.output.split())
    assert load_adapter(out).card.base_hash == load_base(folders / "z_image").hash


def test_calibration_reads_another_model_where_the_adapter_will_be_used(folders, tmp_path, monkeypatch):
    made, read = generate_module.generate_batches, []

    def seen(*arguments, **options):
        for batch in made(*arguments, **options):
            read.append(batch.latents)
            yield batch

    monkeypatch.setattr(generate_module, "generate_batches", seen)

    def calibrated(other, **settings):
        base = load_base(folders / "z_image")
        settings = TrainSettings(steps=2, batch_size=4, rank=2, keep=0.5, calibrate=8, **settings)
        images = folder_set(base, read_folder(folders / "images"))
        out = tmp_path / "fair.safetensors"
        run = Run(base, images, out, groups="labels:gender", settings=settings, calibrate_on=other)
        run.training.step = 2  # what it would learn does not matter here
        with torch.no_grad():
            for number, matrix in enumerate(lora_parameters(base.denoiser, "debias")):
                matrix.copy_(torch.randn(matrix.shape, generator=torch.Generator().manual_seed(number)) * 0.3)
        read.clear()
        run.save(run.calibrate())
        return list(read), load_adapter(out).card.training["calibration"]["on"]

    alike, other = load_base(folders / "z_image"), load_base(folders / "z_image")
    with torch.no_grad():
        for parameter in other.denoiser.parameters():
            parameter.mul_(1.1)
    other.path = other.path.with_name("turbo")
    plain, on = calibrated(None)
    assert on == {"model": "z_image", "hash": alike.hash, "steps": 10, "cfg": 3.0}
    same, _ = calibrated(alike)
    assert all(torch.equal(one, two) for one, two in zip(plain, same, strict=True))
    turbo, on = calibrated(other, calibrate_steps=4, calibrate_cfg=1.0)
    assert (on["model"], on["steps"], on["cfg"]) == ("turbo", 4, 1.0)
    assert not any(torch.equal(one, two) for one, two in zip(plain, turbo, strict=True))
    with pytest.raises(DDMError, match="does not fit sd3"):
        Sampling(load_base(folders / "sd3")).check(alike)
