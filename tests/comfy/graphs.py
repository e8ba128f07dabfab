"""Graphs in API format, as small dictionaries that tests put together."""

from .server import ADAPTER, EMBEDDED

PROMPT = "a firefighter"


def load(weights: str = EMBEDDED) -> dict:
    """Node `base`: MODEL, CLIP, VAE."""
    return {"base": {"class_type": "DDMLoadWeights", "inputs": {"weights": weights}}}


def adapter(alpha: float = 1.0, name: str = ADAPTER, strength_from: str = "alpha", clip: bool = False) -> dict:
    """Node `adapter` on `base`."""
    inputs = {"model": ["base", 0], "adapter": name, "alpha": alpha, "strength_from": strength_from}
    return {"adapter": {"class_type": "DDMLoadAdapter", "inputs": inputs | ({"clip": ["base", 1]} if clip else {})}}


def stock_lora(alpha: float = 1.0, name: str = ADAPTER) -> dict:
    """Node `lora` on `base`: the host's own loader."""
    inputs = {"model": ["base", 0], "clip": ["base", 1], "lora_name": name}
    return {"lora": {"class_type": "LoraLoader", "inputs": inputs | {"strength_model": alpha, "strength_clip": alpha}}}


def schedule(
    shape: str, alpha: float = 1.0, end: float = 0.0, switch: float = 0.5, points: str = "0:1", **more
) -> dict:
    """Node `schedule` on the conditionings `yes` and `no`."""
    inputs = {"positive": ["yes", 0], "negative": ["no", 0], "adapter": ADAPTER, "shape": shape, "alpha": alpha}
    inputs |= {"alpha_end": end, "switch": switch, "points": points} | more
    return {"schedule": {"class_type": "DDMAlphaSchedule", "inputs": inputs}}


def sample(
    model: str = "base",
    positive: tuple = ("yes", 0),
    negative: tuple = ("no", 0),
    *,
    prompt: str = PROMPT,
    steps: int = 8,
    cfg: float = 3.0,
    seed: int = 1,
    batch: int = 2,
    size: int = 64,
    sampler: str = "euler",
) -> dict:
    """Prompts, sampling, decoding; nodes `latent` (a saved latent) and `picture` are outputs."""
    return {
        "yes": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["base", 1], "text": prompt}},
        "no": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["base", 1], "text": ""}},
        "empty": {"class_type": "EmptyLatentImage", "inputs": {"width": size, "height": size, "batch_size": batch}},
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                "model": [model, 0],
                "positive": list(positive),
                "negative": list(negative),
                "latent_image": ["empty", 0],
                "seed": seed,
                "steps": steps,
                "cfg": cfg,
                "sampler_name": sampler,
                "scheduler": "simple",
                "denoise": 1.0,
            },
        },
        "latent": {"class_type": "SaveLatent", "inputs": {"samples": ["sampler", 0], "filename_prefix": "latent"}},
        "decoder": {"class_type": "VAEDecode", "inputs": {"samples": ["sampler", 0], "vae": ["base", 2]}},
        "picture": {"class_type": "SaveImage", "inputs": {"images": ["decoder", 0], "filename_prefix": "picture"}},
    }


def scheduled(shape: str, **values) -> dict:
    """A whole graph with a scheduled adapter."""
    return load() | schedule(shape, **values) | sample(positive=("schedule", 0), negative=("schedule", 1))
