"""Our k-means of single numbers against scikit-learn's."""

import numpy as np
import pytest
from sklearn.cluster import KMeans

from compressors.clusters import cluster, k_means


@pytest.mark.parametrize("k", [2, 5, 16, 64])
@pytest.mark.parametrize("kind", ["normal", "uniform", "two hills"])
def test_the_inertia_is_that_of_scikit_learn_from_the_same_start(k: int, kind: str) -> None:
    rng = np.random.default_rng(k)
    values = {
        "normal": rng.normal(size=4000).clip(-2, 2),
        "uniform": rng.uniform(-1, 1, 4000),
        "two hills": np.concatenate([rng.uniform(-3, -1, 2000), rng.uniform(-1, 4, 2000)]),
    }[kind]
    start = np.linspace(values.min(), values.max(), k)[:, None]
    theirs = KMeans(k, init=start, n_init=1, tol=0, max_iter=1000, algorithm="lloyd").fit(values[:, None])
    ours = k_means(np.sort(values), k)
    assert ours == pytest.approx(theirs.cluster_centers_.ravel(), abs=1e-9)
    codes = cluster(values, k)
    assert codes is not None
    inertia = np.square(values - codes.centroids[codes.numbers]).sum()
    assert inertia == pytest.approx(theirs.inertia_, rel=1e-9)
