"""Images: opening what people really have on disk, cropping to a square, contact sheets.

Files are untrusted: only raster formats are tried, the pixel limit holds whatever the host has set, the file is
verified and then reopened, and a truncated one is an error instead of an image with grey at the bottom.
"""

import io
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, ImageOps, PngImagePlugin, UnidentifiedImageError

from .error import DDMError

SUFFIXES = frozenset(
    {".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".webp", ".gif", ".bmp", ".dib"}
    | {".tif", ".tiff", ".avif", ".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".hif", ".jxl"}
)
# What looks like an image too, and is never read: it is named, so that nobody misses it.
OTHER_SUFFIXES = frozenset(
    {".psd", ".xcf", ".kra", ".svg", ".ico", ".icns", ".tga", ".jp2", ".j2k", ".exr", ".hdr", ".dds"}
    | {".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf"}
)
# Formats that Pillow reads with a package of its own; it is used where it is installed.
PLUGINS = dict.fromkeys((".heic", ".heif", ".hif"), "pillow-heif") | {".jxl": "pillow-jxl-plugin"}
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3  # Pillow's own default; hosts are known to lift theirs
FLAT = 8  # images whose pixels differ by less than this, of 255, show nothing
PIXEL_BYTES = 16  # of memory, at most, that a pixel needs while it is read

# Pillow picks its reader by content whatever the name, and some readers (EPS, WMF) start other programs.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "PPM", "HEIF", "JXL")
# Workflows are kept in the text of PNG files, and may be large: so many bytes of it are read, and for each of the file.
TEXT, TEXT_PER_BYTE = 6 << 20, 10


def open_image(path: str | os.PathLike, size: int | tuple[int, int] | None = None) -> Image.Image:
    """Open an image file as RGB.

    16-bit, palette, grey, CMYK and transparent images are converted (white lies behind what is transparent), colours of
    another ICC profile become sRGB, an EXIF rotation is applied, and of an animation the first frame is taken.

    Args:
        path: the file.
        size: what to crop and scale to in pixels (see `fit`); None leaves the image as it is.

    Raises:
        DDMError: no such file, no image, truncated, or so large that it may be a decompression bomb.
    """
    path = Path(path)
    with _readable(path):
        image = _to_rgb(_upright(_load(path)))
    return image if size is None else fit(image, size)


def open_opacity(path: str | os.PathLike) -> Image.Image | None:
    """How opaque an image file is, as a grey image (255 is opaque); None if all of it is.

    Raises:
        DDMError: as `open_image`.
    """
    path = Path(path)
    with _readable(path):
        image = _upright(_load(path))
        if not _transparent(image):
            return None
        opacity = image.convert("RGBA").getchannel("A")
    return None if opacity.getextrema()[0] == 255 else opacity


def check_image(path: str | os.PathLike) -> tuple[int, int, bool]:
    """Make sure that an image can be read to its end.

    Every byte is decoded, since the header of a truncated file is perfectly fine; a JPEG at an eighth of its size,
    which is quick.

    Returns:
        Its width and height as it is shown (upright), and whether it shows something: not one colour alone.

    Raises:
        DDMError: as `open_image`.
    """
    path = Path(path)
    with _readable(path):
        image = _load(path, draft=True)
        width, height = image.info["size"]
        shape = (height, width) if _lies(image) else (width, height)
        return *shape, not _flat(image)


def fit(
    image: Image.Image, size: int | tuple[int, int], resampling: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """Crop an image around its centre to the shape of `size`, and scale it to that.

    Args:
        size: width and height in pixels, or the side of a square.
    """
    size = (size, size) if isinstance(size, int) else size
    return image if image.size == size else ImageOps.fit(image, size, resampling)


def to_array(images: Iterable[Image.Image]) -> np.ndarray:
    """Stack RGB images of one size into a uint8 array [N, H, W, 3].

    Raises:
        DDMError: no images, or images of different sizes.
    """
    arrays = [np.asarray(image.convert("RGB"), dtype=np.uint8) for image in images]
    if not arrays:
        raise DDMError("There are no images to put together. Check the folder or the selection.")
    shapes = {array.shape[:2] for array in arrays}
    if len(shapes) > 1:
        listed = ", ".join(f"{width}×{height}" for height, width in sorted(shapes))
        raise DDMError(f"The images have different sizes ({listed}). Crop them to one size first.")
    return np.stack(arrays)


def from_pixels(pixels: np.ndarray) -> Image.Image:
    """An RGB image of floats [H, W, C] in 0 to 1, as graphs hand them around.

    C is 1 (grey), 3, or 4 (white lies behind what is transparent). What is out of range is clipped; with a value
    that is not finite the whole image is black, which counts as showing nothing.

    Raises:
        DDMError: another shape.
    """
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4) or 0 in pixels.shape:
        raise DDMError(
            f"An image has height, width and 1, 3 or 4 channels, but this one has the shape {list(pixels.shape)}. "
            "Connect an IMAGE."
        )
    if not np.isfinite(pixels).all():
        return Image.new("RGB", (pixels.shape[1], pixels.shape[0]))
    pixels = np.clip(np.asarray(pixels, dtype=np.float32), 0, 1)
    if pixels.shape[-1] == 4:
        opacity = pixels[..., 3:]
        pixels = pixels[..., :3] * opacity + 1 - opacity
    pixels *= 255
    whole = np.rint(pixels, out=pixels).astype(np.uint8)
    return Image.fromarray(whole if whole.shape[-1] == 3 else whole[..., 0]).convert("RGB")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever Pillow raises into a sentence; bomb warnings are errors and truncation is never forgiven."""
    forgiving = ImageFile.LOAD_TRUNCATED_IMAGES  # some hosts switch it on for everybody
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    texts = PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    try:
        longest = TEXT + TEXT_PER_BYTE * path.stat().st_size
        PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = longest
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except DDMError:
        raise
    except FileNotFoundError as error:
        raise DDMError(f"There is no image {path}. Check the name and the folder.") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DDMError(_too_large(path)) from error
    except UnidentifiedImageError as error:
        plugin = PLUGINS.get(path.suffix.lower())
        with_plugin = f"Install {plugin}, or save" if plugin else "Save"
        raise DDMError(
            f"{path} is not an image that can be read. {with_plugin} it again as PNG or JPEG, or remove it."
        ) from error
    except (PermissionError, IsADirectoryError) as error:
        raise DDMError(f"{path} may not be read ({error.strerror}). Change its permissions or remove it.") from error
    except Exception as error:
        raise DDMError(
            f"{path} is damaged or truncated ({error}). Copy it again from its source, or remove it."
        ) from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = forgiving
        PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY = texts


@cache
def _init_formats() -> None:
    """Let Pillow know its formats, and those of `PLUGINS` that are installed."""
    Image.init()
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    with suppress(ImportError):
        import pillow_jxl  # noqa: F401 (importing it registers the format)


def _load(path: Path, draft: bool = False) -> Image.Image:
    _init_formats()
    formats = [name for name in _FORMATS if name in Image.OPEN]  # AVIF depends on how Pillow was built
    with Image.open(path, formats=formats) as image:
        if image.width * image.height > MAX_PIXELS:
            raise DDMError(_too_large(path))
        image.verify()
    with Image.open(path, formats=formats) as image:
        size = image.size
        if draft:
            image.draft(None, (1, 1))
        image.load()
        loaded = image.copy()
    loaded.info["size"] = size
    return loaded


def _too_large(path: Path) -> str:
    return (
        f"{path} has more than {MAX_PIXELS // 1_000_000} million pixels and may be a decompression bomb, so it is not "
        "opened. Scale it down first if you trust it."
    )


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image  # which would be a copy otherwise
    except Exception:
        return image  # EXIF that makes no sense is no reason to lose an image that does


def _lies(image: Image.Image) -> bool:
    """Whether `_upright` turns an image by a quarter."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except Exception:
        return False


def _flat(image: Image.Image) -> bool:
    """Whether an image has one colour alone, or is transparent everywhere."""
    if image.mode in ("F", "P", "PA"):
        return image.getcolors(1) is not None
    found = image.getextrema()
    bands = dict(zip(image.getbands(), found if isinstance(found[0], tuple) else (found,), strict=True))
    return bands.get("A", (1, 1))[1] == 0 or all(high - low < FLAT for low, high in bands.values())


def _transparent(image: Image.Image) -> bool:
    return "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info


def _in_srgb(image: Image.Image) -> Image.Image:
    """The image with its colours in sRGB, if it has an ICC profile that says that they are others."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    if image.mode == "P":
        image = image.convert("RGBA" if _transparent(image) else "RGB")
    if image.mode == "LA":
        grey = image.convert("L")
        converted = _in_srgb(grey)
        if converted is not grey:
            converted.putalpha(image.getchannel("A"))
            return converted
    if image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(given).lower():
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        converted = ImageCms.profileToProfile(image, given, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image  # a profile that makes no sense is no reason to lose an image that does
    converted.info = {key: value for key, value in image.info.items() if key != "icc_profile"}
    return converted


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _deep_grey(image)
    image = _in_srgb(image)
    if _transparent(image):
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
        del white
        return image.convert("RGB")
    return image.convert("RGB")


def _deep_grey(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or floating point, to 8 bits; Pillow's own conversion clips at 255 instead of scaling."""
    values = np.nan_to_num(np.array(image, dtype=np.float32), copy=False)
    white = 257 * 255 if image.mode != "F" else 1 if values.max() <= 1 else 255
    values *= 255 / white
    np.clip(np.rint(values, out=values), 0, 255, out=values)
    grey = Image.fromarray(values.astype(np.uint8))
    grey.info = {key: value for key, value in image.info.items() if key == "icc_profile"}
    return grey
