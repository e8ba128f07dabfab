"""Images that are gathered over several runs, as graphs hand them over."""

import gc
import weakref

import numpy as np
import pytest
import torch
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.core.image import from_pixels
from comfyui_ddm.debias.evaluation.accumulator import Accumulator, ImageMeta
from comfyui_ddm.debias.evaluation.compare import Evaluation
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.probes.probe import Probe
from PIL import Image


class Brightness:
    """Stands in for a model: the mean brightness of an image."""

    identity = "brightness"

    def __call__(self, images):
        return images.reshape(len(images), -1).mean(1, keepdims=True) / 255


def probe(attribute="tone", names=("dark", "light")):
    head = torch.nn.Linear(1, 2)
    head.load_state_dict({"weight": torch.tensor([[-20.0], [20.0]]), "bias": torch.tensor([10.0, -10.0])})
    return Probe(names, attribute, head, None, Brightness(), "brightness")


def image(grey, size=8):
    """About that grey; one of a single colour would show nothing."""
    drawn = Image.new("L", (size, size), grey)
    drawn.paste(grey + 12 if grey < 128 else grey - 12, (0, 0, size // 2, size))
    return drawn.convert("RGB")


def collection():
    one = probe()
    return Accumulator([one], [Target.uniform(one.names)])


def origins(count, seed=7, alpha=1.0, prompt="a lamp"):
    return [ImageMeta(prompt, alpha, seed, place) for place in range(count)]


def test_images_of_several_runs_add_up():
    seen = collection()
    assert seen.add([probe()], [image(10), image(240)], origins(2, seed=1)) == 2
    assert seen.add([probe()], [image(250)], origins(1, seed=2)) == 1
    records = seen.records()
    assert records.attributes[0].decided().tolist() == [0, 1, 1]
    assert records.prompts == ["a lamp"]


def test_images_that_show_nothing_are_undetermined():
    seen = collection()
    blank = [Image.new("RGB", (8, 8), colour) for colour in ("black", "white", "grey")]
    seen.add([probe()], [*blank, image(240)], origins(4))
    assert seen.records().attributes[0].decided().tolist() == [-1, -1, -1, 1]


def test_nearly_the_same_image_of_another_seed_is_undetermined_and_named():
    seen = collection()
    for seed, shade in ((1, 240), (2, 239), (3, 230), (4, 240)):
        seen.add([probe()], [image(shade)], origins(1, seed, prompt="a fire" if seed == 4 else "a lamp"))
    records = seen.records()
    assert records.attributes[0].decided().tolist() == [1, -1, 1, 1]
    assert records.notes == ["Undetermined, because they are nearly the same as another: seed 2."]


def test_what_differs_in_how_images_were_made_tells_conditions_apart_and_the_rest_is_said_once():
    seen, long = collection(), "ugly, " * 40
    for seed, negative in enumerate(("", f"{long}a{long}", f"{long}b{long}", "")):
        made = (("steps", "20"), *((("negative prompt", negative),) if negative else ()))
        seen.add(
            [probe()], [image(10 * seed)], [ImageMeta("a lamp", 1.0, seed, adapter="fair" * (seed < 3), made=made)]
        )
    records = seen.records()
    assert [(records.condition == i).sum() for i in range(len(records.conditions))] == [2, 1, 1]
    assert all(len(one.label) < 120 for one in records.conditions)
    assert records.notes == ["All images were made with: steps 20, adapter fair."]


def test_the_same_image_of_the_same_origin_counts_once():
    seen = collection()
    assert seen.add([probe()], [image(10), image(10)], origins(2)) == 2  # two places of one batch
    assert seen.add([probe()], [image(10), image(10)], origins(2)) == 0
    assert seen.add([probe()], [image(10)], [ImageMeta("a lamp", 1.0, None)]) == 1
    assert seen.add([probe()], [image(10)], [ImageMeta("a lamp", 1.0, None)]) == 0
    assert len(seen.records().prompt) == 3


def test_the_same_image_of_another_prompt_or_strength_counts_again():
    seen = collection()
    seen.add([probe()], [image(10)], origins(1))
    assert seen.add([probe()], [image(10)], origins(1, alpha=0.0)) == 1
    assert seen.add([probe()], [image(10)], origins(1, prompt="a fire")) == 1


def test_images_of_one_seed_and_place_are_a_pair_and_others_are_not():
    seen = collection()
    for alpha, shade in ((0.0, 10), (1.0, 240)):
        seen.add([probe()], [image(shade), image(shade + 1)], origins(2, seed=5, alpha=alpha))
        seen.add([probe()], [image(shade + 2)], origins(1, seed=6, alpha=alpha))
        seen.add([probe()], [image(shade + 3)], [ImageMeta("a lamp", alpha)])
    records = seen.records()
    assert len(records.pairs(records.after)) == 3
    assert len(set(records.seed.tolist())) == 5
    assert records.names[:4] == ["seed 5", "seed 5, image 2", "seed 6", "image 1"]


def test_what_is_cancelled_leaves_nothing_behind():
    seen = collection()

    def cancel(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seen.add([probe()], [image(10)], origins(1), cancel)
    assert len(seen) == 0
    assert seen.add([probe()], [image(10)], origins(1)) == 1


def test_the_model_behind_a_probe_is_not_kept():
    model = Brightness()
    gone = weakref.ref(model)
    one = probe()
    one.extractor = model
    seen = Accumulator([one], [None])
    seen.add([one], [image(10)], origins(1))
    del model, one
    gc.collect()
    assert gone() is None
    assert len(seen) == 1


def test_a_collection_without_images_has_nothing_to_report():
    with pytest.raises(DDMError, match="no images"):
        collection().records()


def test_a_target_over_other_classes_is_refused_before_any_image():
    with pytest.raises(DDMError, match=r"'man', 'woman'.*'dark', 'light'"):
        Accumulator([probe()], [Target.uniform(("man", "woman"))])
    with pytest.raises(DDMError, match="Two of the probes"):
        Accumulator([probe(), probe()], [None, None])


def test_the_report_shows_the_images_though_they_are_not_kept():
    seen = collection()
    seen.add([probe()], [image(shade) for shade in range(0, 240, 10)], origins(24))
    report = Evaluation.of(seen.records()).report
    shown = [one for sheet in report.sheets for row in sheet.images for one in row]
    assert len(shown) == 10
    assert all(one.uri.startswith("data:image/jpeg") for one in shown)
    assert shown[1].caption == "seed 7, image 2: dark"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_one_pixel_and_of_one_three_or_four_channels_are_read(channels):
    made = from_pixels(np.full((1, 1, channels), 1.0, np.float32))
    assert (made.mode, made.size, made.getpixel((0, 0))) == ("RGB", (1, 1), (255, 255, 255))


def test_white_lies_behind_what_is_transparent():
    pixels = np.zeros((1, 2, 4), np.float32)
    pixels[0, 1, 3] = 1
    assert [from_pixels(pixels).getpixel((x, 0))[0] for x in (0, 1)] == [255, 0]


def test_values_out_of_range_are_clipped_and_the_graphs_own_array_stays_as_it_was():
    pixels = np.array([[[2.0, -1.0, 0.5]]], np.float32)
    before = pixels.copy()
    assert from_pixels(pixels).getpixel((0, 0)) == (255, 0, 128)
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_an_image_with_one_value_that_is_not_finite_shows_nothing_and_does_not_count(value, channels):
    pixels = np.random.default_rng(0).random((8, 8, channels), np.float32)
    pixels[3, 4, 0] = value
    records = Accumulator([probe()], [None])
    records.add([probe()], [from_pixels(pixels)], [ImageMeta("a room", 0.0, 0)])
    report = Evaluation.of(records.records()).report
    assert report.attributes[0].overall[0].undetermined == 1
    assert any("not finite" in line for line in report.notes + report.remarks)


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 2), (0, 4, 3), (2, 4, 4, 3)])
def test_what_is_no_image_is_refused_in_a_sentence(shape):
    with pytest.raises(DDMError, match="Connect an IMAGE"):
        from_pixels(np.zeros(shape, np.float32))


def test_images_that_were_looked_at_before_count_as_if_they_were_looked_at_now():
    probes, targets = [probe()], [Target.uniform(("dark", "light"))]
    images = [from_pixels(np.full((8, 8, 3), value, np.float32)) for value in (0.1, 0.9, 0.8)]
    origins = [ImageMeta("a room", 0.5, seed) for seed in range(3)]
    now, before = Accumulator(probes, targets), Accumulator(probes, targets)
    now.add(probes, images, origins)
    before.add_looks(before.look(probes, images, ["a room"] * 3), origins)
    one, other = (kept.records() for kept in (now, before))
    assert np.array_equal(one.attributes[0].probabilities, other.attributes[0].probabilities)
    assert np.array_equal(one.features, other.features) and one.thumbnails == other.thumbnails
    assert (one.seed == other.seed).all() and one.names == other.names
    before.add_looks(before.look(probes, images[:1], ["a room"]), origins[:1])
    assert len(before) == 3
