"""An adapter on the host's model while it makes the images of a run.

One strength for all images goes into the weights where the host can do that (Forge), exactly as `<lora:name:α>` does.
Everything else, and A1111, has forward hooks beside the layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from ..debias.adapter.lora_file import Adapter, Lora, check_layers, content_hash, parse_adapter
from ..debias.adapter.lora_hook import LoraHooks
from ..debias.adapter.lora_keys import PREFIX, from_ldm
from ..debias.core.error import DDMError
from ..debias.core.io import load_tensors
from ..hosts.adapter_card import LoadedCard
from ..hosts.infotext import SETTINGS, Dial
from .host import checkpoint_hash, is_forge

# How an image's infotext names the adapter.
ADAPTER, HASH = "DDM adapter", "DDM hash"
WITHOUT_TEXT = "The file also changes the text encoder: this half is left out here; both are used by"


@dataclass
class Adapting:
    """An adapter in a run.

    Attributes:
        name: as the page lists it.
        path: its file.
        adapter: what is in it.
        tensors: the same as in the file, for the host's own functions.
        hash: of the content, so that a file that was trained again under its name is another one.
        dial: the strengths.
    """

    name: str
    path: Path
    adapter: Adapter
    tensors: dict[str, Any]
    hash: str
    dial: Dial
    hooks: LoraHooks | None = field(default=None, repr=False)

    @classmethod
    def load(cls, name: str, path: Path, dial: Dial) -> "Adapting":
        """Read the file.

        Raises:
            DDMError: as in `parse_adapter`.
        """
        tensors, metadata = load_tensors(path)
        return cls(name, path, parse_adapter(path, tensors, metadata), tensors, content_hash(path), dial)

    @property
    def layers(self) -> dict[str, Lora]:
        """What is in the file for the U-Net."""
        return {name: lora for name, lora in self.adapter.modules.items() if name.startswith(PREFIX)}

    def check(self, model: Any) -> str | None:
        """Whether it fits the host's model; returns a warning if that is another one than it was trained on.

        Raises:
            DDMError: it was made for another kind of model.
        """
        layers = _layers(model)
        shapes = {name: tuple(layer.weight.shape) for name, layer in layers.items() if _is_plain(layer)}
        # A quantised layer does not tell its shape: what fits by name is believed.
        packed = {name: _shape(lora) for name, lora in self.layers.items() if name in layers.keys() - shapes}
        warning = check_layers(self.adapter, checkpoint_hash(model), shapes | packed)
        left_out = "" if len(self.layers) == len(self.adapter.modules) else f"{WITHOUT_TEXT} <lora:{self.path.stem}:1>."
        return " ".join(filter(None, (warning, left_out))) or None

    def card(self, warning: str | None = None) -> LoadedCard:
        """What there is to say of it in this run."""
        return LoadedCard(self.name, self.dial.alpha(0), self.adapter.card, warning)

    def put_on(self, model: Any, images: Sequence[int]) -> None:
        """Put it on the model for a batch; once more does no harm.

        Args:
            model: the host's.
            images: of the batch, by their numbers in the run.

        Raises:
            DDMError: the host has left out some of the layers.
        """
        self.take_off()
        if self.dial.constant is not None and is_forge(model) and _merges_loras():
            if self.dial.constant:
                self._patch(model)
            return
        layers = _layers(model)
        hooked = {layers[name]: lora for name, lora in self.layers.items() if name in layers}
        self.hooks = LoraHooks(unet_of(model), hooked, lambda t, rows: self.dial.strengths(t, rows, images))

    def take_off(self) -> None:
        """Remove the hooks, if there are any; Forge drops its patches by itself."""
        if self.hooks is not None:
            self.hooks.remove()
            self.hooks = None

    def infotext(self, images: int) -> dict[str, Any]:
        """What the infotexts of so many images say of it."""
        said = {ADAPTER: self.name, HASH: self.hash[:12]}
        return said | {name: self.dial.infotext(name, images) for name in SETTINGS}

    def _patch(self, model: Any) -> None:
        from backend.args import dynamic_args
        from backend.patcher.lora import load_lora

        unet = model.forge_objects.unet.clone()
        patches, _ = load_lora(self.tensors, _forge_keys(unet.model))
        plain = unet.model.storage_dtype.itemsize > 1 and unet.model.storage_dtype.is_floating_point
        plain = plain or str(dynamic_args.get("ops")).startswith("Mixed")  # Neo's, which converts them to merge
        done = unet.add_patches(
            # Merging is skipped for a name that is merged already: with the hash, only if its content is the same.
            filename=f"{self.path} {self.hash}",
            patches=patches,
            strength_patch=self.dial.constant,
            online_mode=bool(dynamic_args.get("online_lora", False)) and not plain,
        )
        if len(done) != len(self.layers):
            raise DDMError(
                f"The host took {len(done)} of the {len(self.layers)} layers of {self.name}: its effect would "
                "not be the one that was measured. Use the base that it was trained on."
            )
        model.forge_objects.unet = unet


def _layers(model: Any) -> dict[str, nn.Module]:
    """The layers of the host's U-Net, by the names that adapters have for them (see `Adapter.modules`)."""
    unet = unet_of(model)
    if is_forge(model):
        keys = _forge_keys(model.forge_objects.unet.model)
        inside = {name: key for name, key in keys.items() if isinstance(key, str) and name.startswith(PREFIX)}
        found = {name: key.removeprefix("diffusion_model.").removesuffix(".weight") for name, key in inside.items()}
    else:
        found = {from_ldm(PREFIX + name.replace(".", "_")): name for name, _ in unet.named_modules()}
    modules = dict(unet.named_modules())
    return {
        name: modules[place] for name, place in found.items() if getattr(modules.get(place), "weight", None) is not None
    }


def unet_of(model: Any) -> nn.Module:
    """The U-Net, or whatever else predicts noise, in the host's model."""
    return model.forge_objects.unet.model.diffusion_model if is_forge(model) else model.model.diffusion_model


def _forge_keys(model: nn.Module) -> dict[str, Any]:
    from backend.patcher.lora import model_lora_keys_unet

    return model_lora_keys_unet(model, {})  # the dictionary is filled: its default would be shared by all models


def _merges_loras() -> bool:
    """Whether Forge has LoRAs in the weights; for Neo's int8 and Nunchaku layers it has ways of its own."""
    from backend.args import dynamic_args

    return not (dynamic_args.get("nunchaku") or str(dynamic_args.get("ops")).endswith("Int8"))


def _is_plain(layer: nn.Module) -> bool:
    return layer.weight.is_floating_point() and not hasattr(layer.weight, "gguf_cls")


def _shape(lora: Any) -> tuple[int, ...]:
    return (lora.up.shape[0], *lora.down.shape[1:])
