"""The memory that a training of full shape needs, counted over tensors that have shapes and no content."""

import time

from .result import Figure

SMALL = {"quantize": "int8", "resting": True}
# Family, what is learnt at which side in pixels, how its blocks are kept, and GB that one image at a time may take.
SHAPES = (
    ("sd1", "SD 1.5, 512 px", 512, {}, 6.0),
    ("sdxl", "SDXL, 1024 px", 1024, {}, 12.0),
    ("sdxl", "SDXL, 1024 px, quantized", 1024, SMALL, 10.0),
    ("z_image", "Z-Image, 512 px, quantized and offloaded", 512, SMALL | {"offload": True}, 10.0),
    ("z_image", "Z-Image, 512 px, quantized", 512, SMALL, None),
    ("sd3", "SD 3.5 medium, 512 px, quantized", 512, SMALL, None),
    ("krea2", "Krea 2, 512 px, quantized and offloaded", 512, SMALL | {"offload": True}, None),
    ("qwen_image", "Qwen-Image, 512 px, quantized and offloaded", 512, SMALL | {"offload": True}, None),
)


def estimated_memory() -> list[Figure]:
    """What it takes to learn from one image with checkpointing (see `estimate`), at the most at any time."""
    from ..training.models.family import named_family
    from ..training.models.ldm_checkpoint import read_family
    from ..training.models.memory_estimate import estimate

    figures = []
    for name, title, side, kept, most in SHAPES:
        family = named_family(name)
        began = time.process_time()
        found = estimate(family, read_family(family), side, checkpointing=True, **kept)
        title = f"{title}: one image, checkpointing, estimated from shapes"
        figures.append(Figure(title, found.peak / 1e9, at_most=most, unit="GB"))
        figures.append(Figure(f"{title}, processor time", time.process_time() - began, unit="s"))
    return figures
