import json

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.core.io import load_tensors, save_tensors
from comfyui_ddm.debias.probes.augmentation import augment
from comfyui_ddm.debias.probes.fit_probe import fit_linear_probe, fit_probe
from comfyui_ddm.debias.probes.probe import Probe, calibrate


def squares(count=24, size=32, seed=0):
    """Noisy images with a red or a blue square somewhere."""
    rng = np.random.default_rng(seed)
    images = rng.integers(100, 160, (count, size, size, 3), dtype=np.uint8)
    labels = []
    for index in range(count):
        top, left = rng.integers(0, size // 2, 2)
        channel = index % 2 * 2
        images[index, top : top + size // 2, left : left + size // 2] = 30
        images[index, top : top + size // 2, left : left + size // 2, channel] = 220
        labels.append("blue" if channel else "red")
    return images, labels


class Means:
    """A feature extractor: the mean of each colour channel."""

    identity = "colour means"

    def __call__(self, images):
        return images.mean(axis=(1, 2)) / 255


@pytest.fixture(scope="module")
def probe():
    images, labels = squares()
    return fit_probe(images, labels, "colour", seed=1, steps=12, batch_size=16)


@pytest.fixture(scope="module")
def linear():
    images, labels = squares()
    return fit_linear_probe(images, labels, "colour", Means(), seed=1)


def test_a_probe_tells_the_classes_of_new_images_apart(probe):
    images, labels = squares(seed=9)
    found = probe.predict(images)
    assert found.dtype == np.float64 and found.shape == (24, 2)
    assert np.allclose(found.sum(axis=1), 1)
    assert probe.names == ("blue", "red") and probe.attribute == "colour"
    assert [probe.names[index] for index in found.argmax(axis=1)] == labels
    assert probe.features(images).shape == (24, 128)
    assert np.array_equal(probe.predict_features(probe.features(images)), found)


def test_reliability_is_measured_on_held_out_images_of_every_class(probe):
    assert probe.counts.tolist() == [2, 2]
    assert np.allclose(probe.confusion.sum(axis=1), 1)
    assert probe.accuracy == pytest.approx(np.average(np.diag(probe.confusion), weights=probe.counts))


def test_the_same_seed_gives_the_same_probe_and_leaves_the_global_generator_alone(probe):
    images, labels = squares()
    state = torch.get_rng_state()
    again = fit_probe(images, labels, "colour", seed=1, steps=12, batch_size=16)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(again.predict(images), probe.predict(images))
    other = fit_probe(images, labels, "colour", seed=2, steps=12, batch_size=16)
    assert not np.array_equal(other.predict(images), probe.predict(images))


def test_the_images_to_measure_on_can_be_chosen():
    images, labels = squares()
    held_out = np.arange(24) < 6
    found = fit_probe(images, labels, "colour", steps=2, batch_size=8, held_out=held_out)
    assert found.counts.tolist() == [3, 3]
    with pytest.raises(DDMError, match="no image of red"):
        fit_probe(images, labels, "colour", steps=2, held_out=np.array(labels) == "red")
    with pytest.raises(DDMError, match="empty"):
        fit_probe(images, labels, "colour", steps=2, held_out=np.zeros(24, dtype=bool))


def test_progress_counts_both_trainings():
    images, labels = squares()
    seen = []
    fit_probe(images, labels, "colour", steps=12, batch_size=4, progress=lambda *report: seen.append(report[:2]))
    assert seen == [(10, 24), (12, 24), (22, 24), (24, 24)]


def test_a_probe_saved_and_loaded_gives_the_same_probabilities(probe, tmp_path):
    probe.save(tmp_path / "probe.safetensors")
    loaded = Probe.load(tmp_path / "probe.safetensors")
    images, _ = squares(seed=3)
    assert np.array_equal(loaded.predict(images), probe.predict(images))
    assert (loaded.names, loaded.attribute, loaded.accuracy) == (probe.names, probe.attribute, probe.accuracy)
    assert np.array_equal(loaded.confusion, probe.confusion) and np.array_equal(loaded.counts, probe.counts)
    _, metadata = load_tensors(tmp_path / "probe.safetensors")
    assert metadata["ddm.kind"] == "probe" and json.loads(metadata["ddm.names"]) == ["blue", "red"]
    probe.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "probe.safetensors").read_bytes()


def test_images_of_any_size_are_cropped_and_scaled(probe):
    images, _ = squares(count=4, size=48)
    wide = np.pad(images, ((0, 0), (0, 0), (20, 20), (0, 0)))
    assert np.array_equal(probe.predict(wide), probe.predict(images))
    assert probe.predict(images[:0]).shape == (0, 2)


def test_gradients_flow_through_the_logits_to_the_images(probe):
    images, _ = squares(count=2)
    tensors = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).requires_grad_()
    logits = probe.logits(tensors)
    assert np.allclose(logits.softmax(dim=1).detach().numpy(), probe.predict(images), atol=1e-5)
    logits[:, 0].sum().backward()
    assert tensors.grad.abs().sum() > 0


def test_a_linear_probe_reads_the_features_of_an_extractor(linear, tmp_path):
    images, labels = squares(seed=9)
    assert [linear.names[index] for index in linear.predict(images).argmax(axis=1)] == labels
    linear.save(tmp_path / "linear.safetensors")
    loaded = Probe.load(tmp_path / "linear.safetensors", extractor=Means())
    assert np.array_equal(loaded.predict(images), linear.predict(images))
    with pytest.raises(DDMError, match="no gradient"):
        linear.logits(torch.zeros(1, 3, 8, 8))


def test_a_linear_probe_of_three_classes_works_too():
    images, labels = squares()
    images[:8] = 0
    labels[:8] = ["black"] * 8
    found = fit_linear_probe(images, labels, "colour", Means())
    assert found.names == ("black", "blue", "red")
    assert found.accuracy == 1.0


def test_a_linear_probe_refuses_to_guess_without_its_extractor(linear, tmp_path):
    images, _ = squares(count=2)
    linear.save(tmp_path / "linear.safetensors")
    loaded = Probe.load(tmp_path / "linear.safetensors")
    with pytest.raises(DDMError, match=r"colour means, which is not at hand\. Give the folder"):
        loaded.predict(images)
    with pytest.raises(DDMError, match=r"made with colour means, but an unnamed"):
        Probe.load(tmp_path / "linear.safetensors", extractor=lambda images: images.mean(axis=(1, 2)))
    loaded.extractor = lambda images: np.zeros((len(images), 7))
    with pytest.raises(DDMError, match=r"needs 3 features per image.*\[7\]"):
        loaded.predict(images)


def test_labels_that_cannot_be_learned_are_errors_in_words():
    images, labels = squares()
    with pytest.raises(DDMError, match="at least two classes"):
        fit_probe(images, ["one"] * 24, "colour")
    with pytest.raises(DDMError, match="one image only of “green”"):
        fit_probe(images, [*labels[:-1], "green"], "colour")
    with pytest.raises(DDMError, match="24 images but 23 labels"):
        fit_probe(images, labels[:-1], "colour")
    with pytest.raises(DDMError, match="uint8"):
        fit_probe(images / 255, labels, "colour")


def test_files_that_are_no_probe_are_errors_in_words(probe, tmp_path):
    path = tmp_path / "probe.safetensors"
    save_tensors(path, {"a": torch.zeros(1)}, {"ddm.kind": "adapter"})
    with pytest.raises(DDMError, match="is not a probe"):
        Probe.load(path)
    probe.save(path)
    tensors, metadata = load_tensors(path)
    save_tensors(path, tensors, metadata | {"ddm.version": "2"})
    with pytest.raises(DDMError, match="format 2"):
        Probe.load(path)
    for broken in (
        metadata | {"ddm.names": '["a"]'},
        metadata | {"ddm.architecture": '{"kind": "network", "width": 64}'},
        metadata | {"ddm.confusion": "nonsense"},
        {key: value for key, value in metadata.items() if key != "ddm.temperature"},
    ):
        save_tensors(path, tensors, broken)
        with pytest.raises(DDMError, match="complete"):
            Probe.load(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DDMError, match="truncated"):
        Probe.load(path)
    (tmp_path / "probe.pt").write_bytes(b"x")
    with pytest.raises(DDMError, match="pickle"):
        Probe.load(tmp_path / "probe.pt")


def test_calibration_finds_the_temperature_of_overconfident_logits():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3))
    odds = np.exp(logits)
    chance = odds / odds.sum(axis=1, keepdims=True)
    truth = (rng.random((4000, 1)) > chance.cumsum(axis=1)).sum(axis=1).clip(max=2)
    assert calibrate(logits * 3, truth) == pytest.approx(3, rel=0.1)


def test_augmentation_repeats_with_its_generator_and_keeps_the_colours():
    images = torch.full((64, 3, 64, 64), 0.5)
    images[:, 0] = 0.8
    first, second = (augment(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.min() >= 0 and first.max() <= 1
    means = first.mean(dim=(2, 3))
    assert means.std(dim=0).min() > 0.01
    assert (means[:, 0] - means[:, 1]).min() > 0.15
