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


def guidance(model: str = "base", **inputs) -> dict:
    """Node `guidance`: distribution guidance by the head that comes along."""
    values = {"head": "gender_head.safetensors", "scale": 8.0, "mode": "queue", "target": "uniform"}
    values |= {"keep_counts": True, "counts": "", "model": [model, 0]}
    return {"guidance": {"class_type": "DDMDistributionGuidance", "inputs": values | inputs}}


def invariant(model: str = "base", strength: float = 1.0) -> dict:
    """Node `invariant`: invariant guidance by the module that comes along."""
    inputs = {"model": [model, 0], "module": "tiny_people_invariant.safetensors", "strength": strength}
    return {"invariant": {"class_type": "DDMInvariantGuidance", "inputs": inputs}}


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
    """Prompts, sampling, decoding; nodes `latent` (a saved latent) and `image` are outputs."""
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
        "image": {"class_type": "SaveImage", "inputs": {"images": ["decoder", 0], "filename_prefix": "image"}},
    }


def scheduled(shape: str, **values) -> dict:
    """A whole graph with a scheduled adapter."""
    return load() | schedule(shape, **values) | sample(positive=("schedule", 0), negative=("schedule", 1))


def probe(name: str = "gender.safetensors", node: str = "probe") -> dict:
    """Node `probe`."""
    return {node: {"class_type": "DDMLoadProbe", "inputs": {"probe": name}}}


def report(node: str = "report", images: tuple = ("decoder", 0), **inputs) -> dict:
    """Node `report` on the images of `sample`."""
    defaults = {"prompt": PROMPT, "target": "uniform", "alpha": 1.0, "seed": 1, "collect": True, "collection": node}
    defaults["values_from"] = "typed"
    wires = {"images": list(images), "probe": ["probe", 0]}
    return {node: {"class_type": "DDMFairnessReport", "inputs": {**wires, **defaults, **inputs}}}


def reported(seed: int = 1, alpha: float = 1.0, *, batch: int = 2, steps: int = 2, **inputs) -> dict:
    """A whole graph: images of an adapter and the report on them."""
    graph = load() | adapter(alpha) | probe() | sample("adapter", seed=seed, batch=batch, steps=steps)
    del graph["latent"]
    return graph | report(seed=seed, alpha=alpha, **inputs)


def sweep(alphas: str = "0, .5, 1", prompts: str = "a firefighter\na doctor", **inputs) -> dict:
    """A whole graph with node `sweep`, and its images saved as `grid` and `chart`."""
    wires = {"model": ["base", 0], "vae": ["base", 2], "clip": ["base", 1], "probe": ["probe", 0], "adapter": ADAPTER}
    values = {"prompts": prompts, "alphas": alphas, "count": 3, "steps": 2, "cfg": 3.0, "sampler_name": "euler"}
    values |= {"scheduler": "simple", "seed": 1, "width": 64, "height": 64, "target": "uniform"}
    graph = load() | probe() | {"sweep": {"class_type": "DDMAlphaSweep", "inputs": wires | values | inputs}}
    for place, name in enumerate(("grid", "chart")):
        graph[name] = {"class_type": "SaveImage", "inputs": {"images": ["sweep", place], "filename_prefix": name}}
    return graph


def audit(folder: str, groups: str = "labels:folder", **inputs) -> dict:
    """Node `audit`."""
    values = {"folder": folder, "weights": EMBEDDED, "groups": groups, "target": "uniform", "caption": "", "seed": 0}
    return {"audit": {"class_type": "DDMAuditImages", "inputs": values | inputs}}


def train(folder: str, **inputs) -> dict:
    """Node `train`."""
    values = {"folder": folder, "weights": EMBEDDED, "name": "fair", "groups": "labels:folder", "target": "uniform"}
    values |= {
        "caption": "a shade",
        "style": False,
        "steps": 3,
        "batch_size": 4,
        "rank": 2,
        "calibrate": 0,
        "seed": 0,
        "overwrite": False,
    }
    return {"train": {"class_type": "DDMTrain", "inputs": values | inputs}}


def fit(folder: str, name: str = "shade", **inputs) -> dict:
    """Node `fit`."""
    values = {"folder": folder, "labels": "folder", "name": name, "steps": 10, "seed": 0}
    return {"fit": {"class_type": "DDMFitProbe", "inputs": values | inputs}}


def measure(prompts: str = "a firefighter\na doctor", model: str = "base", **inputs) -> dict:
    """Node `measure` on `base` and `probe`."""
    wires = {"model": [model, 0], "clip": ["base", 1], "vae": ["base", 2], "probe": ["probe", 0]}
    values = {"prompts": prompts, "prompt_list": "as written", "count": 3, "steps": 2, "cfg": 3.0, "seed": 1}
    values |= {"sampler_name": "euler", "scheduler": "simple", "width": 64, "height": 64, "target": "uniform"}
    return {"measure": {"class_type": "DDMMeasurePrompts", "inputs": wires | values | {"collect": True} | inputs}}


def measured(prompts: str = "a firefighter\na doctor", **inputs) -> dict:
    """A whole graph with node `measure`, and its gallery saved as `gallery`."""
    save = {"class_type": "SaveImage", "inputs": {"images": ["measure", 0], "filename_prefix": "gallery"}}
    return load() | probe() | measure(prompts, **inputs) | {"gallery": save}


def head(name: str, /, **inputs) -> dict:
    """Node `head`: a guidance head from the model's own images."""
    values = {"folder": "(none: the model's own images)", "weights": EMBEDDED, "name": name, "groups": "discovered"}
    prompts = "a man doctor\na woman doctor\na man pilot\na woman pilot"
    values |= {"probe": "(none)", "prompts": prompts, "prompt_list": "as written"}
    return {"head": {"class_type": "DDMTrainHead", "inputs": values | {"count": 4, "caption": "", "seed": 0} | inputs}}
