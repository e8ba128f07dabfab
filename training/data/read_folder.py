"""Reading image folders as artists have them: images with captions beside them, subfolders, or a metadata.jsonl.

Whatever cannot be used is listed by name with the reason and skipped; only a folder without any usable image is an
error.
"""

import csv
import io
import json
import ntpath
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

from ...debias.core.error import DDMError
from ...debias.core.image import OTHER_SUFFIXES, SUFFIXES
from ...debias.core.io import LONGEST_TEXT, check_path, decode, read_bytes
from .file_index import FileIndex
from .image_folder import METADATA, ImageFolder, Item, Skipped, listed

TABLES = (METADATA, "metadata.csv")
MASK = "-masklabel"  # how masks beside images are named: face.png has face-masklabel.png
MIN_SIDE = 8  # pixels; one latent of a Stable Diffusion VAE
SAME_SHAPE = 0.02  # how much the shapes of an image and its mask may differ

LONGEST_CAPTION = 64 << 10  # bytes of a file with one image's captions
FEW = 3  # images that have no usual size

_CAPTION_SUFFIXES = (".txt", ".caption")
_CAPTION_COLUMNS = ("text", "caption", "prompt")
_REPEATS = re.compile(r"([1-9]\d{0,2})_(.+)")  # three digits at most: "2024_summer" is a year
_GRID = re.compile(r"(xyz_|xy_)?grid([-_ ]?\d+|$)", re.IGNORECASE)  # the names that web UIs give them
_DOCUMENT = re.compile(r"^(readme|licen[cs]e|thumbs\.db|desktop\.ini)|\.md$", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


def read_folder(
    path: str | os.PathLike,
    caption: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    index: FileIndex | None = None,
    every_line: bool = False,
) -> ImageFolder:
    """Read an image folder with its captions and labels.

    Three layouts are understood, together if need be:

    - `metadata.jsonl` or `metadata.csv` (Hugging Face's *imagefolder*), in the folder or in subfolders: `file_name`, a
      caption in `text`, `caption` or `prompt`, and any other columns as labels. Images beside it that it does not name
      are skipped.
    - a `.json` file of kohya's tools, in the folder: names of images with their `caption` or `tags`.
    - subfolders: the first one's name is the label "folder", and the caption where there is no other; kohya's `N_name`
      makes each of its images count N times. The folder itself may be such a one.
    - a `.txt` or `.caption` file beside an image, with its caption: `face.txt` or `face.png.txt`, however case and
      accents are written. Of several lines the first is used, or each is a caption (`every_line`).

    An image `face-masklabel.png` beside `face.png` is its mask.

    Args:
        path: the folder.
        caption: for images that have none. `{column}` in it stands for a label: "a {role}".
        progress: called with (files looked at, of about how many); what it raises stops the reading.
        index: remembers the files, so that unchanged ones are not read again.
        every_line: let each line of a caption be one.

    Raises:
        DDMError: no such folder, no usable image in it, or a `{column}` that an image does not have.
    """
    root = check_path(path)
    if not root.is_dir():
        raise DDMError(f"There is no folder {root}. Give the folder that has your images in it.")
    files, closed = _files(root)
    index = index or FileIndex()
    reading = _Reading(root, caption, files, progress, index, every_line)
    for folder in closed:
        reading.skip(folder, "a folder that may not be read")
    tables = [file for file in files if file.name in TABLES]
    for table in tables:
        reading.read_table(table)
    for file in files:
        if file.suffix.lower() in OTHER_SUFFIXES:
            reading.skip(file, f"{file.suffix.lower()} is not read; save it as PNG or JPEG")
        if file.suffix.lower() in SUFFIXES and file not in reading.seen:
            if _is_mask(file):
                continue
            if table := next((table for table in tables if table.parent in file.parents), None):
                reading.skip(file, f"not named in {table.name}")
            else:
                reading.read_file(file)
    for mask in reading.masks.values():
        if mask not in reading.seen | reading.used:
            reading.skip(mask, "the mask of no image")
    index.save()
    if not reading.items:
        raise DDMError(_nothing(root, reading.skipped))
    reading.note_own_name()
    reading.note_captions()
    reading.note_others(tables)
    reading.note_content()
    reading.note_grids()
    reading.note_encodings()
    return ImageFolder(root, reading.items, reading.skipped, reading.notes)


class _Reading:
    """A folder while it is being read."""

    def __init__(
        self,
        root: Path,
        caption: str | None,
        files: list[Path],
        progress: Callable | None,
        index: FileIndex,
        every_line: bool,
    ):
        self.root, self.index = root, index
        name = root.absolute().name
        self.own_name = (name,) if _REPEATS.fullmatch(name) else ()
        self.caption, self.every_line = caption, every_line
        self.progress, self.looked, self.files = progress, 0, set(files)
        self.items: list[Item] = []
        self.skipped: list[Skipped] = []
        self.notes: list[str] = []
        self.seen: set[Path] = set()
        self.recoded: list[str] = []
        self.empty: list[str] = []  # images that show nothing
        self.alike = {_plain(self.within(file)): file for file in files}
        # By the name as it is, which comes before another that differs in case or accents alone.
        self.beside: dict[tuple[Path, str, str], Path] = {}
        for form in (_plain, str):
            for file in files:
                if (suffix := file.suffix.lower()) in _CAPTION_SUFFIXES:
                    self.beside[file.parent, form(file.stem), suffix] = file
        self.used: set[Path] = set()  # files beside images that an image has used
        self.lines = self.unnamed = 0  # captions of several lines; images that are called as their folder is
        self.told = self.read_captions([file for file in files if file.suffix.lower() == ".json"])
        self.stems = Counter(_plain(file.stem) for file in files if file.suffix.lower() in SUFFIXES)
        self.masks = {(file.parent, _plain(file.stem).removesuffix(MASK)): file for file in files if _is_mask(file)}

    def skip(self, path: Path, reason: str) -> None:
        self.skipped.append(Skipped(path, reason))

    def within(self, file: Path) -> str:
        """A file's name within the folder."""
        return file.relative_to(self.root).as_posix()

    def read_captions(self, files: list[Path]) -> dict[str, list[tuple[tuple[str, ...], str, Path]]]:
        """The captions in .json files as kohya's tools write them, by the plain stem of the image's name.

        Each has the plain parts of the image's path, the caption, and the file that says it.
        """
        told = defaultdict(list)
        for file in files:
            try:
                rows = json.loads(self.read_text(file))
            except (ValueError, RecursionError):
                continue
            for name, row in rows.items() if isinstance(rows, dict) else ():
                text = row.get("caption") or row.get("tags") if isinstance(row, dict) else None
                if isinstance(text, str) and text.strip() and len(text) <= LONGEST_CAPTION:
                    parts = _plain_parts(PurePosixPath(name.replace("\\", "/")))
                    told[parts[-1]].append((parts, text, file))
        return told

    def told_of(self, file: Path) -> str:
        """What a .json file says of an image: of several that are called alike, the one whose folders are the same."""
        own, place = _plain_parts(PurePosixPath(self.within(file))), _plain_parts(file.absolute())
        found = [(_same_ending(parts, place), parts, text, table) for parts, text, table in self.told[own[-1]]]
        most = max((same for same, *_ in found), default=0)
        best = [one for one in found if one[0] == most]
        if len({text for _, _, text, _ in best}) != 1:
            return ""
        _, parts, text, table = best[-1]
        if most < min(len(own), len(parts)) and self.stems[own[-1]] > 1:
            return ""
        self.used.add(table)
        return text

    def rows(self, table: Path) -> Iterator[tuple[int, dict | None]]:
        """The number of each line of a table, and what is in it; None for what is no row."""
        text = self.read_text(table)
        if table.suffix.lower() == ".csv":
            head, *_ = text.splitlines() or [""]
            rows = csv.DictReader(io.StringIO(text, newline=None), delimiter=max(",;\t", key=head.count))
            while True:
                try:
                    row, number = next(rows), rows.line_num
                except StopIteration:
                    return
                except csv.Error:  # a cell that is longer than a table's may be
                    row, number = None, rows.line_num + 1
                yield number, row
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                yield number, row if isinstance(row, dict) else None

    def read_table(self, table: Path) -> None:
        for number, row in self.rows(table):
            if row is None or not isinstance(row.get("file_name"), str):
                kind = "a row" if table.suffix.lower() == ".csv" else "a JSON object"
                self.skip(table, f"line {number} is not {kind} with a file_name")
                continue
            name = row.pop("file_name").replace("\\", "/")
            if not stays_inside(name):
                self.skip(table, f"line {number} names a file outside the folder ({name})")
                continue
            file = table.parent / name
            file = file if file in self.files else self.alike.get(_plain(self.within(file)), file)
            if file in self.seen:
                self.skip(table, f"line {number} names {name} a second time")
                continue
            self.seen.add(file)
            for key in _CAPTION_COLUMNS:
                if isinstance(row.get(key), list):  # several captions of one image
                    row[key] = "\n".join(part for part in row[key] if isinstance(part, str))
            text = next((str(row[key]) for key in _CAPTION_COLUMNS if isinstance(row.get(key), str)), "")
            for key in _CAPTION_COLUMNS[:2]:
                row.pop(key, None)
            labels = {str(key): _word(value) for key, value in row.items() if isinstance(value, (str, int, float))}
            if len(text) > LONGEST_CAPTION:
                self.skip(table, f"line {number} has a caption of more than {LONGEST_CAPTION >> 10} KiB")
                text = ""
            self.add(file, text or self.text_beside(file), labels, "", 1)

    def read_file(self, file: Path) -> None:
        folders = file.relative_to(self.root).parts[:-1] or self.own_name
        repeats, name = 1, folders[0] if folders else ""
        for folder in folders:
            if counted := _REPEATS.fullmatch(folder):
                repeats, name = int(counted[1]), counted[2]
                break
        self.add(file, self.text_beside(file), {"folder": name} if name else {}, name.replace("_", " "), repeats)

    def add(self, file: Path, text: str, labels: dict[str, str], fallback: str, repeats: int) -> None:
        self.looked += 1
        if self.progress:
            self.progress(self.looked, max(self.looked, len(self.files)))
        try:
            digest, width, height, shows = self.index.look(file)
        except DDMError as error:
            self.skip(file, str(error))
            return
        if min(width, height) < MIN_SIDE:
            self.skip(file, f"{width}×{height} pixels is too small (at least {MIN_SIDE}×{MIN_SIDE})")
            return
        if not shows:
            self.empty.append(file.name)
        lines = [said for line in text.splitlines() if (said := " ".join(line.split()))]
        self.lines += len(lines) > 1
        text, *others = lines or [""]
        if not text:
            text = fallback if self.caption is None else self.filled(labels, file)
            self.unnamed += bool(text) and self.caption is None
        mask, mask_digest = self.mask_of(file, width / height)
        others = tuple(others) if self.every_line else ()
        self.items.append(Item(file, text, labels, repeats, digest, (width, height), mask, mask_digest, others))

    def mask_of(self, file: Path, shape: float) -> tuple[Path | None, str]:
        """The mask beside an image of a shape (width / height), and its digest."""
        mask = self.masks.get((file.parent, _plain(file.stem)))
        if mask is None:
            return None, ""
        self.used.add(mask)
        try:
            digest, width, height, _ = self.index.look(mask)
        except DDMError as error:
            self.skip(mask, str(error))
            return None, ""
        if abs(width / height / shape - 1) > SAME_SHAPE:
            self.skip(mask, "a mask of another shape than its image")
            return None, ""
        return mask, digest

    def filled(self, labels: dict[str, str], file: Path) -> str:
        def value(match: re.Match) -> str:
            if match[1] not in labels:
                there = ", ".join(sorted(labels)) or "none"
                raise DDMError(
                    f"The caption “{self.caption}” asks for {{{match[1]}}}, which {file} does not have "
                    f"(it has: {there}). Change the caption or add the column."
                )
            return labels[match[1]]

        return _PLACEHOLDER.sub(value, self.caption or "")

    def text_beside(self, file: Path) -> str:
        for suffix in _CAPTION_SUFFIXES:
            names = (file.name, _plain(file.name), file.stem, _plain(file.stem))
            for sidecar in dict.fromkeys(self.beside.get((file.parent, name, suffix)) for name in names):
                if sidecar:
                    self.used.add(sidecar)
                    if (text := self.read_text(sidecar)).strip():
                        return text
        return self.told_of(file)

    def read_text(self, file: Path) -> str:
        try:
            data = read_bytes(file, LONGEST_CAPTION if file.suffix.lower() in _CAPTION_SUFFIXES else LONGEST_TEXT)
        except DDMError as error:
            self.skip(file, str(error))
            return ""
        text, encoding = decode(data)
        if encoding != "utf-8":
            self.recoded.append(f"{self.within(file)} ({encoding})")
        return text

    def note_own_name(self) -> None:
        # Who chose the folder by itself may have meant nothing by its name.
        for name in self.own_name if any(item.path.parent == self.root for item in self.items) else ():
            repeats, said = _REPEATS.fullmatch(name).groups()
            self.notes.append(
                f"The name {name} is read as kohya's tools do: images of this folder count {repeats} times, and show "
                f"“{said.replace('_', ' ')}” where they have no caption. Rename it if it means something else."
            )

    def note_captions(self) -> None:
        unused = sorted(set(self.beside.values()) - self.used)
        if unused:
            self.notes.append(f"Captions that no image has: {listed([one.name for one in unused])}.")
        if self.used and self.unnamed:
            images = "1 image has" if self.unnamed == 1 else f"{self.unnamed} images have"
            self.notes.append(f"{images} no caption, and the folder's name is said instead.")
        if self.lines:
            captions = "1 caption has" if self.lines == 1 else f"{self.lines} captions have"
            used = "each of which is drawn as often" if self.every_line else "of which the first is used"
            self.notes.append(f"{captions} several lines, {used}.")

    def note_others(self, tables: list[Path]) -> None:
        """Say which files are nothing that is read, but for documents."""
        known = {item.path for item in self.items} | {one.path for one in self.skipped} | self.used
        known.update(tables, self.beside.values(), self.masks.values())
        names = [self.within(file) for file in sorted(self.files - known) if not _DOCUMENT.search(file.name)]
        if names:
            self.notes.append(f"Neither images nor captions that are known, so not read: {listed(names)}.")

    def note_content(self) -> None:
        """Say which images a training would learn that nobody means."""
        if self.empty:
            self.notes.append(f"Images of one colour, which show nothing: {listed(self.empty)}. Remove them.")
        first: dict[str, Path] = {}
        paths = {item.path: item.digest for item in self.items}
        copies = [self.within(path) for path, digest in paths.items() if first.setdefault(digest, path) != path]
        if copies:
            self.notes.append(f"The same as another file, and counted once more: {listed(copies)}.")

    def note_grids(self) -> None:
        """Say which images may be several in one, as web UIs save them beside the single ones."""
        sizes = Counter(item.size for item in self.items)
        (width, height), count = sizes.most_common(1)[0]
        usual = 2 * count > len(self.items) > FEW

        def several(size: tuple[int, int]) -> bool:
            return usual and size != (width, height) and not size[0] % width and not size[1] % height

        names = [item.path.name for item in self.items if _GRID.match(item.path.stem) or several(item.size)]
        if names:
            self.notes.append(f"Several images in one, perhaps, and counted as one: {listed(names)}. Remove grids.")

    def note_encodings(self) -> None:
        if self.recoded:
            self.notes.append(
                f"Not UTF-8, so the letters were guessed: {listed(self.recoded)}. Save them as UTF-8 to be sure."
            )


def _files(root: Path) -> tuple[list[Path], list[Path]]:
    """All files below `root`, sorted by name, without hidden ones and the `__MACOSX` that archives leave behind.

    Links to folders are followed, but no folder is read twice. Also the folders that may not be read.
    """
    found, closed, known = [], [], set()
    for folder, folders, names in os.walk(
        root, onerror=lambda error: closed.append(Path(error.filename)), followlinks=True
    ):
        real = os.path.realpath(folder)
        if real in known:
            folders[:] = []
            continue
        known.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        found += [Path(folder) / name for name in names if not name.startswith(".")]
    return sorted(found, key=lambda file: file.relative_to(root).as_posix()), closed


def _plain(name: str) -> str:
    """A name however its accents and its case are written."""
    return unicodedata.normalize("NFC", name).casefold()


def _plain_parts(path: PurePath) -> tuple[str, ...]:
    """The plain names of a path's folders, and the stem of its own."""
    return tuple(map(_plain, (*path.parent.parts, path.stem)))


def _same_ending(one: Sequence[str], other: Sequence[str]) -> int:
    """How many of their last parts are the same."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _is_mask(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and _plain(file.stem).endswith(MASK)


def stays_inside(name: str) -> bool:
    """Whether a name from a file stays in its folder by what it says, on Windows too.

    Links in the folder are followed: they are its owner's (and how the Hugging Face cache stores data sets).
    """
    windows = PureWindowsPath(name)
    elsewhere = windows.anchor or ntpath.splitdrive(name)[0] or PurePosixPath(name).is_absolute()
    return bool(name) and ".." not in windows.parts and not elsewhere


def _word(value: str | int | float) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _nothing(root: Path, skipped: list[Skipped]) -> str:
    if not skipped:
        return f"{root} has no images in it. Put PNG, JPEG or WebP files there, or give another folder."
    listed = "; ".join(f"{one.path.name}: {one.reason}" for one in skipped[:3])
    more = f"; and {len(skipped) - 3} more" if len(skipped) > 3 else ""
    return f"{root} has no usable image ({listed}{more}). Replace these files or give another folder."
