"""A probe that is asked about images of another kind says so instead of counting them."""

from pathlib import Path

import numpy as np
import pytest
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.core.io import load_tensors, save_tensors
from comfyui_ddm.debias.evaluation import intervals
from comfyui_ddm.debias.evaluation.accumulator import Accumulator, ImageMeta
from comfyui_ddm.debias.evaluation.compare import Evaluation
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.probes.predict import read_images
from comfyui_ddm.debias.probes.probe import Probe
from comfyui_ddm.debias.probes.typicality import Typicality
from comfyui_ddm.training.data.read_folder import read_folder
from PIL import Image, ImageDraw, ImageFont

EXAMPLES = Path(__file__).parents[2] / "examples"
PROBES = ("gender", "role", "skin_tone", "art_style")


@pytest.fixture(scope="module")
def people():
    return read_folder(EXAMPLES / "people_emoji").array(64)


@pytest.fixture(scope="module")
def gender():
    return Probe.load(EXAMPLES / "probes" / "gender.safetensors")


def rectangles(count, rng):
    images = []
    for _ in range(count):
        image = np.full((64, 64, 3), rng.integers(0, 256, 3), np.uint8)
        top, left = rng.integers(0, 32, 2)
        image[top : top + 32, left : left + 32] = rng.integers(0, 256, 3)
        images.append(image)
    return images


def digits(count):
    images = []
    for i in range(count):
        image = Image.new("RGB", (64, 64))
        ImageDraw.Draw(image).text((18, 2), str(i % 10), font=ImageFont.load_default(52))
        images.append(np.asarray(image))
    return images


def reported(probe, images):
    kept = Accumulator([probe], [Target.uniform(probe.names)])
    metas = [ImageMeta("a doctor", seed=i) for i in range(len(images))]
    kept.add([probe], [Image.fromarray(image) for image in images], metas)
    return Evaluation.of(kept.records()).report


def test_sixty_flat_rectangles_give_no_verdict_and_the_report_begins_with_it(gender):
    report = reported(gender, rectangles(60, np.random.default_rng(0)))
    overall = report.attributes[0].overall[0]
    assert overall.unlike > 55 and overall.unlike <= overall.undetermined
    assert overall.verdict == intervals.CANNOT_TELL
    first = report.summary.split(".")[0]
    assert first.startswith(f"{overall.unlike} of 60 images are unlike those that the probe for gender was made for")
    assert "emoji" in first


@pytest.mark.parametrize("name", PROBES)
def test_images_of_another_kind_are_mostly_unclear_and_those_of_its_kind_are_not(people, name):
    probe = Probe.load(EXAMPLES / "probes" / f"{name}.safetensors")
    rng = np.random.default_rng(1)
    for others in (digits(40), rectangles(40, rng), list(rng.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8))):
        assert np.isnan(read_images(others, [probe]).probabilities[0]).any(1).mean() > 0.9
    assert np.isnan(read_images(people[::4], [probe]).probabilities[0]).any(1).mean() <= 0.05


def test_a_report_says_what_the_probe_was_made_for(gender, people):
    report = reported(gender, people[:60])
    assert "made for small emoji of people" in " ".join(report.remarks)
    assert "unlike" not in report.summary


def test_images_that_show_nothing_count_for_no_class_of_a_probe_for_subjects(gender):
    role = Probe.load(EXAMPLES / "probes" / "role.safetensors")
    kept = Accumulator([gender, role], [Target.uniform(gender.names), None])
    black = [Image.new("RGB", (64, 64))] * 4
    prompts = ["an artist", "an astronaut", "an artist", "an astronaut"]
    kept.add([gender, role], black, [ImageMeta(prompt, seed=i) for i, prompt in enumerate(prompts)])
    report = Evaluation.of(kept.records()).report
    assert report.attributes[0].overall[0].undetermined == 4
    assert report.quality[0].recognised.value == 0


def test_what_is_typical_is_kept_in_the_file_exactly_enough(gender, people, tmp_path):
    gender.save(tmp_path / "again.safetensors")
    again = Probe.load(tmp_path / "again.safetensors")
    _, described = gender.look(people[:32])
    assert np.allclose(again.typicality.distance(described), gender.typicality.distance(described), rtol=1e-5)
    assert again.made_for == gender.made_for


def test_a_probe_without_it_takes_every_image_for_its_kind(gender, tmp_path):
    tensors, metadata = _without(gender, tmp_path)
    save_tensors(tmp_path / "old.safetensors", tensors, metadata)
    old = Probe.load(tmp_path / "old.safetensors")
    assert old.typicality is None and old.made_for == ""
    assert not np.isnan(old.predict(np.stack(digits(3)))).any()


def _without(probe, folder):
    probe.save(folder / "whole.safetensors")
    tensors, metadata = load_tensors(folder / "whole.safetensors")
    del metadata["ddm.made_for"]
    return {name: one for name, one in tensors.items() if not name.startswith("typicality")}, metadata


@pytest.mark.parametrize("fault", ["missing", "narrow", "negative", "not finite"])
def test_what_is_not_complete_is_a_sentence(gender, tmp_path, fault):
    gender.save(tmp_path / "whole.safetensors")
    tensors, metadata = load_tensors(tmp_path / "whole.safetensors")
    if fault == "missing":
        del tensors["typicality.mean"]
    elif fault == "narrow":
        for name in ("mean", "scale", "directions"):
            tensors[f"typicality.{name}"] = tensors[f"typicality.{name}"][:9].clone()
    else:
        tensors["typicality.limits"] = tensors["typicality.limits"] * (-1 if fault == "negative" else np.nan)
    save_tensors(tmp_path / "broken.safetensors", tensors, metadata)
    with pytest.raises(DDMError, match="not a complete probe"):
        Probe.load(tmp_path / "broken.safetensors")


def test_the_distance_is_that_of_a_gaussian_whatever_the_units():
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(4000, 3)) @ np.array([[1, 2, 0], [0, 1, 3], [0, 0, 1.0]])
    features = np.concatenate([mixed * [1, 100, 0.01]], axis=1) + 7
    found = Typicality.fit(features[:2000], features[2000:])
    centred = features - features[:2000].mean(0)
    exact = np.sqrt(np.einsum("ni,ij,nj->n", centred, np.linalg.inv(np.cov(features[:2000].T, ddof=0)), centred))
    assert np.allclose(found.distance(features), exact, rtol=1e-6)
    assert found.unlike(features[2000:]).mean() == pytest.approx(0.01, abs=0.001)
