"""Draws the pack's icon and banner for the registry: `python benchmarks/icon.py`."""

import json
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
PEOPLE, OUT = ROOT / "examples" / "people_emoji", ROOT / "examples" / "images"
BACKGROUND, TEXT, MEN, WOMEN = "#17212b", "#f4f1ea", "#4f8fba", "#e59c55"
ICON, BANNER = (400, 400), (1260, 540)  # a square, and 21:9
SMOOTH = 4


def icon() -> Image.Image:
    """Two equal halves, and between them α."""
    side = ICON[0] * SMOOTH
    image = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((0, 0, side - 1, side - 1), side // 6, fill=BACKGROUND)
    box = (side // 8, side // 8, side - side // 8, side - side // 8)
    draw.pieslice(box, 90, 270, fill=MEN)
    draw.pieslice(box, 270, 90, fill=WOMEN)
    draw.text((side // 2, side // 2), "α", font=ImageFont.truetype(face(), side // 2), fill=BACKGROUND, anchor="mm")
    return image.resize(ICON, Image.Resampling.LANCZOS)


def face() -> str:
    """The font that matplotlib brings: it has α."""
    from matplotlib import font_manager

    return font_manager.findfont("DejaVu Sans:bold")


def people(gender: str) -> list[Image.Image]:
    """One image of each role."""
    rows = map(json.loads, (PEOPLE / "metadata.jsonl").read_text(encoding="utf-8").splitlines())
    chosen = [row for row in rows if (row["gender"], row["art_style"], row["skin_tone"]) == (gender, "noto", "medium")]
    return [Image.open(PEOPLE / row["file_name"]).convert("RGBA") for row in islice(chosen, 14)]


def banner() -> Image.Image:
    """Above seven people of whom one is a woman, below as many women as men; beside them the dial."""
    image = Image.new("RGB", BANNER, BACKGROUND)
    draw = ImageDraw.Draw(image)
    men, women = people("man"), people("woman")
    draw.text((60, 52), "ComfyUI-DDM", font=ImageFont.truetype(face(), 58), fill=TEXT)
    draw.text((60, 130), "who does your model draw?", font=ImageFont.truetype(face(), 30), fill=WOMEN)
    for top, label, is_woman in ((210, "α = 0", (5,)), (370, "α = 1", (1, 2, 4, 7))):
        draw.text((60, top + 64), label, font=ImageFont.truetype(face(), 38), fill=TEXT, anchor="lm")
        for column in range(8):
            left = 240 + 122 * column
            draw.rounded_rectangle(
                (left, top, left + 112, top + 128), 16, fill=WOMEN if column in is_woman else MEN, outline=None
            )
            one = (women if column in is_woman else men)[column].resize((96, 96), Image.Resampling.LANCZOS)
            image.paste(one, (left + 8, top + 16), one)
    return image


def main() -> None:
    """Write both."""
    icon().save(OUT / "icon.png", optimize=True)
    banner().quantize(255).save(OUT / "banner.png", optimize=True)
    print(f"{OUT / 'icon.png'} and {OUT / 'banner.png'}")


if __name__ == "__main__":
    main()
