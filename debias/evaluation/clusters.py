"""The unlabelled view: images that look alike, for those who do not want to ascribe identity."""

import numpy as np

from ..probes.records import EvaluationData
from . import intervals, metrics
from .contact_sheet import uri
from .report import Cluster, Estimate, Thumbnail

EXAMPLES = 8


def look_alikes(records: EvaluationData, count: int = 6, random_seed: int = 0) -> list[Cluster]:
    """Cluster the features of all images by k-means, after each prompt's mean is taken out.

    Subtracting it keeps the subject itself from being a cluster: what is left is how images of one prompt differ.

    Returns:
        The clusters, largest in the base condition first, with their shares as mean over prompts; none without
        features. How many clusters there are of a kind depends on how common it is, so their shares compare conditions
        and are no measure of diversity.
    """
    if records.features is None or count < 2 or len(records.features) < 4 * count:
        return []
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    features = np.asarray(records.features, dtype=np.float64).reshape(len(records.features), -1)
    prompt = np.asarray(records.prompt)
    sums = np.zeros((len(records.prompts), features.shape[1]))
    np.add.at(sums, prompt, features)
    features = features - (sums / np.maximum(np.bincount(prompt, minlength=len(sums)), 1)[:, None])[prompt]
    if not np.any(features):
        return []
    depth = min(20, *features.shape)
    features = PCA(depth, random_state=random_seed).fit_transform(features)
    model = KMeans(count, n_init=4, random_state=random_seed).fit(features)
    onehot = (model.labels_[:, None] == np.arange(count)).astype(np.float64)
    size = (len(records.conditions), len(records.prompts))
    counts = intervals.tabulate(onehot, records.condition, records.prompt, *size)
    p = np.stack([metrics.mean_over_prompts(metrics.shares(one)) for one in counts])
    distance = model.transform(features)
    clusters = []
    for k in np.argsort(-np.nan_to_num(p[records.base]), kind="stable"):
        total = counts[:, :, k].sum(), counts.sum((1, 2))
        low, high = intervals.wilson(np.nan_to_num(p[:, k]) * total[1], total[1])
        shares = [
            Estimate(None) if np.isnan(value) else Estimate(float(value), float(a), float(b))
            for value, a, b in zip(p[:, k], low, high, strict=True)
        ]
        members = np.flatnonzero(model.labels_ == k)
        nearest = members[np.argsort(distance[members, k], kind="stable")]
        spread = nearest[np.unique(np.linspace(0, len(nearest) // 2, EXAMPLES).astype(int))] if len(nearest) else []
        examples = (
            []
            if records.paths is None and records.thumbnails is None
            else [Thumbnail(uri(records, i), str(records.prompts[prompt[i]])) for i in spread]
        )
        clusters.append(Cluster(int(total[0]), shares, examples))
    return clusters
