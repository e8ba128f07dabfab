import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from comfyui_ddm.debias.core import image
from comfyui_ddm.debias.core.error import DDMError
from comfyui_ddm.training.data.read_folder import read_folder
from PIL import Image


def save(path, shade=100, size=(16, 12), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    made = Image.new("RGB", size, (shade, shade, shade))
    made.putpixel((0, 0), (0, 255, sum(path.name.encode()) % 256))  # so that it shows something of its own
    made.save(path, **options)


def rows(folder, *lines):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")


def names(folder):
    return [item.path.name for item in folder.items]


def reasons(folder):
    return {skipped.path.name: skipped.reason for skipped in folder.skipped}


def test_captions_lie_beside_the_images(tmp_path):
    for name in ("b.png", "a.jpg", "c.png"):
        save(tmp_path / name)
    (tmp_path / "a.txt").write_text("\na doctor,  smiling\na woman doctor\n")
    (tmp_path / "b.CAPTION").write_text("a pilot")
    folder = read_folder(tmp_path)
    assert names(folder) == ["a.jpg", "b.png", "c.png"]
    assert folder.captions == ["a doctor, smiling", "a pilot", ""]
    assert "1 caption has several lines, of which the first is used." in folder.notes
    assert folder.items[0].labels == {}
    assert read_folder(tmp_path, caption="a portrait").captions == ["a doctor, smiling", "a pilot", "a portrait"]


def test_a_subfolder_is_the_label_and_the_caption_of_last_resort(tmp_path):
    save(tmp_path / "fire_fighter" / "deep" / "a.png")
    save(tmp_path / "pilot" / "a.png")
    (tmp_path / "pilot" / "a.txt").write_text("a pilot waving")
    save(tmp_path / "top.png")
    folder = read_folder(tmp_path)
    assert folder.captions == ["fire fighter", "a pilot waving", ""]
    assert folder.columns == {"folder": ["fire_fighter", "pilot"]}
    assert folder.column("folder") == ["fire_fighter", "pilot", None]
    assert read_folder(tmp_path, caption="x").captions == ["x", "a pilot waving", "x"]


def test_a_folder_that_is_itself_one_of_kohyas_is_read_as_one_and_says_so(tmp_path):
    root = tmp_path / "10_sks_person"
    save(root / "a.png")
    save(root / "b.png")
    (root / "b.txt").write_text("a doctor", encoding="utf-8")
    found = read_folder(root)
    assert [(item.repeats, item.caption) for item in found.items] == [(10, "sks person"), (10, "a doctor")]
    assert "count 10 times, and show “sks person”" in found.notes[0]
    save(root / "5_other" / "c.png")
    save(root / "plain" / "d.png")
    more = {item.path.name: (item.repeats, item.labels["folder"]) for item in read_folder(root).items}
    assert (more["c.png"], more["d.png"]) == ((5, "other"), (1, "plain"))
    year = tmp_path / "2024_summer"
    save(year / "a.png")
    assert read_folder(year).items[0].repeats == 1 and read_folder(year).notes == []


def test_kohya_folders_give_repeats_and_a_caption(tmp_path):
    save(tmp_path / "img" / "10_sks person" / "a.png")
    save(tmp_path / "2024_summer" / "a.png")
    by_caption = {item.caption: item for item in read_folder(tmp_path).items}
    assert by_caption["sks person"].repeats == 10
    assert by_caption["sks person"].labels == {"folder": "sks person"}
    assert by_caption["2024 summer"].repeats == 1


def test_metadata_gives_captions_and_labels(tmp_path):
    save(tmp_path / "images" / "b.png")
    save(tmp_path / "images" / "a.png")
    rows(
        tmp_path,
        {"file_name": "images/b.png", "text": "a doctor", "gender": "woman", "seed": 3, "alpha": 0.5, "none": None},
        "",
        {"file_name": "images\\a.png", "caption": "a nurse", "gender": "man", "tags": ["x"]},
    )
    folder = read_folder(tmp_path)
    assert [(item.path.name, item.caption) for item in folder.items] == [("b.png", "a doctor"), ("a.png", "a nurse")]
    assert folder.items[0].labels == {"gender": "woman", "seed": "3", "alpha": "0.5"}
    assert folder.items[1].labels == {"gender": "man"}
    with pytest.raises(DDMError, match=r"no label column “age” \(columns: alpha, gender, seed\)"):
        folder.column("age")


def test_samples_are_read_with_their_prompts_as_captions(tmp_path):
    save(tmp_path / "alpha_0" / "1.png")
    rows(tmp_path, {"file_name": "alpha_0/1.png", "prompt": "a pilot", "seed": 1})
    item = read_folder(tmp_path).items[0]
    assert item.caption == "a pilot"
    assert item.labels == {"prompt": "a pilot", "seed": "1"}


def test_metadata_in_subfolders_speaks_for_them_alone(tmp_path):
    save(tmp_path / "one" / "a.png")
    save(tmp_path / "two" / "a.png")
    rows(tmp_path / "one", {"file_name": "a.png", "text": "from the table"})
    assert read_folder(tmp_path).captions == ["from the table", "two"]


def test_a_caption_can_be_filled_from_the_labels(tmp_path):
    save(tmp_path / "a.png")
    rows(tmp_path, {"file_name": "a.png", "role": "pilot"})
    assert read_folder(tmp_path).captions == [""]
    assert read_folder(tmp_path, caption="a {role}").captions == ["a pilot"]
    with pytest.raises(DDMError, match=r"\{job\}.*a\.png"):
        read_folder(tmp_path, caption="a {job}")


def test_captions_that_are_not_utf_8_are_read_and_noted(tmp_path):
    captions = {
        "bom": "café".encode("utf-8-sig"),
        "windows": "café “noir”".encode("cp1252"),
        "latin": b"caf\xe9 \x81",
        "notepad": "café".encode("utf-16"),
        "plain": "café".encode(),
    }
    for name, data in captions.items():
        save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_bytes(data)
    folder = read_folder(tmp_path)
    texts = {item.path.stem: item.caption for item in folder.items}
    assert texts["bom"] == texts["notepad"] == texts["plain"] == "café"
    assert texts["windows"] == "café “noir”"
    assert texts["latin"].startswith("café")
    [note] = folder.notes
    assert "windows.txt (cp1252)" in note and "latin.txt (latin-1)" in note and "notepad.txt (utf-16)" in note
    assert "plain.txt" not in note and "bom.txt" not in note


def test_what_cannot_be_used_is_listed_by_name_and_skipped(tmp_path, monkeypatch):
    save(tmp_path / "good.png")
    save(tmp_path / "one.png", size=(1, 1))
    save(tmp_path / "thin.png", size=(100, 7))
    save(tmp_path / "bomb.png", size=(200, 200))
    monkeypatch.setattr(image, "MAX_PIXELS", 30_000)
    (tmp_path / "text.jpg").write_text("not an image")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for name in ("cut.jpg", "cut.png"):
        Image.fromarray(noise).save(tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:2000])
    (tmp_path / "notes.pdf").write_text("no image by name")
    folder = read_folder(tmp_path)
    assert names(folder) == ["good.png"]
    found = reasons(folder)
    assert set(found) == {"one.png", "thin.png", "bomb.png", "text.jpg", "cut.jpg", "cut.png"}
    assert len(folder.remarks()) == 7 and "not read: notes.pdf" in folder.remarks()[0]
    assert folder.remarks(most=2)[-1] == "Skipped 4 more."
    assert "1×1" in found["one.png"] and "100×7" in found["thin.png"]
    assert "bomb" in found["bomb.png"] and "truncated" in found["cut.jpg"] and "not an image" in found["text.jpg"]


def test_unusual_images_are_used(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(np.full((16, 16), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.new("P", (16, 16)).save(tmp_path / "palette.png")
    Image.new("CMYK", (16, 16)).save(tmp_path / "print.jpg")
    frames = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (0, 255)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    folder = read_folder(tmp_path)
    assert len(folder) == 5 and not folder.skipped
    assert folder.array(8).shape == (5, 8, 8, 3)


def test_bad_metadata_lines_are_skipped_with_the_reason(tmp_path):
    folder_path = tmp_path / "set"
    save(folder_path / "good.png")
    save(folder_path / "unnamed.png")
    save(tmp_path / "outside.png")
    rows(
        folder_path,
        '{"file_name": "broken',
        "[1, 2]",
        {"text": "no name"},
        {"file_name": "gone.png"},
        {"file_name": "../outside.png"},
        {"file_name": "a/..\\..\\outside.png"},
        {"file_name": str(tmp_path / "outside.png")},
        {"file_name": "C:/outside.png"},
        {"file_name": "good.png", "text": "fine"},
        {"file_name": "good.png", "text": "again"},
        "[" * 100_000,
    )
    folder = read_folder(folder_path)
    assert folder.captions == ["fine"]
    listed = [skipped.reason for skipped in folder.skipped]
    assert len(listed) == 11
    for number in (1, 2, 3, 11):
        assert any(f"line {number} is not a JSON object" in reason for reason in listed)
    assert sum("outside the folder" in reason for reason in listed) == 4
    assert any("a second time" in reason for reason in listed)
    assert "There is no image" in reasons(folder)["gone.png"]
    assert "not named in metadata.jsonl" in reasons(folder)["unnamed.png"]


def test_missing_empty_and_useless_folders_are_errors_in_words(tmp_path):
    with pytest.raises(DDMError, match="There is no folder"):
        read_folder(tmp_path / "missing")
    with pytest.raises(DDMError, match="has no images"):
        read_folder(tmp_path)
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(DDMError, match=r"no usable image.*a\.png"):
        read_folder(tmp_path)
    with pytest.raises(DDMError, match="There is no folder"):
        read_folder(tmp_path / "a.png")


def test_hidden_files_and_what_archives_leave_are_ignored(tmp_path):
    save(tmp_path / "a.png")
    for name in ("._a.png", ".cache/b.png", "__MACOSX/c.png"):
        save(tmp_path / Path(name))
    folder = read_folder(tmp_path)
    assert names(folder) == ["a.png"] and not folder.skipped


def test_images_come_with_their_index_at_the_size_asked_for(tmp_path):
    for index, name in enumerate(("a.png", "b.png")):
        save(tmp_path / name, shade=index * 50, size=(30, 20))
    found = list(read_folder(tmp_path).images(16))
    assert [index for index, _ in found] == [0, 1]
    assert all(array.shape == (16, 16, 3) and array.dtype == np.uint8 for _, array in found)
    assert found[1][1].mean() == 50


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path):
    save(tmp_path / "one" / "a.png")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    first = read_folder(tmp_path / "one").fingerprint()
    assert read_folder(tmp_path / "two").fingerprint() == first
    save(tmp_path / "two" / "a.png", shade=101)
    assert read_folder(tmp_path / "two").fingerprint() != first
    save(tmp_path / "two" / "a.png")
    (tmp_path / "two" / "a.png").rename(tmp_path / "two" / "b.png")
    assert read_folder(tmp_path / "two").fingerprint() != first


def test_a_trigger_word_is_said_first_and_only_once(tmp_path):
    for name, caption in (("a", "a doctor, smiling"), ("b", "SKS, a pilot"), ("c", "")):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(caption, encoding="utf-8")
    folder = read_folder(tmp_path)
    assert folder.triggered(" sks, ").captions == ["sks, a doctor, smiling", "SKS, a pilot", "sks"]
    assert folder.triggered("").captions == folder.captions == ["a doctor, smiling", "SKS, a pilot", ""]


def test_a_mask_beside_an_image_is_its_mask_and_no_image(tmp_path):
    save(tmp_path / "face.png", size=(32, 16))
    save(tmp_path / "sub" / "face.png")
    save(tmp_path / "face-masklabel.png", size=(64, 32))
    folder = read_folder(tmp_path)
    assert [(item.path.parent.name, item.mask) for item in folder.items] == [
        (tmp_path.name, tmp_path / "face-masklabel.png"),
        ("sub", None),
    ]
    assert len(folder.items[0].mask_digest) == 64 and folder.skipped == []


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("face-masklabel.png", (32, 32), "another shape"),
        ("other-masklabel.png", (32, 16), "of no image"),
        ("face-masklabel.png", None, "not an image"),
    ],
)
def test_a_mask_that_cannot_be_used_is_named_and_its_image_stays(tmp_path, name, size, reason):
    save(tmp_path / "face.png", size=(32, 16))
    save(tmp_path / name, size=size) if size else (tmp_path / name).write_text("no")
    folder = read_folder(tmp_path)
    assert [item.mask for item in folder.items] == [None]
    assert [one.path.name for one in folder.skipped] == [name] and reason in folder.skipped[0].reason


def test_an_image_has_the_size_that_it_is_shown_in(tmp_path):
    save(tmp_path / "plain.jpg", size=(300, 200))
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "turned.jpg", size=(300, 200), exif=exif)
    assert [item.size for item in read_folder(tmp_path).items] == [(300, 200), (200, 300)]


@pytest.mark.parametrize(
    ("image", "sidecar"),
    [
        ("face.png", "face.png.txt"),
        ("Face.PNG", "face.txt"),
        ("caf\u00e9.png", "cafe\u0301.txt"),
        ("a.jpe", "A.Caption"),
    ],
)
def test_a_caption_is_found_however_its_file_is_called(tmp_path, image, sidecar):
    save(tmp_path / image)
    (tmp_path / sidecar).write_text("a doctor")
    assert read_folder(tmp_path).captions == ["a doctor"]


def test_an_empty_caption_file_does_not_hide_a_full_one(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(" \n")
    (tmp_path / "a.caption").write_text("a doctor")
    assert read_folder(tmp_path).captions == ["a doctor"]


def test_caption_files_that_no_image_used_and_images_called_as_their_folder_are_told(tmp_path):
    (tmp_path / "doctor").mkdir()
    for name in ("a.png", "b.png"):
        save(tmp_path / "doctor" / name, shade=len(name))
    (tmp_path / "doctor" / "a.txt").write_text("a tall doctor")
    (tmp_path / "doctor" / "old.txt").write_text("nobody")
    folder = read_folder(tmp_path)
    assert folder.captions == ["a tall doctor", "doctor"]
    assert "Captions that no image has: old.txt." in folder.notes
    assert "1 image has no caption, and the folder's name is said instead." in folder.notes


def test_a_table_with_commas_and_the_trainers_json_give_captions_and_labels(tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / name)
    (tmp_path / "metadata.csv").write_text('file_name,text,tone\na.png,"a doctor, smiling",dark\nb.png,a pilot,light\n')
    folder = read_folder(tmp_path)
    assert folder.captions == ["a doctor, smiling", "a pilot"] and folder.column("tone") == ["dark", "light"]
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "meta_cap.json").write_text('{"/images/a.png": {"caption": "a judge"}, "b": {"tags": "pilot, hat"}}')
    assert read_folder(tmp_path).captions == ["a judge", "pilot, hat"]


def test_of_a_list_of_captions_the_first_is_used(tmp_path):
    save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": ["a doctor", "a person"]}')
    assert read_folder(tmp_path).captions == ["a doctor"]


def test_what_looks_like_an_image_is_read_or_named(tmp_path):
    save(tmp_path / "good.ppm")
    for name in ("photo.heic", "photo.jxl", "layers.psd", "raw.NEF"):
        (tmp_path / name).write_bytes(b"not an image")
    folder = read_folder(tmp_path)
    assert names(folder) == ["good.ppm"]
    why = reasons(folder)
    assert set(why) == {"photo.heic", "photo.jxl", "layers.psd", "raw.NEF"}
    assert "Install pillow-heif" in why["photo.heic"] and ".nef is not read" in why["raw.NEF"]


def test_linked_folders_are_followed_once(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    save(tmp_path / "elsewhere" / "b.png")
    root = tmp_path / "images"
    root.mkdir()
    save(root / "a.png")
    for name, place in (("linked", tmp_path / "elsewhere"), ("again", tmp_path / "elsewhere"), ("loop", root)):
        try:
            (root / name).symlink_to(place, target_is_directory=True)
        except OSError:
            pytest.skip("this system makes no links")
    assert sorted(item.path.name for item in read_folder(root).items) == ["a.png", "b.png"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    walk = os.walk

    def refusing(root, onerror=None, **options):
        onerror(PermissionError(13, "Permission denied", str(tmp_path / "closed")))
        return walk(root, onerror=onerror, **options)

    monkeypatch.setattr(os, "walk", refusing)
    (skipped,) = read_folder(tmp_path).skipped
    assert skipped.path.name == "closed" and "may not be read" in skipped.reason
