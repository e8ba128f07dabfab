"""Images keep about their shape, at no more than the model's native area."""

import pytest
from comfyui_ddm.training.data.buckets import assign, bucket_sizes
from comfyui_ddm.training.models.base import Base
from comfyui_ddm.training.models.family import named_family


class Model:
    """What buckets need to know of a base."""

    side_step, family = Base.side_step, named_family("sd1")

    def __init__(self, side, levels):
        self.image_size, self.vae_factor = side, 8
        self.denoiser = type("denoiser", (), {"config": type("config", (), {"block_out_channels": (32,) * levels})})


@pytest.mark.parametrize(
    ("side", "levels", "step"), [(512, 4, 64), (768, 4, 64), (1024, 3, 64), (64, 2, 16), (256, 4, 64)]
)
def test_sides_can_be_halved_by_the_unet_and_no_bucket_is_larger_than_the_native_square(side, levels, step):
    sizes = bucket_sizes(Model(side, levels))
    assert (side, side) in sizes and len(sizes) > 4
    assert all(width % step == height % step == 0 and width * height <= side * side for width, height in sizes)
    assert all(side // 2 <= edge <= 2 * side for size in sizes for edge in size)
    assert {(height, width) for width, height in sizes} == set(sizes)


def test_the_buckets_of_sd_are_the_usual_ones():
    assert {(640, 384), (576, 448), (512, 512), (448, 576), (768, 320)} <= set(bucket_sizes(Model(512, 4)))


def test_an_image_goes_where_least_of_it_is_cut_off():
    images = [(3000, 2000), (2000, 3000), (800, 800), (1920, 1080), (10, 4000)]
    found = assign(images, bucket_sizes(Model(512, 4)), fewest=1)
    assert found == [(640, 384), (384, 640), (512, 512), (640, 384), (256, 1024)]


def test_a_bucket_of_few_images_is_given_up_for_the_next_one():
    sizes = [(48, 80), (64, 64), (80, 48), (128, 32)]
    images = [(100, 100)] * 5 + [(160, 100)] * 4 + [(100, 170)] * 2 + [(400, 100)]
    assert assign(images, sizes, fewest=4) == [(64, 64)] * 5 + [(80, 48)] * 4 + [(64, 64)] * 2 + [(80, 48)]
    assert assign(images[-1:], sizes, fewest=4) == [(128, 32)]
