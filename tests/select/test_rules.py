"""What each rule by distance minimises, against brute force."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances

from convexdistill.data import ImageData, load
from convexdistill.features import pool
from convexdistill.moments import accumulate
from convexdistill.select import choose, facility_location
from convexdistill.select.facility_location import _lazy_greedy
from convexdistill.select.kmedoids import _medoids
from convexdistill.select.leverage import leverage_scores
from convexdistill.select.target_space import target_spaces

RNG = np.random.default_rng(0)
POINTS = (RNG.normal(size=(60, 3)) + 50).astype(np.float32)  # far from the origin
DISTANCES = pairwise_distances(POINTS.astype(np.float64))
SOURCE = ImageData(
    torch.zeros(60, 1, 2, 2, dtype=torch.uint8), torch.zeros(60, dtype=torch.int64), ("one",), "made", "train"
)


def chosen(method, size, points=POINTS):
    return choose(SOURCE, size, method, balanced=False, features=points).indices.numpy()


def cost(indices):
    return DISTANCES[:, indices].min(axis=1).sum()


def clusters():
    """Three far-apart clusters, whatever the classes are."""
    centres = np.repeat(np.array([[0, 0, 0], [100, 0, 0], [0, 100, 0]]), 20, axis=0)
    return centres + np.random.default_rng(1).normal(size=(60, 3))


@pytest.mark.parametrize("method", ["kmeans", "kmedoids", "kcenter", "facility-location"])
@pytest.mark.parametrize("as_tensor", [True, False])
def test_one_of_each_cluster_is_chosen(method, as_tensor):
    features = torch.from_numpy(clusters()) if as_tensor else clusters()
    assert sorted(chosen(method, 3, features) // 20) == [0, 1, 2]


def test_kmeans_takes_the_image_nearest_to_the_centre():
    for index in chosen("kmeans", 3, clusters()):
        cluster = clusters()[index // 20 * 20 : index // 20 * 20 + 20]
        assert index % 20 == np.linalg.norm(cluster - cluster.mean(0), axis=1).argmin()


def test_herding_follows_the_mean():
    total, left, expected = np.zeros(3), list(range(60)), []
    for k in range(1, 8):
        far = [np.linalg.norm(POINTS.mean(0) - (total + POINTS[i]) / k) for i in left]
        expected.append(left.pop(int(np.argmin(far))))
        total += POINTS[expected[-1]]
    assert sorted(expected) == sorted(chosen("herding", 7))


def test_kcenter_takes_the_farthest_and_is_within_twice_the_best():
    base = chosen("kcenter", 3)
    radius = DISTANCES[:, base].min(axis=1).max()
    best = min(DISTANCES[:, list(c)].min(axis=1).max() for c in itertools.combinations(range(60), 3))
    assert radius <= 2 * best
    expected = [int(np.linalg.norm(POINTS - POINTS.mean(0), axis=1).argmin())]
    for _ in range(5):
        expected.append(int(DISTANCES[:, expected].min(axis=1).argmax()))
    assert sorted(expected) == sorted(chosen("kcenter", 6))


@pytest.mark.parametrize("seed", range(3))
def test_lazy_greedy_chooses_what_greedy_chooses(seed):
    points = np.random.default_rng(seed).normal(size=(400, 2)).astype(np.float32)
    distances = pairwise_distances(points.astype(np.float64))
    nearest, expected = np.full(400, 1e3), []
    for _ in range(12):
        gains = np.maximum(nearest[:, None] - distances, 0).sum(axis=0)
        expected.append(int(gains.argmax()))
        nearest = np.minimum(nearest, distances[expected[-1]])
    assert _lazy_greedy(points, 12, seed=0).tolist() == expected


def test_facility_location_is_near_the_best_there_is():
    best = min(cost(list(c)) for c in itertools.combinations(range(60), 3))
    assert cost(chosen("facility-location", 3)) <= 1.15 * best


def test_facility_location_of_many_images_chooses_among_a_random_part(monkeypatch):
    monkeypatch.setattr(facility_location, "_CANDIDATES", 50)
    points = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    first, again, other = (_lazy_greedy(points, 5, seed) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()


@pytest.mark.parametrize("seed", range(3))
def test_medoids_are_a_fixed_point_and_better_than_their_start(seed):
    medoids = _medoids(POINTS, 5, seed)
    nearest = DISTANCES[:, medoids].argmin(axis=1)
    for k, medoid in enumerate(medoids):
        cluster = np.flatnonzero(nearest == k)
        assert medoid == cluster[DISTANCES[np.ix_(cluster, cluster)].sum(axis=0).argmin()]
    draw = np.random.default_rng(seed)
    assert cost(medoids) < np.mean([cost(draw.choice(60, 5, replace=False)) for _ in range(20)])


def test_medoids_of_a_large_cluster_are_still_its_medoid():
    points = np.random.default_rng(0).standard_t(3, size=(3000, 2)).astype(np.float32)
    sums = pairwise_distances(points.astype(np.float64)).sum(axis=0)
    assert _medoids(points, 1, seed=0).tolist() == [sums.argmin()]


def test_leverage_scores_are_ridge_leverage_scores():
    digits = load("digits")
    moments = accumulate(pool("convnet", count=1, width=8), digits)
    (space,) = target_spaces(digits, moments)
    rows = np.concatenate(list(space.slices()))
    np.testing.assert_allclose(
        rows.T @ rows / len(digits), space.gram, atol=1e-12
    )  # the moments are of these rows
    values = np.linalg.eigvalsh(space.gram)
    ridge = np.sort(values)[:-10].sum() / 10
    expected = np.einsum("nd,nd->n", rows @ np.linalg.inv(space.gram + ridge * np.eye(len(values))), rows)
    np.testing.assert_allclose(leverage_scores(space, 10), expected, rtol=1e-9)


def test_leverage_draws_in_proportion_to_the_scores():
    points = np.eye(3)[np.repeat([0, 1, 2], [40, 15, 5])]
    drawn = np.concatenate([choose(SOURCE, 1, "leverage", False, s, points).indices.numpy() for s in range(400)])
    shares = np.bincount(np.repeat([0, 1, 2], [40, 15, 5])[drawn], minlength=3) / 400
    # By definition, in the Gram of the points, scaled to norm 1 and followed by ones.
    augmented = np.hstack([points, np.ones((60, 1))])
    gram = augmented.T @ augmented / 60
    ridge = np.sort(np.linalg.eigvalsh(gram))[:-1].sum()
    scores = np.einsum("nd,nd->n", augmented @ np.linalg.inv(gram + ridge * np.eye(4)), augmented)
    expected = np.array([part.sum() for part in np.split(scores, [40, 55])]) / scores.sum()
    assert np.abs(shares - expected).max() < 4 * 0.5 / np.sqrt(400)
    assert np.abs(shares - np.array([40, 15, 5]) / 60).max() > 0.08  # and not all alike
