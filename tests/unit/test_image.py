import numpy as np
import pytest
from comfyui_ddm.debias.core import image as images
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.debias.core.image import check_image, fit, open_image, to_array
from PIL import Image, ImageCms, ImageFile
from PIL.PngImagePlugin import PngInfo


def gradient(width=40, height=32):
    across = np.linspace(0, 255, width).astype(np.uint8)
    return Image.fromarray(np.stack([np.tile(across, (height, 1))] * 3, axis=-1))


def corner(image):
    return image.getpixel((0, 0))


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path):
    values = np.full((16, 16), 0x8000, dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray(values).save(tmp_path / "deep.tif")
    for name in ("deep.png", "deep.tif"):
        opened = open_image(tmp_path / name)
        assert opened.mode == "RGB"
        assert corner(opened) == (128, 128, 128)


def test_floating_point_grey_between_0_and_1_is_scaled(tmp_path):
    Image.fromarray(np.full((16, 16), 0.5, dtype=np.float32)).save(tmp_path / "float.tif")
    assert corner(open_image(tmp_path / "float.tif")) == (128, 128, 128)


def test_palette_and_cmyk_images_keep_their_colours(tmp_path):
    red = Image.new("RGB", (16, 16), (250, 10, 10))
    red.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    red.convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    for name in ("palette.png", "print.jpg"):
        opened = open_image(tmp_path / name)
        assert opened.mode == "RGB"
        assert np.abs(np.subtract(corner(opened), (250, 10, 10))).max() < 8


def test_black_and_white_and_8_bit_grey_open_as_rgb(tmp_path):
    for mode in ("1", "L"):
        Image.new(mode, (16, 16), 255 if mode == "L" else 1).save(tmp_path / f"{mode}.png")
        assert corner(open_image(tmp_path / f"{mode}.png")) == (255, 255, 255)


def test_white_lies_behind_what_is_transparent(tmp_path):
    Image.new("RGBA", (16, 16), (0, 0, 0, 0)).save(tmp_path / "rgba.png")
    Image.new("LA", (16, 16), (0, 0)).save(tmp_path / "la.png")
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    palette.save(tmp_path / "p.png", transparency=0)
    Image.new("L", (16, 16), 0).save(tmp_path / "l.png", transparency=0)
    for name in ("rgba.png", "la.png", "p.png", "l.png"):
        assert corner(open_image(tmp_path / name)) == (255, 255, 255), name
    Image.new("RGBA", (16, 16), (0, 0, 0, 128)).save(tmp_path / "half.png")
    assert corner(open_image(tmp_path / "half.png")) == (127, 127, 127)


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ((255, 0, 0), (0, 0, 255)))
    for name in ("moving.gif", "moving.png", "moving.webp"):
        red.save(tmp_path / name, save_all=True, append_images=[blue], duration=100)
        first = corner(open_image(tmp_path / name))
        assert first[0] > 240 and first[2] < 15, name


def test_an_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient(40, 16).save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (16, 40)


def test_exif_that_makes_no_sense_does_not_lose_the_image(tmp_path):
    gradient().save(tmp_path / "odd.jpg", exif=b"Exif\x00\x00nonsense")
    assert open_image(tmp_path / "odd.jpg").size == (40, 32)


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.webp", "cut.gif", "cut.bmp", "cut.tif"])
@pytest.mark.parametrize("host_is_forgiving", [False, True])
def test_a_truncated_image_is_an_error_that_names_the_file(tmp_path, monkeypatch, name, host_is_forgiving):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", host_is_forgiving)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / name
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for read in (open_image, check_image):
        with pytest.raises(DDMError, match=name):
            read(path)
    assert host_is_forgiving == ImageFile.LOAD_TRUNCATED_IMAGES


def test_what_is_no_image_is_an_error_that_names_the_file(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    for name in ("text.png", "empty.jpg", "folder.png", "missing.png"):
        with pytest.raises(DDMError, match=name):
            open_image(tmp_path / name)


def test_formats_that_start_other_programs_are_not_tried(tmp_path):
    gradient().save(tmp_path / "page.eps")
    (tmp_path / "page.eps").rename(tmp_path / "page.png")
    with pytest.raises(DDMError, match="not an image"):
        open_image(tmp_path / "page.png")


@pytest.mark.parametrize("host_limit", [100, 60, None])
def test_a_decompression_bomb_is_an_error_whatever_limit_the_host_has(tmp_path, monkeypatch, host_limit):
    gradient(16, 16).save(tmp_path / "huge.png")
    monkeypatch.setattr(images, "MAX_PIXELS", 200)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", host_limit)
    with pytest.raises(DDMError, match=r"huge\.png.*bomb"):
        open_image(tmp_path / "huge.png")


def test_checking_returns_the_size_as_stored(tmp_path):
    gradient(400, 320).save(tmp_path / "large.jpg")
    assert check_image(tmp_path / "large.jpg")[:2] == (400, 320)


def test_fitting_crops_the_centre_square():
    wide = Image.new("RGB", (90, 30), (255, 0, 0))
    wide.paste((0, 255, 0), (30, 0, 60, 30))
    array = np.asarray(fit(wide, 16))
    assert array.shape == (16, 16, 3)
    assert (array[:, 3:-3] == (0, 255, 0)).all()
    assert fit(gradient(8, 8), 64).size == (64, 64)


def test_opening_at_a_size_is_opening_and_fitting(tmp_path):
    gradient().save(tmp_path / "a.png")
    expected = np.asarray(fit(open_image(tmp_path / "a.png"), 16))
    assert (np.asarray(open_image(tmp_path / "a.png", 16)) == expected).all()


def test_images_become_one_array_and_different_sizes_are_refused():
    assert to_array([gradient(8, 8)] * 3).shape == (3, 8, 8, 3)
    with pytest.raises(DDMError, match=r"8×8, 9×8"):
        to_array([gradient(8, 8), gradient(9, 8)])
    with pytest.raises(DDMError, match="no images"):
        to_array([])


def wide_gamut():
    """A profile whose green is much greener than that of sRGB, made of sRGB's own by changing its primary."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    place = data.index(b"gXYZ")
    offset = int.from_bytes(data[place + 4 : place + 8], "big")
    data[offset + 8 : offset + 12] = round(0.20 * 65536).to_bytes(4, "big")
    return bytes(data).replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be")).replace(b"sRGB", b"wide")


def test_colours_of_another_profile_become_srgb(tmp_path):
    image = Image.new("RGB", (8, 8), (60, 180, 60))
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "wide.png", icc_profile=wide_gamut())
    image.save(tmp_path / "odd.png", icc_profile=b"no profile")
    image.save(tmp_path / "srgb.png", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    plain, wide, odd, srgb = (np.asarray(open_image(tmp_path / f"{name}.png"), int) for name in
                              ("plain", "wide", "odd", "srgb"))  # fmt: skip
    assert np.abs(wide - plain).max() > 10
    assert np.array_equal(odd, plain) and np.array_equal(srgb, plain)


def test_an_image_that_carries_a_long_text_is_not_lost(tmp_path):
    text = PngInfo()
    text.add_text("workflow", "x" * (3 << 20), zip=True)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png", pnginfo=text)
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (255, 0, 0)
    assert check_image(tmp_path / "a.png")[:2] == (8, 8)
