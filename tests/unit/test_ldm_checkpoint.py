"""Checkpoints in one file give the model that they were made of; everything else is refused with a sentence."""

import json

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.models import ldm_checkpoint
from comfyui_ddm.training.models.families.sd2 import TELLING_BIAS
from comfyui_ddm.training.models.family import named_family
from comfyui_ddm.training.models.ldm_checkpoint import build_models, check_single_file, configuration_of
from comfyui_ddm.training.models.load_base import check_weights, load_base
from safetensors.torch import save_file

from .checkpoints import ldm_tensors, make_folder, make_models, make_tokenizer, tiny_configuration

FAMILIES = ("sd1", "sd2", "sdxl")
OWN_FAMILIES = ldm_checkpoint.FAMILIES


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Each family's configuration, folder and checkpoint tensors; the tokenizer lies beside them."""
    root = tmp_path_factory.mktemp("families")
    make_tokenizer(root / "tokenizer")
    found = {}
    with torch.random.fork_rng():
        for family in FAMILIES:
            torch.manual_seed(1)
            config = tiny_configuration(family)
            models = make_models(config)
            folder = make_folder(root / family, config, models)
            (root / f"{family}.json").write_text(json.dumps(config))
            found[family] = folder, ldm_tensors(family, models)
    return root, found


@pytest.fixture
def checkpoint(made, tmp_path, monkeypatch):
    """Writes a checkpoint of a family, which then opens with the small configuration."""
    root, found = made
    monkeypatch.setattr(ldm_checkpoint, "FAMILIES", root)

    def write(family, dtype=torch.float32, without=(), metadata=None, **more):
        tensors = {key: value for key, value in found[family][1].items() if not key.startswith(tuple(without))}
        tensors = {key: value.to(dtype) if value.is_floating_point() else value for key, value in tensors.items()}
        path = tmp_path / f"{family}.safetensors"
        save_file({key: value.clone().contiguous() for key, value in (tensors | more).items()}, path, metadata)
        return path

    write.folder = lambda family: found[family][0]
    write.tokenizer = root / "tokenizer"
    return write


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_computes_what_its_folder_does(checkpoint, family):
    file = load_base(checkpoint(family), tokenizer=checkpoint.tokenizer)
    folder = load_base(checkpoint.folder(family))
    one, other = (base.encode_text(["a doctor!", "", "a judge " * 30]) for base in (file, folder))
    assert torch.equal(one.tokens, other.tokens)
    assert (one.pooled is None) == (family != "sdxl") and (one.pooled is None or torch.equal(one.pooled, other.pooled))
    noisy = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([10, 500, 900])
    assert torch.equal(file.denoise(noisy, t, one), folder.denoise(noisy, t, other))
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    assert torch.equal(file.encode_images(images), folder.encode_images(images))
    assert np.array_equal(file.decode(noisy), folder.decode(noisy))
    assert file.architecture == folder.architecture and file.prediction == folder.prediction
    assert not any(p.requires_grad for part in (file.denoiser, file.vae, file.text_encoder) for p in part.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_of_the_family_at_full_size_is_found_under_its_ldm_key(family):
    config = json.loads((OWN_FAMILIES / f"{family}.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        models = make_models(config)
    tensors = ldm_tensors(family, models)

    def read(prefix, dtype):
        return {key: value.to(dtype) for key, value in tensors.items() if key.startswith(prefix)}

    again = build_models(named_family(family), config, read, torch.float16, "the file")
    for name, model in models.items():
        ours, theirs = ({key: value.shape for key, value in m.state_dict().items()} for m in (again[name], model))
        assert ours == theirs
    # What Stability's own U-Nets hold: 686 tensors in SD 1.x and 2.x, 1680 in SDXL.
    assert sum(key.startswith("model.diffusion_model.") for key in tensors) == (1680 if family == "sdxl" else 686)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_compute_in_full_precision_on_the_cpu(checkpoint, dtype):
    base = load_base(checkpoint("sdxl", dtype), tokenizer=checkpoint.tokenizer)
    parts = (base.denoiser, base.vae, *base.text_encoders.values())
    assert {part.dtype for part in parts} == {torch.float32}


def test_the_vae_stays_in_full_precision_where_the_rest_is_halved(checkpoint):
    base = load_base(checkpoint("sd1", torch.float16), dtype=torch.float16, tokenizer=checkpoint.tokenizer)
    assert (base.denoiser.dtype, base.text_encoder.dtype, base.vae.dtype) == (
        torch.float16,
        torch.float16,
        torch.float32,
    )


def test_the_architecture_names_family_and_prediction(checkpoint):
    named = {f: load_base(checkpoint(f), tokenizer=checkpoint.tokenizer).architecture for f in FAMILIES}
    assert named == {
        "sd1": "stable-diffusion-v1/lora",
        "sd2": "stable-diffusion-v2-512/lora",
        "sdxl": "stable-diffusion-xl-v1-base/lora",
    }
    path = checkpoint("sd2", metadata={"modelspec.prediction_type": "v"})
    assert load_base(path, tokenizer=checkpoint.tokenizer).architecture == "stable-diffusion-v2-768-v/lora"


class File:
    """What the prediction is told by."""

    def __init__(self, metadata=None, **tensors):
        self.tensors, self.metadata = tensors, lambda: metadata

    def keys(self):
        return self.tensors.keys()

    def get_tensor(self, key):
        return self.tensors[key]


def test_the_file_tells_what_it_predicts():
    def told(file, family):
        config = configuration_of(named_family(family), file)
        return config["scheduler"]["prediction_type"], config["unet"]["sample_size"]

    spread = torch.tensor([-1.0, 1.0])
    assert told(File(), "sd1") == ("epsilon", 64)
    assert told(File({"modelspec.prediction_type": "v"}), "sd1") == ("v_prediction", 64)
    assert told(File(**{TELLING_BIAS: spread * 0.05}), "sd2") == ("epsilon", 64)
    assert told(File(**{TELLING_BIAS: spread * 0.15}), "sd2") == ("v_prediction", 96)
    assert told(File(), "sdxl") == ("epsilon", 128)
    assert told(File(v_pred=spread), "sdxl") == ("v_prediction", 128)
    assert configuration_of(named_family("sdxl"), File(v_pred=spread, ztsnr=spread))["scheduler"][
        "rescale_betas_zero_snr"
    ]


def test_the_hash_is_that_of_the_file(checkpoint):
    import hashlib

    path = checkpoint("sd1")
    base = load_base(path, tokenizer=checkpoint.tokenizer)
    assert base.hash == hashlib.sha256(path.read_bytes()).hexdigest()
    assert check_weights(path) == {"unet": [path]}


@pytest.mark.parametrize(
    ("family", "without", "sentence"),
    [
        ("sd1", ["model.diffusion_model.input_blocks.0.0."], "no checkpoint of Stable Diffusion"),
        ("sd1", ["first_stage_model."], "holds no VAE"),
        ("sd1", ["cond_stage_model."], "not the text encoders"),
        ("sdxl", ["conditioner.embedders.0."], "not the text encoders"),
        ("sd2", ["model.diffusion_model.middle_block.1.proj_in.weight"], r"U-Net .* mid_block.* is missing"),
        ("sd1", ["first_stage_model.quant_conv.bias"], r"VAE .* quant_conv.bias is missing"),
        (
            "sdxl",
            ["conditioner.embedders.1.model.text_projection"],
            r"text encoder .* text_projection.weight is missing",
        ),
    ],
)
def test_what_is_missing_is_named(checkpoint, family, without, sentence):
    with pytest.raises(DDMError, match=sentence):
        load_base(checkpoint(family, without=without), tokenizer=checkpoint.tokenizer)


def test_layers_of_another_size_are_refused(checkpoint):
    wide = {"model.diffusion_model.out.2.bias": torch.zeros(8)}
    with pytest.raises(DDMError, match=r"conv_out.bias is 8 instead of 4"):
        load_base(checkpoint("sd1", **wide), tokenizer=checkpoint.tokenizer)


def test_models_for_inpainting_loras_and_other_noises_are_refused(checkpoint, tmp_path):
    with pytest.raises(DDMError, match="inpainting"):
        check_single_file(checkpoint("sd1", **{ldm_checkpoint.INPUT: torch.zeros(32, 9, 3, 3)}))
    with pytest.raises(DDMError, match="EDM"):
        check_single_file(checkpoint("sdxl", edm_mean=torch.zeros(1)))
    save_file({"lora_unet_conv_in.lora_down.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(DDMError, match="It is a LoRA"):
        check_single_file(tmp_path / "lora.safetensors")


def test_pickles_truncated_and_missing_files_are_refused(checkpoint, tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"0")
    with pytest.raises(DDMError, match=r"pickle file \(.ckpt\).* Convert it"):
        load_base(tmp_path / "model.ckpt")
    with pytest.raises(DDMError, match="There is no file"):
        load_base(tmp_path / "nowhere.safetensors")
    path = checkpoint("sd1")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DDMError, match="not a complete safetensors file"):
        load_base(path)
