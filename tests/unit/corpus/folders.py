"""Folders of images, with captions and tables."""

import json
import os
import unicodedata
from contextlib import suppress
from unittest.mock import patch

import numpy as np
import torch
from comfyui_ddm.debias.core.image import open_image
from comfyui_ddm.debias.core.io import check_output
from comfyui_ddm.debias.groups.target import Target
from comfyui_ddm.debias.probes.probe import Probe
from comfyui_ddm.training.commands.app import app
from comfyui_ddm.training.data import cache
from comfyui_ddm.training.data.cache import TensorCache, cache_folder
from comfyui_ddm.training.data.file_index import FileIndex
from comfyui_ddm.training.data.read_folder import read_folder
from comfyui_ddm.training.evaluation.evaluate_folder import read_records
from PIL import Image, ImageCms, PngImagePlugin
from typer.testing import CliRunner

from ..runs import write_folder
from . import files, named, refused, used


def captions(folder):
    return read_folder(folder).captions


def with_image(folder, name="face.png"):
    files.image(folder / name)
    return folder


@named("A", "show nothing .*black.png")
def a_black_image_beside_a_good_one(folder):
    files.image(folder / "a.png", (64, 64))
    Image.new("RGB", (64, 64)).save(folder / "black.png")
    probe = Probe.load(files.probe(folder.parent / f"{folder.name}.safetensors"))
    return read_records(folder, [probe], [Target.uniform(probe.names)]).notes


@named("A", r"of one colour, which show nothing: black\.jpg, clear\.png, white\.png")
def images_of_one_colour_to_learn_from(folder):
    for name in ("black.jpg", "white.png"):
        Image.new("P" if name == "white.png" else "RGB", (64, 64)).save(with_image(folder) / name)
    clear = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 4), np.uint8))
    clear.putalpha(0)
    clear.save(folder / "clear.png")
    Image.fromarray(np.eye(32, dtype=np.uint8)).convert("P").save(folder / "line.png")
    return read_folder(folder, "a person").remarks()


@named("A", "The same as another file, and counted once more: b.png")
def an_image_file_that_was_copied(folder):
    for name in ("a.png", "b.png"):
        files.image(folder / name)
    return read_folder(folder, "a person").remarks()


@named("A", "nearly the same as another: b.jpg")
def an_image_that_was_saved_twice(folder):
    image = Image.radial_gradient("L").resize((64, 64)).convert("RGB")
    image.save(folder / "a.png")
    image.save(folder / "b.jpg", quality=90)
    files.image(folder / "c.png", (64, 64), seed=1)
    probe = Probe.load(files.probe(folder.parent / f"{folder.name}.safetensors"))
    data = read_records(folder, [probe], [Target.uniform(probe.names)])
    return data.notes if data.attributes[0].decided(0).tolist().count(-1) == 1 else []


@named("A", r"Several images in one, perhaps.*: 3\.png, grid-0001\.png")
def grids_among_images(folder):
    for name in ("0", "1", "2", "4"):
        files.image(folder / f"{name}.png", (16, 24))
    files.image(folder / "3.png", (48, 24))
    files.image(folder / "grid-0001.png", (16, 24))
    return read_folder(folder).remarks()


@used("D")
def images_in_every_format_that_pillow_has(folder):
    suffixes = {"png", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp", "tif", "ppm"}
    suffixes |= {"avif"} if ".avif" in Image.registered_extensions() else set()  # older versions have none
    for number, suffix in enumerate(sorted(suffixes)):
        files.image(folder / f"{number}.{suffix}", seed=number)
    return len(read_folder(folder).items) == len(suffixes)


@named("D", r"a\.psd")
def an_image_of_a_program(folder):
    (with_image(folder) / "a.psd").write_bytes(b"8BPS")
    return read_folder(folder).remarks()


@named("D", r"not read: a\.jpg_large, b$|not read: a\.jpg_large, b\.")
def images_by_names_that_no_image_has(folder):
    data = files.image(folder / "face.png").read_bytes()
    for name in ("a.jpg_large", "b"):
        (folder / name).write_bytes(data)
    return read_folder(folder).remarks()


@named("D", r"a\.(heic|hif|jxl)")
def images_that_need_a_plugin(folder):
    for name in ("a.heic", "a.hif", "a.jxl"):
        (with_image(folder) / name).write_bytes(b"\0" * 40)
    return read_folder(folder).remarks()


@used("D")
def a_linked_subfolder(folder):
    files.image(folder / "elsewhere" / "a.png")
    (folder / "set").mkdir()
    (folder / "set" / "link").symlink_to(folder / "elsewhere")
    (folder / "elsewhere" / "back").symlink_to(folder / "set")  # a circle
    return len(read_folder(folder / "set").items) == 1


@named("D", "bad.png")
def a_damaged_image(folder):
    (with_image(folder) / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 50)
    return read_folder(folder).remarks()


@refused("D", "has no images in it")
def a_folder_without_images(folder):
    read_folder(folder)


@used("E")
def a_caption_with_the_images_ending_in_its_name(folder):
    (with_image(folder) / "face.png.txt").write_text("a doctor")
    return captions(folder) == ["a doctor"]


@used("E")
def a_caption_in_another_case(folder):
    (with_image(folder, "Face.PNG") / "face.TXT").write_text("a doctor")
    return captions(folder) == ["a doctor"]


@used("E")
def a_caption_whose_accents_are_written_apart(folder):
    with_image(folder, unicodedata.normalize("NFD", "café.png"))
    (folder / unicodedata.normalize("NFC", "café.txt")).write_text("a doctor")
    return captions(folder) == ["a doctor"]


@used("E")
def an_empty_text_beside_a_full_caption(folder):
    (with_image(folder) / "face.txt").write_text(" \n")
    (folder / "face.caption").write_text("a doctor")
    return captions(folder) == ["a doctor"]


@used("E")
def the_caption_of_the_whole_name_and_of_the_same_case_comes_first(folder):
    for seed, name in enumerate(("Face.png", "face.jpg", "face.png")):
        files.image(folder / name, seed=seed)
    for name, text in (("Face.txt", "a judge"), ("face.jpg.txt", "a pilot"), ("face.txt", "a doctor")):
        (folder / name).write_text(text)
    sensitive = len(list(folder.iterdir())) == 6  # where a Face.png is no face.png
    return not sensitive or captions(folder) == ["a judge", "a pilot", "a doctor"]


@used("E")
def a_mask_in_another_case(folder):
    files.image(folder / "face-MaskLabel.PNG", seed=1)
    return [item.mask.name for item in read_folder(with_image(folder)).items] == ["face-MaskLabel.PNG"]


@used("E")
def a_table_whose_names_are_written_otherwise(folder):
    with_image(folder, unicodedata.normalize("NFD", "Café.PNG"))
    (folder / "metadata.jsonl").write_text('{"file_name": "café.png", "text": "a doctor"}')
    return captions(folder) == ["a doctor"]


@used("E")
def a_table_with_semicolons(folder):
    (with_image(folder) / "metadata.csv").write_text("file_name;text\nface.png;a doctor, smiling\n")
    return captions(folder) == ["a doctor, smiling"]


@used("E")
def a_table_with_commas(folder):
    (with_image(folder) / "metadata.csv").write_text('file_name,text,tone\nface.png,"a doctor, smiling",dark\n')
    images = read_folder(folder)
    return images.captions == ["a doctor, smiling"] and images.columns["tone"] == ["dark"]


@used("E")
def captions_as_kohyas_tools_write_them(folder):
    (with_image(folder) / "meta.json").write_text(json.dumps({"C:\\set\\face.png": {"tags": "doctor, smile"}}))
    return captions(folder) == ["doctor, smile"]


@used("E")
def captions_of_kohyas_tools_for_images_of_one_name_in_two_folders(folder):
    told = {str(files.image(folder / name / "1.png")): {"caption": f"a {name}"} for name in ("doctor", "judge")}
    (folder / "meta.json").write_text(json.dumps(told))
    return captions(folder) == ["a doctor", "a judge"]


@named("E", "not read: 2.json")
def captions_of_kohyas_tools_of_which_nobody_knows_whose_they_are(folder):
    for name in "ab":
        files.image(folder / name / "1.png")
    (folder / "2.json").write_text(json.dumps({"c/1.png": {"caption": "a doctor"}, "d/1.png": {"caption": "a judge"}}))
    return read_folder(folder, "a person").remarks()


@named("E", "not read: captions.tsv, face.json, face.wd14, train.jsonl, train.parquet")
def captions_in_layouts_that_are_not_known(folder):
    for name in ("captions.tsv", "face.json", "face.wd14", "train.jsonl", "train.parquet"):
        (with_image(folder) / name).write_text('{"caption": "a doctor"}')
    return read_folder(folder, "a person").remarks()


@named("E", "Captions that no image has: faec.txt")
def a_caption_that_no_image_has(folder):
    (with_image(folder) / "faec.txt").write_text("a doctor")
    return read_folder(folder, "a person").remarks()


@named("E", "1 image has no caption, and the folder's name is said instead")
def an_image_called_as_its_folder(folder):
    files.image(folder / "doctor" / "a.png")
    (with_image(folder) / "face.txt").write_text("a doctor")
    return read_folder(folder).remarks()


@named("E", "line 1 is not a JSON object")
def a_line_of_a_table_that_is_none(folder):
    (with_image(folder) / "metadata.jsonl").write_text('nothing\n{"file_name": "face.png"}')
    return read_folder(folder).remarks()


@named("E", "line 2 is not a row")
def a_cell_of_a_table_that_never_ends(folder):
    (with_image(folder) / "metadata.csv").write_text(f"file_name,text\nb.png,{'a' * 200_000}\nface.png,b\n")
    return read_folder(folder).remarks()


@used("F")
def several_lines_in_a_caption(folder):
    (with_image(folder) / "face.txt").write_text("\na doctor\na woman\n")
    return captions(folder) == ["a doctor"]


@used("F")
def a_list_of_captions(folder):
    (with_image(folder) / "metadata.jsonl").write_text('{"file_name": "face.png", "text": ["a doctor", "b"]}')
    return captions(folder) == ["a doctor"]


@used("G")
def an_image_in_another_colour_space(folder):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image = Image.new("LAB", (32, 32), (200, 128, 128))
    image.save(folder / "a.tif", icc_profile=profile)
    return bool(np.ptp(np.asarray(open_image(folder / "a.tif"))[0, 0].astype(int)) < 4)  # grey stays grey


def colours_of(folder, space):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(files.in_colours(pixels, *space)).save(folder / "a.png", icc_profile=files.icc(*space))
    plain = np.asarray(Image.open(folder / "a.png"), dtype=float)
    read = np.asarray(open_image(folder / "a.png"), dtype=float)
    return bool(abs(read - pixels).mean() < 2 < 8 < abs(plain - pixels).mean())


@used("G")
def an_image_in_adobe_rgb(folder):
    return colours_of(folder, files.ADOBE)


@used("G")
def an_image_in_prophoto_rgb(folder):
    return colours_of(folder, files.PROPHOTO)


@used("G")
def a_palette_in_adobe_rgb(folder):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16] = (0, 200, 0)
    image = Image.fromarray(files.in_colours(pixels, *files.ADOBE)).quantize(2)
    image.save(folder / "a.png", icc_profile=files.icc(*files.ADOBE))
    return bool(abs(np.asarray(open_image(folder / "a.png"), dtype=float) - pixels).max() < 4)


@used("G")
def grey_of_another_gamma_also_where_it_is_transparent_or_of_16_bits(folder):
    profile, seen = files.icc((), 1.0), set()
    for mode in ("L", "LA", "I;16"):
        value = {"L": 55, "LA": (55, 255), "I;16": 55 * 257}[mode]
        Image.new(mode, (32, 32), value).save(folder / "a.png", icc_profile=profile)
        seen.add(open_image(folder / "a.png").getpixel((0, 0))[0])
    return seen <= set(range(125, 132))  # linear light of .216 is 128 in sRGB


@used("G")
def an_image_that_carries_a_long_text(folder):
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * (3 << 20), zip=True)
    files.image(folder / "a.png", pnginfo=text)
    return len(read_folder(folder).items) == 1


@used("H")
def a_file_name_in_latin_1(folder):
    image = files.image(folder / "a.png")
    try:
        image.rename(folder / os.fsdecode(b"caf\xe9.png"))
    except OSError:  # a file system of Unicode alone
        return True
    images = read_folder(folder)
    "".join(images.remarks()).encode("utf-8")
    return len(images.items) == 1


def odd_names(folder):
    """A set whose names are in Latin-1, with an end of line, or look like an option."""
    write_folder(folder / "set")
    for name in (b"caf\xe9.png", b"a\nb.png", b"--out.png"):
        with suppress(OSError):  # a file system of Unicode alone
            files.image(folder / "set" / "a.png").rename(folder / "set" / os.fsdecode(name))
    return folder / "set"


@used("H")
def an_audit_of_odd_names(folder):
    call = ["audit", str(odd_names(folder)), "--groups", "labels:gender", "--out", str(folder / "a.html")]
    done = CliRunner().invoke(app, call)
    return done.exit_code == 0 and bool((folder / "a.html").read_text("utf-8"))


@used("H")
def a_report_on_odd_names(folder):
    images, probe = odd_names(folder), files.probe(folder / "probe.safetensors")
    (images / "metadata.jsonl").unlink()
    call = ["report", str(images), "--probe", str(probe), "--out", str(folder / "a.html"), "--json"]
    done = CliRunner().invoke(app, call)
    return done.exit_code == 0 and json.loads(done.stdout)["conditions"][0]["images"] == 11


@named("E", "line 1 has a caption of more than 64 KiB")
def a_caption_without_end_in_a_table(folder):
    (with_image(folder) / "metadata.jsonl").write_text(json.dumps({"file_name": "face.png", "text": "a" * 100_000}))
    return read_folder(folder, "a person").remarks()


@named("E", "is longer than 64 KiB")
def a_caption_without_end(folder):
    (with_image(folder) / "face.txt").write_bytes(b"doctor " * 200_000)
    return read_folder(folder, "a person").remarks()


@used("I")
def captions_in_utf_16_and_of_windows(folder):
    for name, encoding in (("a", "utf-16"), ("b", "cp1252"), ("c", "utf-8-sig")):
        files.image(folder / f"{name}.png")
        (folder / f"{name}.txt").write_bytes("a café".encode(encoding))
    return captions(folder) == ["a café"] * 3


@named("I", "Not UTF-8, so the letters were guessed")
def captions_whose_letters_are_guessed(folder):
    (with_image(folder) / "face.txt").write_bytes("a café".encode("cp1252"))
    return read_folder(folder).remarks()


@used("K")
def a_folder_that_may_not_be_written(folder):
    with patch("os.access", return_value=False):
        kept = cache_folder(folder)
    return folder not in kept.parents and cache_folder(folder).parent == folder


@refused("K", "cannot be written")
def a_place_for_results_that_may_not_be_written(folder):
    with patch("os.access", return_value=False):
        check_output(folder / "new" / "fair.safetensors", "adapter")


@refused("K", "cannot be written")
def a_place_for_results_below_a_file(folder):
    check_output(files.image(folder / "a.png") / "fair.safetensors", "adapter")


@used("hostile")
def latents_from_another_machine(folder):
    def store():
        return TensorCache(folder, "latents", "maker", ("a",))

    with patch.object(cache, "machine_key", lambda: b"another machine"):
        theirs = store()
        theirs.add(["image"], [torch.zeros(1, 4)])
        theirs.flush()
        known = "image" in store()
    return known and "image" not in store()


@named("L", r"bad\.png: ")
def an_audit_of_a_folder_with_a_damaged_image(folder):
    (write_folder(folder / "set") / "bad.png").write_bytes(b"no image")
    call = ["audit", str(folder / "set"), "--groups", "labels:gender", "--out", str(folder / "a.html")]
    return CliRunner().invoke(app, call).stdout.splitlines()


@named("hostile", "names a file outside the folder")
def a_table_that_names_a_file_elsewhere(folder):
    lines = [
        {"file_name": name}
        for name in ("face.png", "../secret.png", "/etc/passwd", "C:\\secret.png", ".:secret", "..\\secret.png")
    ]
    (with_image(folder) / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return read_folder(folder).remarks()


@named("hostile", "too (large|many)|pixels")
def a_small_file_of_a_gigabyte(folder):
    Image.new("1", (30_000, 30_000)).save(with_image(folder) / "bomb.png")
    return read_folder(folder).remarks()


@used("hostile")
def what_a_folder_remembers_of_another_machine(folder):
    image = files.image(folder / "a.png")
    (folder / "index.json").write_text(json.dumps({"a.png": ["x", None, [], "sha", 4, 5, 1], "b": 3}))
    return FileIndex(folder / "index.json", folder).look(image)[1:] == (32, 32, True)


@used("hostile")
def control_characters_in_a_caption(folder):
    (with_image(folder) / "face.txt").write_text("a\x1b[31m doctor\u202e")
    return len(read_folder(folder).items) == 1
