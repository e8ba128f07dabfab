"""Models whose parts are kept apart, as ComfyUI does, open as what they are, or are refused in a sentence."""

import shutil

import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.models import ldm_checkpoint
from comfyui_ddm.training.models.load_base import check_weights, load_base
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from .component_files import ORIGINAL, write_components
from .runs import write_folder
from .transformers import make_flow


@pytest.fixture(scope="module", params=list(ORIGINAL))
def made(request, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    folder = make_flow(root / "folder", request.param)
    return root, folder, write_components(root, request.param, folder)


@pytest.fixture
def files(made, tmp_path, monkeypatch):
    """A copy of the files, of which some may be changed, and how they open."""
    root, folder, path = made
    monkeypatch.setattr(ldm_checkpoint, "FAMILIES", root)
    shutil.copytree(root / "models", tmp_path / "models")
    path = tmp_path / path.relative_to(root)

    def opened(**options):
        return load_base(path, tokenizer=root / "tokenizers", **options)

    opened.path, opened.folder, opened.models = path, folder, tmp_path / "models"
    opened.tokenizers = root / "tokenizers"
    return opened


def answer(base):
    noisy = torch.randn(2, base.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return base.run_denoiser(noisy, torch.tensor([300, 800]), base.encode_text(["a doctor", "a judge"]))


def change(path, function):
    save_file({key: value.contiguous() for key, value in function(load_file(path)).items()}, path)


def test_parts_that_lie_side_by_side_are_found_and_are_those_of_the_folder(files):
    ours, theirs = files(), load_base(files.folder)
    assert torch.equal(answer(ours), answer(theirs))
    images = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours.encode_images(images), theirs.encode_images(images))
    assert ours.architecture == theirs.architecture
    assert set(check_weights(files.path)) == {"transformer", "vae", *theirs.text_encoders}


def test_parts_are_named_where_they_lie_elsewhere(files, tmp_path):
    apart = shutil.move(files.path, tmp_path / "model.safetensors")
    texts = [*(files.models / "text_encoders").glob("*.safetensors")]
    options = {"vae": files.models / "vae" / "ae.safetensors", "tokenizer": files.tokenizers}
    theirs = answer(load_base(files.folder))
    for given in (texts, [files.models / "text_encoders"]):
        # Found by what is in them, in whatever order.
        assert torch.equal(answer(load_base(apart, text_encoder_file=given[::-1], **options)), theirs)
    shutil.rmtree(files.models)
    with pytest.raises(DDMError, match="needs its text encoders too"):
        load_base(apart)


def test_all_parts_may_be_in_one_file(files, tmp_path):
    tensors = {f"model.diffusion_model.{key}": value for key, value in load_file(files.path).items()}
    tensors |= {f"vae.{key}": value for key, value in load_file(files.models / "vae" / "ae.safetensors").items()}
    for path in (files.models / "text_encoders").glob("*.safetensors"):
        own = load_file(path).items()
        tensors |= {f"text_encoders.{path.stem}.transformer.{key}": value for key, value in own}
    path = tmp_path / "checkpoints" / "all.safetensors"
    path.parent.mkdir()
    save_file(tensors, path)
    base = load_base(path, tokenizer=files.tokenizers)
    assert torch.equal(answer(base), answer(load_base(files.folder))) and base.other_vae is None


def eight(tensors, scaled):
    """Matrices in fp8, each times a number of its own or as they are."""
    made = {}
    for key, value in tensors.items():
        if value.ndim != 2 or not key.endswith(".weight"):
            made[key] = value
            continue
        scale = value.abs().max() / 448 if scaled else torch.ones(())
        made[key] = (value / scale).to(torch.float8_e4m3fn)
        if scaled:
            made[key.removesuffix("weight") + "scale_weight"] = scale
    return made | ({"scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)} if scaled else {})


@pytest.mark.parametrize("scaled", [False, True])
def test_fp8_is_read_with_its_scales(files, scaled):
    whole = answer(files())
    for path in files.models.glob("[dt]*/*.safetensors"):
        change(path, lambda tensors: eight(tensors, scaled))
    error = (answer(files()) - whole).norm() / whole.norm()
    assert 0 < error < 0.1


def test_what_is_quantized_otherwise_is_refused(files):
    key = next(key for key in load_file(files.path) if key.endswith("qkv.weight"))
    change(files.path, lambda tensors: tensors | {key.removesuffix("weight") + "quant_map": torch.zeros(16)})
    with pytest.raises(DDMError, match="quantized in a way that is not known"):
        files()


def test_a_vae_is_asked_for_where_two_may_be_it_or_none(files):
    vae = files.models / "vae" / "ae.safetensors"
    shutil.copy(vae, vae.with_name("other.safetensors"))
    with pytest.raises(DDMError, match=r"ae\.safetensors and other\.safetensors may be it") as error:
        check_weights(files.path)
    assert error.value.options == ("vae",)
    assert torch.equal(answer(files(vae=vae)), answer(load_base(files.folder)))
    shutil.rmtree(vae.parent)
    with pytest.raises(DDMError, match="none is found beside it"):
        check_weights(files.path)


def test_a_broken_file_beside_is_no_hindrance_and_a_broken_one_that_is_named_is_told(files):
    broken = files.models / "text_encoders" / "a.safetensors"
    broken.write_bytes(b"no")
    files()
    with pytest.raises(DDMError, match=r"a\.safetensors"):
        files(text_encoder_file=[broken])


def test_another_size_is_told_by_the_first_tensor_that_does_not_fit(files):
    def wider(tensors):
        name = next(key for key in tensors if key.endswith(("mlp.fc1.weight", "feed_forward.w1.weight")))
        return tensors | {name: torch.zeros(7, tensors[name].shape[1])}

    change(files.path, wider)
    with pytest.raises(DDMError, match=r"The transformer in .* instead of"):
        files()


def test_the_commands_take_them(files, tmp_path):
    write_folder(tmp_path / "images")
    out = tmp_path / "fair.safetensors"
    given = ["--base", files.path, "--text-encoder-file", files.models / "text_encoders", "--device", "cpu"]
    given += ["--vae", files.models / "vae" / "ae.safetensors", "--tokenizer", files.tokenizers]

    def ddm(*arguments):
        done = CliRunner().invoke(app, [str(one) for one in (*arguments, *given)])
        assert done.exit_code == 0, done.output

    small = ["--groups", "labels:gender", "--steps", "2", "--batch-size", "2", "--calibrate", "0", "--no-cache"]
    ddm("train", tmp_path / "images", "--out", out, *small)
    ddm("sample", "--prompts", "a", "--adapter", out, "--steps", "1", "--out", tmp_path / "out")
    assert list((tmp_path / "out").rglob("*.png"))


def test_a_diffusion_model_that_is_not_whole_is_a_sentence(files):
    change(files.path, lambda tensors: {key: value for key, value in tensors.items() if "embed" not in key})
    with pytest.raises(DDMError, match=r"is missing|holds not all"):
        files()
