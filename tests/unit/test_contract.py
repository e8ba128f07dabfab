"""What every method of the project promises, whatever it does: one contract, every objective and guidance.

A new method is one more entry in METHODS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import load_adapter, save_adapter
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.core.io import load_tensors
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.methods.distribution_guidance import Guidance
from comfyui_ddm.debias.methods.h_space_classifier import HSpaceClassifier
from comfyui_ddm.debias.methods.invariant_module import InvariantModule
from comfyui_ddm.debias.probes.probe import Probe
from comfyui_ddm.debias.probes.probe_network import ProbeNetwork
from comfyui_ddm.training.data.dataset import folder_set
from comfyui_ddm.training.data.read_folder import read_folder
from comfyui_ddm.training.models.base import Base
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.models.lora import load_lora_into
from comfyui_ddm.training.models.soft_tokens import SoftTokens
from comfyui_ddm.training.objectives.alignment import TRAINED
from comfyui_ddm.training.objectives.alignment import AlignmentSettings as AlignmentSettings
from comfyui_ddm.training.objectives.alignment_run import AlignmentRun
from comfyui_ddm.training.objectives.ddm_paper import DDMPaperRun
from comfyui_ddm.training.objectives.ddm_run import Run
from comfyui_ddm.training.objectives.h_space_classifier import make_head
from comfyui_ddm.training.objectives.invariant import InvariantRun, InvariantSettings
from comfyui_ddm.training.sampling.generate import generate
from comfyui_ddm.training.sampling.guidance import SamplingGuidance

from .runs import prepare, write_folder

Stop = Callable[[], bool] | None


def train_adapter(
    base: Path, folder: Path, out: Path, stop: Stop = None, kind: type[Run] = Run, text_encoder: bool = False
) -> None:
    changes = {"objective": "ddm-paper" if kind is DDMPaperRun else "ddm", "text_encoder": text_encoder}
    run = prepare(base, folder, out, kind=kind, changes=changes)
    run.resume()
    run.train(stop=stop)


def use_adapter(base: Base, file: Path, strength: float) -> dict:
    load_lora_into(base.denoiser, load_adapter(file), "debias", base.hash, base.text_encoders)
    return {"alpha": strength}


def train_alignment(base: Path, folder: Path, out: Path, stop: Stop = None, train: str = "unet") -> None:
    few = {"steps": 4, "batch_size": 4, "rank": 2, "tokens": 2, "sampling": 2, "through": 2}
    settings = AlignmentSettings(train, learning_rate=0.05, **few)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        probe = Probe(("man", "woman"), "gender", torch.nn.Linear(16, 2), ProbeNetwork(16))
    goal = Target.uniform(probe.names)
    run = AlignmentRun(load_base(base), [probe], [goal], [["a doctor", "a judge"]], out, settings)
    run.resume()
    run.train(stop=stop)


def use_alignment(base: Base, file: Path, strength: float) -> dict:
    if found := SoftTokens.load(file):
        base.soft_tokens, _ = found
        return {"alpha": min(strength, 1.0)}  # said, or not
    return use_adapter(base, file, strength)


def save_alignment_again(file: Path, other: Path) -> None:
    if found := SoftTokens.load(file):
        tokens, card = found
        tokens.save(other, card)
    else:
        save_lora_again(file, other)


def make_guide(base: Path, folder: Path, out: Path, stop: Stop = None) -> None:
    model = load_base(base)
    make_head(model, folder_set(model, read_folder(folder)), "labels:gender").save(out)


def use_guide(base: Base, file: Path, strength: float, mode: str) -> dict:
    return {"steering": SamplingGuidance([Guidance(HSpaceClassifier.load(file), scale=strength, mode=mode)])}


def train_invariant(base: Path, folder: Path, out: Path, stop: Stop = None) -> None:
    model = load_base(base)
    settings = InvariantSettings(steps=4, batch_size=4, groups=2)
    run = InvariantRun(model, folder_set(model, read_folder(folder)), out, settings)
    run.resume()
    run.train(stop=stop)


def use_invariant(base: Base, file: Path, strength: float) -> dict:
    return {"steering": SamplingGuidance(invariant=InvariantModule.load(file), strength=strength)}


def save_lora_again(file: Path, other: Path) -> None:
    adapter = load_adapter(file)
    modules = {}
    for name, lora in adapter.modules.items():
        _, unet, layer = name.partition("lora_unet_")
        modules[layer if unet else name.replace("lora_te_text_model_", "text_encoder.")] = lora
    save_adapter(other, modules, adapter.card)


@dataclass(frozen=True)
class Method:
    """How a method is trained to a file, used at a strength, and its file written again.

    Attributes:
        train: (base folder, image folder, file, stop) writes the file, going on from a checkpoint if there is one.
        use: (base, file, strength) puts it on a base; gives the sampler's options.
        again: (file, other) loads the file and writes what was loaded.
        stops: whether it is trained in steps.
    """

    train: Callable[..., None]
    use: Callable[[Base, Path, float], dict]
    again: Callable[[Path, Path], None]
    stops: bool = True


METHODS = {
    "ddm": Method(train_adapter, use_adapter, save_lora_again),
    "ddm, text encoder": Method(partial(train_adapter, text_encoder=True), use_adapter, save_lora_again),
    **{
        f"alignment, {train}": Method(partial(train_alignment, train=train), use_alignment, save_alignment_again)
        for train in TRAINED
    },
    "ddm-paper": Method(partial(train_adapter, kind=DDMPaperRun), use_adapter, save_lora_again),
    "invariant": Method(train_invariant, use_invariant, lambda one, two: InvariantModule.load(one).save(two)),
    **{
        f"guidance, {mode}": Method(
            make_guide, partial(use_guide, mode=mode), lambda one, two: HSpaceClassifier.load(one).save(two), False
        )
        for mode in ("queue", "batch")
    },
}
STEPPED = [name for name, method in METHODS.items() if method.stops]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images"), count=20, rare=3)


@pytest.fixture(scope="module")
def files(tiny_base, folder, tmp_path_factory):
    """The file of each method, trained once."""
    made = {}

    def file(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp("made") / "file.safetensors"
            METHODS[name].train(tiny_base, folder, made[name])
        return made[name]

    return file


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Its own, under the names that they have without a LoRA."""
    return {key.replace(".base_layer", ""): value.clone() for key, value in model.state_dict().items()}


def images(base: Base, **options: object) -> np.ndarray:
    prompts = ["a doctor"] * 3 + ["a judge"]
    return generate(base, prompts, range(4), steps=2, **options)


@pytest.mark.parametrize("name", METHODS)
def test_at_strength_0_the_images_are_the_bases_bit_for_bit_and_at_another_they_are_not(tiny_base, files, name):
    plain = images(load_base(tiny_base))
    base = load_base(tiny_base)
    assert np.array_equal(images(base, **METHODS[name].use(base, files(name), 0.0)), plain)
    base = load_base(tiny_base)
    assert not np.array_equal(images(base, **METHODS[name].use(base, files(name), 8.0)), plain)


@pytest.mark.parametrize("name", METHODS)
def test_the_bases_own_weights_stay_as_they_were(tiny_base, files, name):
    base = load_base(tiny_base)
    before = {part: weights(model) for part, model in base.parts.items()}
    images(base, **METHODS[name].use(base, files(name), 1.0))
    for part, model in base.parts.items():
        after = weights(model)
        assert all(torch.equal(after[key], value) for key, value in before[part].items())


@pytest.mark.parametrize("name", METHODS)
def test_what_is_made_is_finite_and_a_file_that_was_loaded_is_written_as_it_was(files, tmp_path, name):
    tensors, _ = load_tensors(files(name))
    assert all(value.isfinite().all() for value in tensors.values())
    METHODS[name].again(files(name), tmp_path / "file.safetensors")
    assert (tmp_path / "file.safetensors").read_bytes() == files(name).read_bytes()


@pytest.mark.parametrize("name", METHODS)
def test_the_same_seed_gives_the_same_file(tiny_base, folder, files, tmp_path, name):
    METHODS[name].train(tiny_base, folder, tmp_path / "file.safetensors")
    assert (tmp_path / "file.safetensors").read_bytes() == files(name).read_bytes()


@pytest.mark.parametrize("name", STEPPED)
def test_a_training_that_was_stopped_goes_on_bit_for_bit(tiny_base, folder, files, tmp_path, name):
    asked = []
    out = tmp_path / "file.safetensors"
    METHODS[name].train(tiny_base, folder, out, lambda: asked.append(1) or len(asked) > 2)
    assert not out.exists()
    METHODS[name].train(tiny_base, folder, out)
    assert out.read_bytes() == files(name).read_bytes()
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("name", METHODS)
def test_a_file_of_another_kind_is_a_sentence(tiny_base, files, name):
    other = files("invariant" if name != "invariant" else "ddm")
    with pytest.raises(DDMError):
        METHODS[name].use(load_base(tiny_base), other, 1.0)
