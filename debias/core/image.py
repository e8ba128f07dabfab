"""Pictures: opening what people really have on disk, cropping to a square, contact sheets.

Files are untrusted: only raster formats are tried, the pixel limit holds whatever the host has set, the file is
verified and then reopened, and a truncated one is an error instead of a picture with grey at the bottom.
"""

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from .error import DDMError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
MAX_PIXELS = 1024 * 1024 * 1024 // 4 // 3  # Pillow's own default; hosts are known to lift theirs

# Pillow picks its reader by content whatever the name, and some readers (EPS, WMF) start other programs.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


def open_picture(path: str | os.PathLike, size: int | tuple[int, int] | None = None) -> Image.Image:
    """Open a picture file as RGB.

    16-bit, palette, grey, CMYK and transparent pictures are converted (white lies behind what is transparent), an EXIF
    rotation is applied, and of an animation the first frame is taken.

    Args:
        path: the file.
        size: what to crop and scale to in pixels (see `fit`); None leaves the picture as it is.

    Raises:
        DDMError: no such file, no picture, truncated, or so large that it may be a decompression bomb.
    """
    path = Path(path)
    with _readable(path):
        picture = _to_rgb(_upright(_load(path)))
    return picture if size is None else fit(picture, size)


def open_opacity(path: str | os.PathLike) -> Image.Image | None:
    """How opaque a picture file is, as a grey picture (255 is opaque); None if all of it is.

    Raises:
        DDMError: as `open_picture`.
    """
    path = Path(path)
    with _readable(path):
        picture = _upright(_load(path))
        if not _transparent(picture):
            return None
        opacity = picture.convert("RGBA").getchannel("A")
    return None if opacity.getextrema()[0] == 255 else opacity


def check_picture(path: str | os.PathLike) -> tuple[int, int]:
    """Make sure that a picture can be read to its end, and return its width and height as it is shown (upright).

    Every byte is decoded, since the header of a truncated file is perfectly fine; a JPEG at an eighth of its size,
    which is quick.

    Raises:
        DDMError: as `open_picture`.
    """
    path = Path(path)
    with _readable(path):
        picture = _load(path, draft=True)
        width, height = picture.info["size"]
        return (height, width) if _lies(picture) else (width, height)


def fit(
    picture: Image.Image, size: int | tuple[int, int], resampling: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """Crop a picture around its centre to the shape of `size`, and scale it to that.

    Args:
        size: width and height in pixels, or the side of a square.
    """
    size = (size, size) if isinstance(size, int) else size
    return picture if picture.size == size else ImageOps.fit(picture, size, resampling)


def to_array(pictures: Iterable[Image.Image]) -> np.ndarray:
    """Stack RGB pictures of one size into a uint8 array [N, H, W, 3].

    Raises:
        DDMError: no pictures, or pictures of different sizes.
    """
    arrays = [np.asarray(picture.convert("RGB"), dtype=np.uint8) for picture in pictures]
    if not arrays:
        raise DDMError("There are no pictures to put together. Check the folder or the selection.")
    shapes = {array.shape[:2] for array in arrays}
    if len(shapes) > 1:
        listed = ", ".join(f"{width}×{height}" for height, width in sorted(shapes))
        raise DDMError(f"The pictures have different sizes ({listed}). Crop them to one size first.")
    return np.stack(arrays)


def from_pixels(pixels: np.ndarray) -> Image.Image:
    """An RGB picture of floats [H, W, C] in 0 to 1, as graphs hand them around.

    C is 1 (grey), 3, or 4 (white lies behind what is transparent). What is out of range is clipped, NaN is black.

    Raises:
        DDMError: another shape.
    """
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4) or 0 in pixels.shape:
        raise DDMError(
            f"A picture has height, width and 1, 3 or 4 channels, but this one has the shape {list(pixels.shape)}. "
            "Connect an IMAGE."
        )
    pixels = np.fmax(np.asarray(pixels, dtype=np.float32), 0)  # which is 0 for NaN too
    np.fmin(pixels, 1, out=pixels)
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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except DDMError:
        raise
    except FileNotFoundError as error:
        raise DDMError(f"There is no picture {path}. Check the name and the folder.") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DDMError(_too_large(path)) from error
    except UnidentifiedImageError as error:
        raise DDMError(
            f"{path} is not a picture that can be read. Save it again as PNG or JPEG, or remove it."
        ) from error
    except (PermissionError, IsADirectoryError) as error:
        raise DDMError(f"{path} may not be read ({error.strerror}). Change its permissions or remove it.") from error
    except Exception as error:
        raise DDMError(
            f"{path} is damaged or truncated ({error}). Copy it again from its source, or remove it."
        ) from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = forgiving


def _load(path: Path, draft: bool = False) -> Image.Image:
    Image.init()
    formats = [name for name in _FORMATS if name in Image.OPEN]  # AVIF depends on how Pillow was built
    with Image.open(path, formats=formats) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            raise DDMError(_too_large(path))
        picture.verify()
    with Image.open(path, formats=formats) as picture:
        size = picture.size
        if draft:
            picture.draft(None, (1, 1))
        picture.load()
        loaded = picture.copy()
    loaded.info["size"] = size
    return loaded


def _too_large(path: Path) -> str:
    return (
        f"{path} has more than {MAX_PIXELS // 1_000_000} million pixels and may be a decompression bomb, so it is not "
        "opened. Scale it down first if you trust it."
    )


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:
        return picture  # EXIF that makes no sense is no reason to lose a picture that does


def _lies(picture: Image.Image) -> bool:
    """Whether `_upright` turns a picture by a quarter."""
    try:
        return picture.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except Exception:
        return False


def _transparent(picture: Image.Image) -> bool:
    return "A" in picture.getbands() or "a" in picture.getbands() or "transparency" in picture.info


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        return _deep_grey(picture).convert("RGB")
    if _transparent(picture):
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def _deep_grey(picture: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or floating point, to 8 bits; Pillow's own conversion clips at 255 instead of scaling."""
    values = np.nan_to_num(np.asarray(picture, dtype=np.float64))
    white = 257 * 255 if picture.mode != "F" else 1 if values.max() <= 1 else 255
    return Image.fromarray(np.clip((values * (255 / white)).round(), 0, 255).astype(np.uint8))
