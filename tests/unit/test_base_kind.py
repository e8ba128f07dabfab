"""A base of another kind is never taken for what it is not: checkpoints and folders are asked the same questions."""

import json
import shutil

import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.models import ldm_checkpoint
from comfyui_ddm.training.models.family import class_of
from comfyui_ddm.training.models.ldm_checkpoint import GUIDANCE_INPUT, INPUT, UNET, VAE
from comfyui_ddm.training.models.load_base import check_weights, load_base
from comfyui_ddm.training.models.vae_file import OLD_NAMES
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer
from typer.testing import CliRunner

from .checkpoints import ldm_tensors, make_folder, make_models, tiny_configuration

NOT_YET = r"is a {} model, which ComfyUI-DDM does not train yet\. Choose a base of Stable Diffusion 1\.x, .*SDXL.*"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("kinds")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        config = tiny_configuration("sd1")
        models = make_models(config)
        folder = make_folder(root / "sd1", config, models)
    (root / "sd1.json").write_text(json.dumps(config))
    tensors = {key: value.clone().contiguous() for key, value in ldm_tensors("sd1", models).items()}
    return root, folder, tensors


@pytest.fixture
def checkpoint(made, tmp_path, monkeypatch):
    """Writes a checkpoint with other tensors beside the usual ones, and says how it opens."""
    root, folder, tensors = made
    monkeypatch.setattr(ldm_checkpoint, "FAMILIES", root)

    def write(name="model", metadata=None, **more):
        path = tmp_path / f"{name}.safetensors"
        kept = {key: value for key, value in (tensors | more).items() if value is not None}
        save_file(kept, path, metadata)
        return path

    write.open = lambda path, **options: load_base(path, tokenizer=folder / "vocabulary", **options)
    write.tensors = tensors
    return write


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made[1], tmp_path / "folder")


def change(folder, part, name="config.json", **values):
    path = folder / part / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_model_that_a_library_is_too_old_for_says_so():
    with pytest.raises(DDMError, match=r"needs ATransformer, which diffusers [\d.]+ does not have yet"):
        class_of("diffusers", "ATransformer")


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("model.diffusion_model.mlp_t5.0.weight", "Hunyuan-DiT"),
        ("double_layers.0.attn.w1q.weight", "AuraFlow"),
    ],
)
def test_a_file_of_another_kind_is_called_by_its_name(tmp_path, key, kind):
    save_file({key: torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(DDMError, match=NOT_YET.format(kind)):
        check_weights(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("pipeline", "kind"),
    [
        ("SanaPipeline", "Sana"),
        ("Krea2Pipeline", "Krea 2"),
        ("Lumina2Pipeline", "Lumina"),
        ("SomethingNewPipeline", "SomethingNew"),
    ],
)
def test_a_folder_of_another_kind_is_called_by_its_name(tmp_path, pipeline, kind):
    index = {"_class_name": pipeline, "transformer": ["diffusers", "AModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(DDMError, match=NOT_YET.format(kind)):
        check_weights(tmp_path)


def test_a_transformer_in_one_file_by_diffusers_names_is_asked_for_as_a_folder(tmp_path):
    save_file({"noise_refiner.0.attention.norm_k.weight": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(DDMError, match=r"is a Z-Image or Lumina model, .* Give the folder"):
        check_weights(tmp_path / "a.safetensors")


def test_a_transformers_folder_says_what_it_lacks(tmp_path):
    index = {"_class_name": "ZImagePipeline", "transformer": ["diffusers", "ZImageTransformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(DDMError, match=r"transformer/config\.json is missing"):
        check_weights(tmp_path)


def test_the_refiner_is_no_base(checkpoint, tmp_path):
    text = {key: None for key in checkpoint.tensors if key.startswith("cond_stage_model.")}
    path = checkpoint(**text, **{"conditioner.embedders.0.model.ln_final.bias": torch.zeros(1)})
    with pytest.raises(DDMError, match=NOT_YET.format("SDXL refiner")):
        check_weights(path)
    index = {"_class_name": "StableDiffusionXLImg2ImgPipeline", "text_encoder": [None, None]}
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"text_encoder_2": ["transformers", "CLIP"]}))
    with pytest.raises(DDMError, match=NOT_YET.format("SDXL refiner")):
        check_weights(tmp_path)


def test_inpainting_and_guidance_as_an_input_are_refused_in_both(checkpoint, folder):
    with pytest.raises(DDMError, match=r"takes 9 channels .* inpainting"):
        check_weights(checkpoint(**{INPUT: torch.zeros(32, 9, 3, 3)}))
    with pytest.raises(DDMError, match="guidance scale as an input"):
        check_weights(checkpoint(**{GUIDANCE_INPUT: torch.zeros(32, 256)}))
    change(folder, "unet", time_cond_proj_dim=256)
    with pytest.raises(DDMError, match="guidance scale as an input"):
        check_weights(folder)
    change(folder, "unet", time_cond_proj_dim=None, in_channels=9)
    with pytest.raises(DDMError, match=r"takes 9 channels .* inpainting"):
        check_weights(folder)


def test_a_model_has_as_many_channels_as_its_own_autoencoder(folder):
    change(folder, "unet", in_channels=16, out_channels=16)
    with pytest.raises(DDMError, match=r"takes 16 channels where .* takes 4"):
        check_weights(folder)
    change(folder, "vae", latent_channels=16)
    check_weights(folder)


@pytest.mark.parametrize(
    ("part", "file", "values", "sentence"),
    [
        ("scheduler", "scheduler_config.json", {"_class_name": "EDMEulerScheduler"}, "EDM's noise"),
        ("scheduler", "scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "flow matching"),
        ("scheduler", "scheduler_config.json", {"use_flow_sigmas": True}, "flow matching"),
        ("vae", "config.json", {"latents_mean": [0.1] * 4, "latents_std": [1.0] * 4}, "shifts its latents"),
        ("vae", "config.json", {"_class_name": "AutoencoderTiny"}, "vae .* is a AutoencoderTiny"),
        ("unet", "config.json", {"addition_embed_type": "image"}, "told more than a prompt"),
        ("unet", "config.json", {"_class_name": "UNetMotionModel"}, "unet .* is a UNetMotionModel"),
        ("text_encoder", "config.json", {"model_type": "t5"}, "of the kind t5, not CLIP's"),
    ],
)
def test_a_folders_configuration_is_read_before_its_weights(folder, part, file, values, sentence):
    change(folder, part, file, **values)
    with pytest.raises(DDMError, match=sentence):
        check_weights(folder)


def eight_bits(checkpoint, name):
    """The key of a weight of the U-Net, that weight in fp8 at a scale, the key of the scale, and the scale."""
    key = next(key for key in checkpoint.tensors if key.endswith("ff.net.2.weight") and key.startswith(UNET))
    weight = checkpoint.tensors[key]
    scale = weight.abs().max() / 448
    return key, (weight / scale).to(torch.float8_e4m3fn), key.removesuffix("weight") + name, scale


@pytest.mark.parametrize("name", ["scale_weight", "weight_scale"])
def test_fp8_weights_are_multiplied_by_their_scale(checkpoint, name):
    key, weight, scale_key, scale = eight_bits(checkpoint, name)
    path = checkpoint(**{key: weight, scale_key: scale, UNET + "scaled_fp8": torch.zeros(2).to(torch.float8_e4m3fn)})
    plain, read = (checkpoint.open(one).denoiser.state_dict() for one in (checkpoint("plain"), path))
    changed = [name for name in plain if not torch.equal(plain[name], read[name])]
    assert len(changed) == 1
    assert torch.allclose(read[changed[0]], plain[changed[0]], rtol=0.07, atol=1e-3)


def test_other_quantizations_are_refused(checkpoint, folder):
    key, _, scale_key, scale = eight_bits(checkpoint, "weight_scale")
    with pytest.raises(DDMError, match=r"weight_scale beside a weight: it is quantized"):
        check_weights(checkpoint(**{scale_key: scale}))  # the weight itself is no fp8
    with pytest.raises(DDMError, match=r"quant_state beside a weight"):
        check_weights(checkpoint(**{key.removesuffix("weight") + "quant_state": torch.zeros(3)}))
    with pytest.raises(DDMError, match="as whole numbers"):
        check_weights(checkpoint(**{key: checkpoint.tensors[key].to(torch.int8)}))
    file = next((folder / "unet").glob("*.safetensors"))
    tensors = {key: value.clone() for key, value in load_file(file).items()}
    save_file(tensors | {"conv_in.weight": tensors["conv_in.weight"].to(torch.uint8)}, file, {"format": "pt"})
    with pytest.raises(DDMError, match="as whole numbers"):
        check_weights(folder)
    tensors["conv_in.scale_weight"] = torch.ones(())
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(DDMError, match="only read in checkpoints"):
        check_weights(folder)


def test_weights_that_the_model_does_not_have_are_refused_in_both(checkpoint, folder):
    block = "0.transformer_blocks.0.attn2.to_k_ip.weight"
    with pytest.raises(DDMError, match=r"to_k_ip\.weight, which the model as it is known here does not have"):
        checkpoint.open(checkpoint(**{UNET + "input_blocks.1.1." + block[2:]: torch.ones(4, 4)}))
    file = next((folder / "unet").glob("*.safetensors"))
    save_file(load_file(file) | {"down_blocks.0.attentions." + block: torch.ones(4, 4)}, file, {"format": "pt"})
    with pytest.raises(DDMError, match=r"to_k_ip\.weight, which the model as it is known here does not have"):
        load_base(folder)


def test_v_is_told_by_metadata_by_the_yaml_beside_or_by_a_schedule_without_signal(checkpoint):
    def predicts(path, **options):
        return checkpoint.open(path, **options).prediction

    assert predicts(checkpoint()) == "epsilon"
    assert predicts(checkpoint(metadata={"ss_v_parameterization": "True"})) == "v_prediction"
    assert predicts(checkpoint(ztsnr=torch.zeros(1))) == "v_prediction"
    path = checkpoint("beside")
    path.with_suffix(".yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    assert predicts(path) == "v_prediction"
    path.with_suffix(".yaml").write_text("model:\n  params:\n    parameterization: eps\n")
    assert predicts(path) == "epsilon"
    assert predicts(path, prediction="v_prediction") == "v_prediction"
    assert predicts(checkpoint(v_pred=torch.zeros(1)), prediction="epsilon") == "epsilon"


def test_a_name_that_speaks_of_v_is_asked_about(checkpoint):
    path = checkpoint("noob_vPred_1")
    with pytest.raises(DDMError, match="Say what it predicts, v_prediction or epsilon"):
        checkpoint.open(path)
    assert checkpoint.open(path, prediction="v_prediction").prediction == "v_prediction"
    with pytest.raises(DDMError, match="predicts epsilon or v_prediction, not 'x'"):
        checkpoint.open(path, prediction="x")


def test_a_folder_that_ends_in_noise_but_predicts_noise_is_asked_about(folder):
    change(folder, "scheduler", "scheduler_config.json", rescale_betas_zero_snr=True)
    with pytest.raises(DDMError, match="ends in noise alone"):
        load_base(folder)
    base = load_base(folder, prediction="v_prediction")
    assert (base.prediction, base.scheduler.config.rescale_betas_zero_snr) == ("v_prediction", True)


def test_a_base_that_is_not_finite_is_refused(checkpoint, folder):
    key = VAE + "decoder.conv_in.bias"
    with pytest.raises(DDMError, match=r"vae\.decoder\.conv_in\.bias is not finite"):
        checkpoint.open(checkpoint(**{key: torch.full_like(checkpoint.tensors[key], torch.nan)}))
    file = next((folder / "unet").glob("*.safetensors"))
    save_file(load_file(file) | {"conv_out.bias": torch.full((4,), torch.inf)}, file, {"format": "pt"})
    with pytest.raises(DDMError, match=r"unet\.conv_out\.bias is not finite"):
        load_base(folder)


def test_a_tokenizer_without_a_length_reads_as_much_as_its_text_encoder(folder):
    plain = load_base(folder).encode_text(["a doctor"]).tokens
    path = folder / "tokenizer" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("model_max_length")
    path.write_text(json.dumps(config))
    assert torch.equal(load_base(folder).encode_text(["a doctor"]).tokens, plain)


@pytest.mark.parametrize("length", [-1, 0, "77"])
def test_a_tokenizers_length_that_is_none_is_refused(folder, length):
    change(folder, "tokenizer", "tokenizer_config.json", model_max_length=length)
    with pytest.raises(DDMError, match="tokens, which is no length"):
        load_base(folder)


def test_another_models_tokenizer_is_refused(folder):
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    tokenizer.add_tokens(["a-word-of-another-model"])
    tokenizer.save_pretrained(folder / "tokenizer")
    with pytest.raises(DDMError, match=r"knows \d+ tokens, and its text encoder only"):
        load_base(folder)


@pytest.mark.parametrize("form", ["diffusers", "old diffusers", "ldm", "checkpoint", "folder"])
def test_another_vae_takes_the_place_of_the_bases_own(checkpoint, folder, tmp_path, form):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        models = make_models(tiny_configuration("sd1"))
    ldm = {key: value.clone() for key, value in ldm_tensors("sd1", models).items() if key.startswith(VAE)}
    path = tmp_path / "vae.safetensors"
    if form == "folder":
        models["vae"].save_pretrained(tmp_path / "vae")
        path = tmp_path / "vae"
    elif form.endswith("diffusers"):
        names = OLD_NAMES if form == "old diffusers" else {}
        renamed = models["vae"].state_dict()
        for old, new in names.items():
            renamed = {key.replace(new, old): value for key, value in renamed.items()}
        save_file(renamed, path)
    else:
        save_file({key.removeprefix(VAE) if form == "ldm" else key: value for key, value in ldm.items()}, path)
    for base in (load_base(folder, vae=path), checkpoint.open(checkpoint(), vae=path)):
        wanted, found = models["vae"].state_dict(), base.vae.state_dict()
        assert wanted.keys() == found.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_base_is_another_to_a_training_only_where_its_images_are(folder, tmp_path):
    plain = load_base(folder)
    assert plain.identity == plain.hash == load_base(folder, prediction="epsilon").identity
    change(folder, "scheduler", "scheduler_config.json", prediction_type="v_prediction")
    v = load_base(folder)
    assert v.hash == plain.hash != v.identity == load_base(folder, prediction="v_prediction").identity
    vae = next((folder / "vae").glob("*.safetensors"))
    assert load_base(folder, vae=vae).identity not in (plain.identity, v.identity)


def test_what_is_no_vae_is_refused(folder, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    for path in (tmp_path / "a.safetensors", tmp_path):
        with pytest.raises(DDMError, match="is no VAE"):
            load_base(folder, vae=path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DDMError, match="holds no VAE"):
        load_base(folder, vae=tmp_path / "empty")
    change(shutil.copytree(folder / "vae", tmp_path / "vae"), "", scaling_factor=0.13025)
    with pytest.raises(DDMError, match=r"scales its latents by 0\.13025, and the base by .* another family"):
        load_base(folder, vae=tmp_path / "vae")
    save_file({"decoder.conv_in.weight": torch.tensor([torch.nan])}, tmp_path / "a.safetensors")
    with pytest.raises(DDMError, match=r"The VAE in .* is not finite"):
        load_base(folder, vae=tmp_path / "a.safetensors")


def test_the_command_line_says_what_a_base_predicts_and_brings_its_vae(folder, tmp_path, checkpoint):
    path = checkpoint("noob_vPred_1")
    call = ["sample", "--base", str(path), "--tokenizer", str(folder / "vocabulary"), "--device", "cpu"]
    call += ["--prompts", "a doctor", "--steps", "1", "--per-prompt", "1", "--out", str(tmp_path / "images")]
    asked = CliRunner().invoke(app, call)
    assert asked.exit_code == 2 and "v_prediction or epsilon (--prediction)" in " ".join(asked.stderr.split())
    said = CliRunner().invoke(app, [*call, "--prediction", "v_prediction", "--vae", str(folder)])
    assert said.exit_code == 0, said.output
