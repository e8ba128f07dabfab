"""A folder as the model sees it: buckets, mirror images, masks; and squares to compare images by."""

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.adapter.lora_file import load_adapter
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.data.dataset import Preparation, folder_set, self_set
from comfyui_ddm.training.data.read_folder import read_folder
from comfyui_ddm.training.models.load_base import load_base
from comfyui_ddm.training.objectives.ddm_run import Run
from comfyui_ddm.training.sampling.generate import generate
from PIL import Image

from .checkpoints import make_folder, make_models, tiny_configuration
from .runs import settings, write_folder


@pytest.fixture(scope="module")
def base(tiny_base):
    return load_base(tiny_base)


@pytest.fixture
def folder(tmp_path):
    """Eight images: four squares, four of three to two."""
    root = write_folder(tmp_path / "set")
    for number in range(0, 8, 2):
        Image.open(root / f"{number}.png").resize((150, 100)).save(root / f"{number}.png")
    return root


def mask(folder, number, size=(300, 200)):
    image = Image.new("L", size)
    image.paste(255, (0, 0, size[0] // 2, size[1]))
    image.save(folder / f"{number}-masklabel.png")


def test_images_keep_their_shape_and_are_compared_as_squares(base, folder):
    found = folder_set(base, read_folder(folder))
    assert found.latents.sizes == [(6, 10), (8, 8)] * 4 and found.squares.shape == (8, 4, 8, 8)
    assert found.notes == ["Buckets, in pixels (and how many images): 80×48 (4), 64×64 (4)."]
    assert torch.equal(found.latents.rows[1][0], found.squares.rows[1][0])
    cropped = folder_set(base, read_folder(folder), preparation=Preparation(buckets=False))
    assert cropped.latents.sizes == [(8, 8)] * 8 and cropped.notes == []


@pytest.fixture
def small(base):
    """The base, for images smaller than its native ones."""
    base.use_resolution(48)
    yield base
    base.use_resolution(None)


def test_images_of_another_size_are_another_set_with_buckets_of_its_area(small, folder, tmp_path):
    found = folder_set(small, read_folder(folder), cache=tmp_path / "cache")
    assert found.squares.shape == (8, 4, 6, 6) and found.latents.sizes == [(4, 8), (6, 6)] * 4
    own = self_set(small, ["a doctor"], 2, 0)
    assert own.latents.shape == (2, 4, 6, 6) and generate(small, ["a doctor"], [0], steps=1).shape == (1, 48, 48, 3)
    small.use_resolution(small.native_size)
    native = folder_set(small, read_folder(folder), cache=tmp_path / "cache")
    assert native.squares.shape == (8, 4, 8, 8) and native.fingerprint != found.fingerprint
    assert self_set(small, ["a doctor"], 2, 0).fingerprint != own.fingerprint
    small.use_resolution(None)
    assert folder_set(small, read_folder(folder)).fingerprint == native.fingerprint


@pytest.mark.parametrize(("size", "said"), [(40, "Give 32 or 48"), (8, "Give 16.")])
def test_a_size_that_the_model_cannot_halve_is_refused(base, size, said):
    with pytest.raises(DDMError, match=r"multiple of 16, which this model needs") as refused:
        base.use_resolution(size)
    assert said in str(refused.value) and base.image_size == 64


def test_images_without_a_caption_are_counted_and_long_captions_are_read_to_their_end(base, tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    # Each letter is a token here, and there is one before and one after them.
    for number, caption in enumerate(["", "", "a " * 75, "a " * 76]):
        Image.new("RGB", (64, 64), (60 * number, 0, 0)).save(root / f"{number}.png")
        (root / f"{number}.txt").write_text(caption, encoding="utf-8")
    (bare,) = folder_set(base, read_folder(root)).notes
    assert bare.startswith("2 of 4 images in set have no caption; they are learnt without words.")
    assert folder_set(base, read_folder(root, "a colour")).notes == []
    assert base.cuts(["a " * 76]) == [False] and base.chunks(["a " * 75]) == 1 and base.chunks(["a " * 76]) == 2


def test_every_image_has_a_mirror_image_if_asked_for(base, folder):
    plain, flipped = (folder_set(base, read_folder(folder), preparation=Preparation(flip=flip)) for flip in (0, 1))
    assert not plain.latents.mirrored.any() and flipped.latents.mirrored.all()
    rows, no, yes = np.array([1, 3]), np.array([False] * 2), np.array([True] * 2)
    assert torch.equal(plain.latents.fetch(rows, yes).mean, flipped.latents.fetch(rows, no).mean)
    assert not torch.equal(flipped.latents.fetch(rows, yes).mean, flipped.latents.fetch(rows, no).mean)


def test_a_mask_is_cut_and_shrunk_as_its_image_is(base, folder, tmp_path):
    mask(folder, 0), mask(folder, 3, (64, 64))
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        found = folder_set(base, read_folder(folder), cache=cache)
        masks = [None if row is None else row[0] for row in found.latents.masks]
        assert [one is None for one in masks] == [False, True, True, False] + [True] * 4
        assert masks[0].tolist() == [[255] * 5 + [0] * 5] * 6 and masks[3].tolist() == [[255] * 4 + [0] * 4] * 8
        assert found.notes[0] == "Masks: 2 of 8 images have one."
    without = folder_set(base, read_folder(folder), preparation=Preparation(masks=False))
    assert without.latents.masks == [None] * 8 and without.fingerprint != found.fingerprint


def test_the_opacity_of_an_image_is_its_mask_where_it_has_no_other(base, folder):
    mask(folder, 3, (64, 64))
    for number in (1, 3):
        image = Image.open(folder / f"{number}.png").convert("RGBA")
        image.paste((0, 0, 0, 0), (0, 0, 64, 32))
        image.save(folder / f"{number}.png")
    found = folder_set(base, read_folder(folder), preparation=Preparation(alpha_mask=True)).latents.masks
    assert [row is None for row in found] == [True, False, True, False] + [True] * 4
    assert found[1][0][:4].sum() == 0 and (found[1][0][4:] == 255).all()
    assert (found[3][0][:, :4] == 255).all()


@pytest.mark.parametrize("change", [{"buckets": False}, {"flip": True}, {"alpha_mask": True}])
def test_another_preparation_is_another_set(base, folder, change):
    one, other = (folder_set(base, read_folder(folder), preparation=how) for how in (None, Preparation(**change)))
    assert one.fingerprint != other.fingerprint


@pytest.mark.parametrize("groups", ["labels:gender", "discovered"])
def test_a_run_with_all_of_it_is_stopped_and_gone_on_with_to_the_same_bytes(tiny_base, folder, tmp_path, groups):
    mask(folder, 0)
    made, how = [], Preparation(flip=True)
    for name, stops in (("whole", [6]), ("stopped", [2, 5, 6])):
        for stop in stops:
            base = load_base(tiny_base)
            images = folder_set(base, read_folder(folder), cache=tmp_path / "cache", preparation=how)
            out, given = tmp_path / name / "fair.safetensors", settings(steps=6, shuffle=1)
            run = Run(base, images, out, groups=groups, settings=given)
            assert run.resume() == (stop > stops[0])
            assert run.train(stop=lambda stop=stop, run=run: run.training.step >= stop) == (stop == 6)
        made.append(run.out.read_bytes())
    assert made[0] == made[1] and load_adapter(run.out).card.training["images"] == 8


def test_sdxl_is_told_the_size_of_the_bucket(folder, tmp_path):
    config = tiny_configuration("sdxl")
    base = load_base(make_folder(tmp_path / "sdxl", config, make_models(config)))
    told = []
    base.denoiser.register_forward_pre_hook(
        lambda _, args, kwargs: told.append((tuple(args[0].shape[2:]), kwargs["added_cond_kwargs"]["time_ids"])),
        with_kwargs=True,
    )
    images = folder_set(base, read_folder(folder))
    run = Run(base, images, tmp_path / "fair.safetensors", groups="labels:gender", settings=settings(steps=6))
    del told[:]
    assert run.train()
    assert {shape for shape, _ in told} == {(6, 10), (8, 8)}
    for (height, width), ids in told:
        assert ids.tolist() == [[8 * height, 8 * width, 0, 0, 8 * height, 8 * width]] * len(ids)
