"""DDM Probe from Words: who is in an image, by what the classes are called; nothing is labelled."""

from comfy_api.latest import io

from ..debias.core.error import DDMError
from .types import CATEGORY, Probe, known
from .validation import said_once


class ProbeFromWords(io.ComfyNode):
    """Makes a probe from the two halves of a CLIP model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="DDMProbeFromWords",
            display_name="DDM Probe from Words",
            category=CATEGORY,
            description="Makes a probe without labels: a CLIP model compares images with what the classes are called. "
            "How often it is right is not known until you check it, and reports say so.",
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="The image half, from Load CLIP Vision."),
                io.Clip.Input(
                    "clip",
                    tooltip="The text half of the same model: SDXL's for CLIP-G vision, clip_l (Load CLIP) for "
                    "CLIP ViT-L. That of SD 1.5 lacks a part, and is refused.",
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
                    tooltip="Phrases for images that show none of the classes. They are undetermined, and not counted.",
                ),
            ],
            outputs=[Probe.Output(display_name="probe", tooltip="For every node that takes a probe.")],
            **known(search_aliases=["clip", "zero-shot", "classifier", "gender", "words"]),
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
    def execute(cls, clip_vision: object, clip: object, attribute: str, classes: str, unclear: str) -> io.NodeOutput:
        """Embed the words, after a look whether they and the images belong together."""
        from ..debias.probes.words_probe import parse_classes, parse_phrases, probe_from_words
        from .clip_text import ClipText
        from .clip_vision import ClipVision

        return io.NodeOutput(
            probe_from_words(
                parse_classes(classes),
                attribute.strip(),
                ClipText(clip),
                ClipVision(clip_vision),
                parse_phrases(unclear),
            )
        )
