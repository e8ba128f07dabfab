"""DDM Probe from Words: who is in an image, by what the classes are called; nothing is labelled."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import comfy.model_management
from comfy_api.latest import io

from ..debias.core.error import DDMError
from . import image_text_folders
from .types import CATEGORY, Probe, advanced, known
from .validation import said_once

if TYPE_CHECKING:
    import numpy as np

    from ..debias.probes.denoising_probe import DenoisingProbe

# Sampling steps of the diffusion model's own images of the words.
STEPS = 20


class ProbeFromWords(io.ComfyNode):
    """Makes a probe from an image–text model, or from the diffusion model itself."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DDMProbeFromWords",
            display_name="DDM Probe from Words",
            category=CATEGORY,
            description="Makes a probe without labels: an image–text model compares images with what the classes are "
            "called; or, where there is none, the diffusion model itself does. How often it is right is not known "
            "until you check it, and reports say so.",
            inputs=[
                io.ClipVision.Input(
                    "clip_vision", optional=True, tooltip="The image half of a CLIP model, from Load CLIP Vision."
                ),
                io.Clip.Input(
                    "clip",
                    optional=True,
                    tooltip="With clip_vision, the text half of the same model: SDXL's for CLIP-G vision, clip_l (Load "
                    "CLIP) for CLIP ViT-L; that of SD 1.5 lacks a part, and is refused. With model, what reads its "
                    "prompts.",
                ),
                io.String.Input("attribute", default="gender", tooltip="What the classes are classes of."),
                io.String.Input(
                    "classes",
                    default="man: a man, a male person\nwoman: a woman, a female person",
                    multiline=True,
                    tooltip="One class in a line, its name, a colon, and phrases for it. Several phrases are surer.",
                ),
                io.String.Input(
                    "unclear",
                    default="an object, an animal, an empty place, a person who cannot be seen well",
                    multiline=True,
                    tooltip="Phrases for images that show none of the classes. They are undetermined, and not counted. "
                    "Not used with model, for which images are unclear that are unlike its own.",
                ),
                io.Combo.Input(
                    "folder",
                    options=image_text_folders.names(),
                    default=image_text_folders.NONE,
                    optional=True,
                    tooltip="A CLIP or SigLIP model in place of clip_vision and clip: a folder with config.json, "
                    "tokenizer and weights in models/clip_vision.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The diffusion model itself, in place of clip_vision: how well it denoises an image when "
                    "the words of a class are said. Slower: about as long as it takes to generate the images.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="With model, its VAE."),
                *advanced(
                    io.Int.Input(
                        "size",
                        default=512,
                        min=64,
                        max=2048,
                        step=8,
                        optional=True,
                        tooltip="With model: side in pixels of the images that it makes and reads.",
                    ),
                    io.Float.Input(
                        "cfg",
                        default=5.0,
                        min=0.0,
                        max=100.0,
                        step=0.1,
                        optional=True,
                        tooltip="With model: guidance scale of the few images that it makes of the words, to compare.",
                    ),
                ),
            ],
            outputs=[Probe.Output(display_name="probe", tooltip="For every node that takes a probe.")],
            hidden=[io.Hidden.unique_id, io.Hidden.dynprompt],
            **known(search_aliases=["clip", "siglip", "zero-shot", "classifier", "gender", "words"]),
        )

    @classmethod
    @said_once
    def validate_inputs(
        cls, classes: str | None = None, attribute: str | None = None, unclear: str | None = None
    ) -> bool | str:
        """A sentence if the classes cannot be read, or something has no name."""
        from ..debias.probes.words_probe import parse_classes, parse_phrases

        try:
            if classes is not None:
                parse_classes(classes)
        except DDMError as error:
            return str(error)
        if attribute is not None and not attribute.strip():
            return "The attribute has no name. Say what the classes are classes of: gender."
        if unclear is not None and not parse_phrases(unclear):
            return "There is no phrase for what is unclear. Write some: an object, an empty place."
        return True

    @classmethod
    def execute(
        cls,
        attribute: str,
        classes: str,
        unclear: str,
        clip_vision: Any = None,
        clip: Any = None,
        folder: str = image_text_folders.NONE,
        model: Any = None,
        vae: Any = None,
        size: int = 512,
        cfg: float = 5.0,
    ) -> io.NodeOutput:
        """Make the probe of whatever is connected."""
        from ..debias.probes.words_probe import parse_classes, parse_phrases, probe_from_words

        attribute, named = attribute.strip(), parse_classes(classes)
        if folder != image_text_folders.NONE:
            from ..training.models.image_text import ImageText

            both = ImageText(image_text_folders.resolve(folder), comfy.model_management.get_torch_device())
            return io.NodeOutput(
                probe_from_words(named, attribute, both.embed_texts, both, parse_phrases(unclear), scale=both.scale)
            )
        if clip_vision is not None and clip is not None:
            from .clip_text import ClipText
            from .clip_vision import ClipVision

            made = probe_from_words(named, attribute, ClipText(clip), ClipVision(clip_vision), parse_phrases(unclear))
            return io.NodeOutput(made)
        if None in (model, clip, vae):
            raise DDMError(
                "There is nothing to compare images with words. Connect clip_vision and clip, the halves of one CLIP; "
                "or model, clip and vae of a checkpoint; or choose a folder."
            )
        return io.NodeOutput(_by_model(cls, named, attribute, model, clip, vae, size, cfg))


def _by_model(
    node: type[io.ComfyNode],
    classes: "Mapping[str, Sequence[str]]",
    attribute: str,
    model: Any,
    clip: Any,
    vae: Any,
    size: int,
    cfg: float,
) -> "DenoisingProbe":
    """The probe of the diffusion model; its own images of the words are kept like all that are measured."""
    from ..debias.core.image import fit, to_array
    from ..debias.probes.denoising_probe import probe_from_denoising
    from ..hosts.measurement import Variant, seeds_of
    from . import measurement
    from .generation import Generator, SamplerSettings
    from .model_denoiser import ModelDenoiser
    from .upstream import Upstream

    settings = SamplerSettings(STEPS, cfg, "euler", "normal", size, size)
    generator, upstream = Generator(vae, settings), Upstream(node.hidden.dynprompt, node.hidden.unique_id)
    store = measurement.store_of(model, upstream, settings)

    def make(texts: "Sequence[str]") -> "np.ndarray":
        seeds = {text: seeds_of(text, 0, count) for text, count in Counter(texts).items()}

        def prepare() -> measurement.ModelImages:
            encoded = measurement.conditioning([*seeds], clip, None, None)
            return measurement.ModelImages(generator, model, encoded)

        measurement.generate([Variant(0.0, store, prepare)], seeds)
        left = {text: iter(own) for text, own in seeds.items()}
        return to_array(fit(store.open(text, next(left[text])), size) for text in texts)

    digest = upstream.digest("model", "clip", "vae")
    return probe_from_denoising(classes, attribute, ModelDenoiser(model, clip, generator, digest), make)
