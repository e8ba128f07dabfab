"""Models whose parts are kept in files of their own, as ComfyUI does: diffusion model, text encoders and VAE.

A file is told by the names and shapes of its tensors; only headers are read for that. The diffusion model's file may
hold the other parts as well. Names are those of the families' own authors; diffusers' converters rename them.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...debias.core.error import DDMError
from ...debias.core.io import read_header
from .base_kind import check_companions, is_companion
from .diffusers_folder import load_tokenizer, tokenizer_of
from .family import Family, TextEncoder, class_of, families
from .ldm_checkpoint import fill_model, read_family, read_tensors
from .tokenizer import find_tokenizer
from .vae_file import load_vae, rename_vae

if TYPE_CHECKING:
    import torch

# What may stand before the names of a diffusion model's tensors, and of a VAE's in the same file.
DENOISER = ("model.diffusion_model.", "diffusion_model.", "")
VAE = ("first_stage_model.", "vae.", "")
VAE_INPUT = "decoder.conv_in.weight"
# What stands before those of a text encoder, in a file of all parts and in one of its own.
TEXT = re.compile(r"(text_encoders\.\w+\.)?(?:transformer\.)?(?:model\.|text_model\.)?(.*)", re.DOTALL)
# What T5 says twice, and files once.
TIED = {"encoder.embed_tokens.weight": "shared.weight"}
# Where ComfyUI keeps the other parts, seen from the diffusion model's folder.
FOLDERS = {"text_encoder_file": ("text_encoders", "clip"), "vae": ("vae",)}

Header = Mapping[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Part:
    """Tensors of a file.

    Attributes:
        path: the file.
        keys: the tensors' own names in it, by those that they have here.
    """

    path: Path
    keys: Mapping[str, str]

    def read(self, dtype: "torch.dtype") -> "dict[str, torch.Tensor]":
        """Read them; fp8 weights times their scales.

        Raises:
            DDMError: the file is quantized in a way that is not known.
        """
        from safetensors import safe_open

        header, own = read_header(self.path), set(self.keys.values())
        modules = {key.rpartition(".")[0] for key in own}
        check_companions(self.path, {key: one for key, one in header.items() if key.rpartition(".")[0] in modules})
        with safe_open(self.path, framework="pt") as file:
            tensors = read_tensors(file, own, dtype)
        return {name: tensors[key] for name, key in self.keys.items()}


@dataclass(frozen=True)
class Components:
    """The files of a model.

    Attributes:
        family: of the diffusion model.
        denoiser, texts, vae: its parts; the text encoders by their names in a pipeline.
        config: of all parts, as the family's configuration file has it.
    """

    family: Family
    denoiser: Part
    texts: Mapping[str, Part]
    vae: Part
    config: Mapping[str, Any]

    @property
    def files(self) -> dict[str, list[Path]]:
        """The files of each part."""
        parts = {self.family.part: self.denoiser, "vae": self.vae, **self.texts}
        return {name: [part.path] for name, part in parts.items()}


def told_family(header: Header) -> tuple[Family, str] | None:
    """The family of a diffusion model in a file, and what stands before its names; None if it is none of these."""
    known = ((family, prefix) for family in families() if family.signature for prefix in DENOISER)
    return next(((family, prefix) for family, prefix in known if prefix + family.signature in header), None)


def find_components(path: Path, texts: Sequence[str | Path] = (), vae: str | Path | None = None) -> "Components | None":
    """The files that belong to a diffusion model.

    Args:
        path: the diffusion model's.
        texts: files of text encoders, or folders that hold some; by default what is beside the diffusion model's
            folder, where ComfyUI keeps them.
        vae: the VAE's file or folder, if there is not just one beside it.

    Returns:
        None where the file holds no diffusion model that is known by its own authors' names.

    Raises:
        DDMError: a text encoder or the VAE is missing; or several VAEs fit.
    """
    header = read_header(path)
    told = told_family(header)
    if told is None:
        return None
    family, prefix = told
    config = read_family(family)
    own = {key.removeprefix(prefix): key for key in header if key.startswith(prefix) and not is_companion(key)}
    try:
        family.adapt(config, {name: header[key][1] for name, key in own.items()})
    except LookupError as error:
        raise DDMError(
            f"{path} holds not all of {family.title}'s diffusion model: {error} is missing. Copy or download it again."
        ) from error
    files = [path, *_files(texts or _beside(path, "text_encoder_file"))]
    found = {name: _find_text(files, text, config[name]) for name, text in family.text_encoders.items()}
    missing = [name for name, part in found.items() if part is None and not family.text_encoders[name].optional]
    if missing:
        kinds = " and ".join(family.text_encoders[name].title for name in missing)
        raise DDMError(
            f"{path.name} is the diffusion model of {family.title}, which needs its text encoders too, and {kinds} is "
            "not found beside it. Give its file.",
            "text_encoder_file",
        )
    texts_found = {name: part for name, part in found.items() if part}
    return Components(family, Part(path, own), texts_found, _find_vae(path, header, vae, config["vae"]), config)


def load_components(found: Components, dtype: "torch.dtype", tokenizer: str | Path | None = None) -> dict[str, object]:
    """Open a model as the parts of a `Base`, on the CPU.

    Args:
        dtype: of the diffusion model and the text encoders; the VAE is float32.
        tokenizer: a folder of tokenizers, in place of those that are found (see `find_tokenizer`).

    Raises:
        DDMError: weights do not fit the family; or no tokenizer is found.
    """
    import diffusers
    import torch

    family, config, path = found.family, found.config, found.denoiser.path
    tokenizers = {}
    for name in found.texts:
        folder = find_tokenizer(path, tokenizer, family.text_encoders[name].tokenizer)
        given = config.get(tokenizer_of(name), {})
        tokenizers[name] = load_tokenizer(family.text_encoders[name], folder, "", config[name], **given)
    renamed = family.renamed(found.denoiser.read(dtype))
    denoiser = fill_model(class_of("diffusers", family.denoiser), config[family.part], renamed, path, "transformer")
    models = {}
    for name, part in found.texts.items():
        kind = family.text_encoders[name].model
        text = kind.config_class(**config[name])
        models[name] = fill_model(kind, text, part.read(dtype), part.path, "text encoder")
    if found.vae.path == path:
        tensors = rename_vae(found.vae.read(torch.float32), config["vae"])
        opened, other = fill_model(diffusers.AutoencoderKL, config["vae"], tensors, path, "VAE"), None
    else:
        opened, other = load_vae(found.vae.path, config["vae"])
    return {
        "family": family,
        "denoiser": denoiser,
        "vae": opened,
        "other_vae": other,
        "text_encoders": models,
        "tokenizers": tokenizers,
        "scheduler": class_of("diffusers", family.scheduler).from_config(config["scheduler"]),
    }


def _files(places: Iterable[str | Path]) -> Iterator[Path]:
    """Safetensors files, also those in folders, where others may be broken."""
    for place in map(Path, places):
        for path in sorted(place.rglob("*.safetensors")) if place.is_dir() else [place]:
            with suppress(DDMError) if place.is_dir() else nullcontext():
                read_header(path)
                yield path


def _beside(path: Path, what: str) -> list[Path]:
    """The folders in which ComfyUI keeps a kind of part, near a diffusion model; its own folder may have subfolders."""
    folders = [parent / name for parent in path.absolute().parents[:3] for name in FOLDERS[what]]
    return [folder for folder in folders if folder.is_dir()]


def _find_text(files: Sequence[Path], text: TextEncoder, config: Mapping[str, Any]) -> Part | None:
    """A text encoder of this kind and these sizes; of several, the one of the highest precision."""
    fitting = []
    for path in files:
        header, bundles = read_header(path), {}
        for key in header:
            bundle, name = TEXT.fullmatch(key).groups()
            bundles.setdefault(bundle, {})[name] = key
        for names in bundles.values():
            wanted = _shapes(text, json.dumps(config))
            own = {name: names.get(TEXT.fullmatch(name)[2], names.get(TIED.get(name))) for name in wanted}
            if all(key and header[key][1] == wanted[name] for name, key in own.items()):
                fitting.append((path.stat().st_size, Part(path, own)))
    return max(fitting, key=lambda one: one[0])[1] if fitting else None


@cache
def _shapes(text: TextEncoder, config: str) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of a text encoder."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        state = text.build(json.loads(config)).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _find_vae(path: Path, header: Header, given: str | Path | None, config: Mapping[str, Any]) -> Part:
    """The VAE that is given, or in the same file, or the only one beside it with as many channels."""
    if given is not None:
        return Part(Path(given), {})
    for prefix in VAE[:-1]:
        if prefix + VAE_INPUT in header:
            keys = {key.removeprefix(prefix): key for key in header if key.startswith(prefix)}
            return Part(path, {name: key for name, key in keys.items() if not is_companion(key)})
    beside = [file for file in _files(_beside(path, "vae")) if _is_vae(read_header(file), config)]
    if len(beside) == 1:
        return Part(beside[0], {})
    found = f"{' and '.join(file.name for file in beside)} may be it" if beside else "none is found beside it"
    raise DDMError(f"{path.name} holds no VAE, and {found}. Give the file of its VAE.", "vae")


def _is_vae(header: Header, config: Mapping[str, Any]) -> bool:
    keys = (prefix + VAE_INPUT for prefix in VAE)
    wanted = (config["block_out_channels"][-1], config["latent_channels"], 3, 3)
    return any(key in header and header[key][1] == wanted for key in keys)
