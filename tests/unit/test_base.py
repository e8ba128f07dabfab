"""The base model: what opens, what it computes, and what is refused with a sentence."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.models.load_base import load_base, resolve_device


@pytest.fixture(scope="module")
def base(tiny_base: Path):
    return load_base(tiny_base)


@pytest.fixture
def copy(tiny_base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_base, tmp_path / "copy"))


def test_a_base_knows_its_sizes(base):
    assert (base.latent_channels, base.vae_factor, base.image_size) == (4, 8, 64)
    assert len(base.hash) == 64


def test_a_base_is_frozen_and_in_eval_mode(base):
    for model in (base.denoiser, base.vae, base.text_encoder):
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_prompts_are_padded_to_the_tokenizers_length(base):
    text = base.encode_text(["a firefighter", "a doctor"])
    assert text.tokens.shape == (2, 77, 32) and text.pooled is None
    assert torch.equal(base.encode_text(["a firefighter"]).tokens, text[:1].tokens)
    assert not torch.equal(text.tokens[0], text.tokens[1])


def test_images_become_scaled_latents_and_back(base):
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    mean = base.encode_images(images)
    assert mean.shape == (3, 4, 8, 8)
    drawn = [base.encode_images(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    again = base.decode(mean)
    assert again.dtype == np.uint8
    assert again.shape == images.shape


def test_half_precision_files_compute_in_full_precision_on_the_cpu(copy):
    for part in ("unet", "text_encoder"):
        from safetensors.torch import load_file, save_file

        file = next((copy / part).glob("*.safetensors"))
        save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    base = load_base(copy)
    assert base.dtype == base.denoiser.dtype == base.text_encoder.dtype == torch.float32


def test_the_fp16_variant_is_found(copy):
    for part in ("unet", "vae", "text_encoder"):
        file = next((copy / part).glob("*.safetensors"))
        file.rename(file.with_name(file.stem + ".fp16.safetensors"))
    assert load_base(copy).denoiser.dtype == torch.float32


def test_the_hash_follows_the_unets_weights(base, copy):
    assert load_base(copy).hash == base.hash
    from safetensors.torch import load_file, save_file

    file = next((copy / "unet").glob("*.safetensors"))
    save_file({name: tensor + 1 for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    assert load_base(copy).hash != base.hash


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(DDMError, match=r"no model_index.json"):
        load_base(tmp_path)
    with pytest.raises(DDMError, match=r"no model_index.json"):
        load_base(tmp_path / "nowhere")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(copy, part):
    shutil.rmtree(copy / part)
    with pytest.raises(DDMError, match=f"incomplete: {part}/"):
        load_base(copy)


def test_missing_weights_are_named(copy):
    next((copy / "vae").glob("*.safetensors")).unlink()
    with pytest.raises(DDMError, match=r"vae/diffusion_pytorch_model.safetensors is missing"):
        load_base(copy)


def test_truncated_weights_are_named(copy):
    file = next((copy / "unet").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DDMError, match=r"diffusion_pytorch_model.safetensors is not a complete"):
        load_base(copy)


def test_weights_that_do_not_fit_the_configuration_are_refused(copy):
    from safetensors.torch import load_file, save_file

    file = next((copy / "unet").glob("*.safetensors"))
    tensors = load_file(file)
    tensors.pop("conv_in.weight")
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(DDMError, match=r"conv_in.weight"):
        load_base(copy)


def test_pickled_weights_are_refused_with_a_hint(copy):
    file = next((copy / "unet").glob("*.safetensors"))
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(DDMError, match="Convert them to safetensors"):
        load_base(copy)


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
def test_broken_json_is_a_sentence(copy, name):
    (copy / name).write_text('{"a": ', encoding="utf-8")
    with pytest.raises(DDMError, match="again"):
        load_base(copy)


def test_the_second_text_encoder_that_the_index_names_must_be_there(copy):
    (copy / "model_index.json").write_text('{"text_encoder_2": []}', encoding="utf-8")
    with pytest.raises(DDMError, match=r"incomplete: text_encoder_2/config.json is missing"):
        load_base(copy)


def predicting(folder, kind):
    """The same folder, whose scheduler says that the U-Net predicts `kind`."""
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": kind}), encoding="utf-8")
    return load_base(folder)


def test_a_prediction_of_v_is_converted_to_noise(copy):
    base = predicting(copy, "v_prediction")
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    t, text = torch.tensor([1, 500, 998]), base.encode_text(["a doctor"] * 3)
    signal = base.scheduler.alphas_cumprod[t].sqrt().view(-1, 1, 1, 1)
    noisy = signal * latents + (1 - signal**2).sqrt() * noise
    assert torch.equal(base.target(latents, noise, t), base.scheduler.get_velocity(latents, noise, t))
    # A U-Net that answers exactly what it should has the noise right.
    base.run_denoiser = lambda noisy, t, text: base.target(latents, noise, t)
    assert torch.allclose(base.denoise(noisy, t, text), noise, atol=1e-5)


def test_a_prediction_of_noise_is_taken_as_it_is(base):
    noisy, t = torch.ones(1, 4, 8, 8), torch.tensor([500])
    text = base.encode_text(["a doctor"])
    assert torch.equal(base.denoise(noisy, t, text), base.predict(noisy, t, text))
    assert torch.equal(base.target(noisy, noisy * 2, t), noisy * 2)


def test_a_prediction_that_is_not_known_is_refused(copy):
    with pytest.raises(DDMError, match="predicts “sample”"):
        predicting(copy, "sample")


def test_an_unknown_device_is_a_sentence():
    with pytest.raises(DDMError, match="no device called"):
        resolve_device("toaster")
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type in ("cpu", "cuda")
