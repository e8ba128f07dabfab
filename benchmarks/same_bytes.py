"""Does training still end in the same bytes? `python benchmarks/same_bytes.py [REVISION]`.

Trains, sweeps and reports with the code of an older revision and with this checkout, on the same images, base and
probes, and compares every tensor and every number of the reports. Exit code 1 if anything differs.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from package import ROOT

# Today's option -> what it was called before options had kohya's and diffusers' names.
OLD_NAMES = {
    "--learning-rate": "--rate",
    "--batch-size": "--batch",
    "--resolution": "--size",
    "--gradient-accumulation-steps": "--pieces",
    "--gradient-checkpointing": "--checkpointing",
    "--reg-data": "--reg",
    "--prior-prompts": "--self",
    "--prior-count": "--self-count",
    "--sample-dir": "--previews",
    "--sample-every": "--preview-every",
    "--checkpoint-every": "--save-every",
}
ROLES, MEN, WOMEN = ("doctor", "judge", "pilot", "singer"), 6, 1
TRAIN = "train {images} --base {base} --steps 6 --batch-size 4 --rank 2 --device cpu --no-cache --out {out}/"
TRAININGS = {
    "labels": "--groups labels:gender --calibrate 8",
    "words": "--groups words:man|woman --calibrate 0",
    "discovered": "--groups discovered --calibrate 0",
    "style": "--groups labels:gender --calibrate 0 --style {out}/style-style.safetensors",
    "text-encoder": "--groups labels:gender --calibrate 0 --text-encoder",
    "ddm-paper": "--groups labels:gender --calibrate 0 --objective ddm-paper",
    "options": "--groups labels:gender --calibrate 0 --learning-rate .002 --gradient-accumulation-steps 2 --ema .9",
    "prior": "--groups labels:gender --calibrate 0 --reg-data {images}",
}
ALIGN = (
    "align --base {base} --probe {probe} --prompts a+doctor;a+judge --steps 3 --batch-size 4 --rank 2 --sampling 4 "
    "--through 2 --device cpu "
)
OTHERS = (
    ALIGN + "--train unet --out {out}/alignment.safetensors",
    ALIGN + "--train tokens --out {out}/alignment-tokens.safetensors",
    "invariant {images} --base {base} --steps 6 --batch-size 8 --device cpu --out {out}/invariant.safetensors",
)
SWEEP = (
    "sweep {out}/labels.safetensors --base {base} --probe {probe} --prompts a+doctor;a+judge --alpha 0,1 "
    "--per-prompt 4 --steps 4 --device cpu --no-save-card --out {out}/sweep"
)
# One process for all commands of a revision, so that torch is imported once. Arguments: the root, the commands.
RUNNER = """
import json, sys, torch
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
root, commands = sys.argv[1], json.loads(sys.argv[2])
spec = spec_from_file_location("comfyui_ddm", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["comfyui_ddm"] = module = module_from_spec(spec)
spec.loader.exec_module(module)
torch.set_num_threads(1)
try:
    app = import_module("comfyui_ddm.training.commands.app").app
except ModuleNotFoundError:
    app = import_module("comfyui_ddm.training.command_line").app
for command in commands:
    if code := app(command, standalone_mode=False):
        sys.exit(f"{' '.join(command)} ended with code {code}")
"""


def same_bytes(
    revision: Annotated[str, typer.Argument(help="What this checkout is compared with.")] = "9df0494",
) -> None:
    """Compare training, sweep and report of an older revision with this checkout's."""
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        old = work / "revision"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(old), revision], check=True)
        try:
            images = draw_images(old / "examples" / "people_emoji", work / "images")
            config = next(old.glob("training/**/config.py")).read_text("utf-8")
            names = {} if "learning_rate:" in config else OLD_NAMES
            runs = [start(old, old, images, work / "old", names), start(ROOT, old, images, work / "new", {})]
            codes = [run.wait() for run in runs]
        finally:
            subprocess.run([*git, "remove", "--force", str(old)], check=True)
        if any(codes):
            raise typer.Exit(2)
        differ = print_table(work / "old", work / "new")
    raise typer.Exit(int(differ))


def draw_images(source: Path, folder: Path) -> Path:
    """Copy a few example images, six men to one woman in each role."""
    folder.mkdir()
    rows = [json.loads(line) for line in (source / "metadata.jsonl").read_text("utf-8").splitlines()]
    chosen = []
    for role in ROLES:
        for gender, count in (("man", MEN), ("woman", WOMEN)):
            chosen += [row for row in rows if (row["role"], row["gender"]) == (role, gender)][:count]
    lines = []
    for row in chosen:
        name = Path(row["file_name"]).name
        shutil.copyfile(source / row["file_name"], folder / name)
        lines.append(json.dumps({"file_name": name, "text": f"a {row['role']}", "gender": row["gender"]}))
    (folder / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    return folder


def start(root: Path, data: Path, images: Path, out: Path, names: dict[str, str]) -> subprocess.Popen:
    """Start all commands with the code in `root`, on the base and probe of `data`; options are renamed by `names`."""
    out.mkdir()
    places = {"images": images, "out": out, "base": data / "examples" / "tiny_people"}
    places["probe"] = data / "examples" / "probes" / "gender.safetensors"
    lines = [f"{TRAIN}{name}.safetensors {more}" for name, more in TRAININGS.items()] + [*OTHERS, SWEEP]
    commands = [[names.get(word, word).format(**places).replace("+", " ") for word in line.split()] for line in lines]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(root), json.dumps(commands)],
        cwd=out,
        env=environment,
        stdout=subprocess.DEVNULL,
    )


def print_table(old: Path, new: Path) -> bool:
    """Print what is equal; return whether anything differs."""
    from rich.console import Console
    from rich.table import Table

    table = Table("compared", "values", "equal", "largest difference", title="same bytes")
    adapters = sorted({path.name for folder in (old, new) for path in folder.glob("*.safetensors")})
    differ = False
    for name in [*adapters, "sweep/report.json"]:
        read = read_report if name.endswith(".json") else read_adapter
        first, second = read(old / name), read(new / name)
        equal = first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
        differ |= not equal
        table.add_row(name, str(len(first)), "yes" if equal else "NO", largest(first, second))
    Console().print(table)
    return differ


def read_adapter(path: Path) -> dict[str, object]:
    """The tensors of an adapter by name; none if there is no such file."""
    from safetensors.torch import load_file

    return load_file(path) if path.exists() else {}


def read_report(path: Path) -> dict[str, object]:
    """The numbers of a report as tensors, by their place: fields may be renamed, their order stays."""
    import torch

    def numbers(item: object) -> list[float]:
        if isinstance(item, dict):
            return [number for value in item.values() for number in numbers(value)]
        if isinstance(item, list):
            return [number for value in item for number in numbers(value)]
        return [float(item)] if isinstance(item, int | float) else []

    found = numbers(json.loads(path.read_text("utf-8"))) if path.exists() else []
    return {str(place): torch.tensor(number, dtype=torch.float64) for place, number in enumerate(found)}


def same(first: object, second: object) -> bool:
    """Whether two tensors have the same type, shape and bytes."""
    import torch

    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return (
        torch.equal(first.contiguous().view(torch.uint8), second.contiguous().view(torch.uint8))
        if first.ndim
        else (first.item() == second.item() or bool(first.isnan() and second.isnan()))
    )


def largest(first: dict[str, object], second: dict[str, object]) -> str:
    """The largest difference of any two values, or what is there once only."""
    if first.keys() != second.keys():
        return f"{len(first.keys() ^ second.keys())} are in one of the two only"
    if any(first[key].shape != second[key].shape for key in first):
        return "shapes differ"
    return f"{max((float((first[key].double() - second[key].double()).abs().max()) for key in first), default=0):.2g}"


if __name__ == "__main__":
    typer.run(same_bytes)
