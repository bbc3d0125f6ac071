"""Labels to compare with, on the same base images: nothing may be won by the images or the loss alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from convexdistill.data import ImageData
from convexdistill.distilled import DistilledSet
from convexdistill.errors import InvalidInputError
from convexdistill.features import extract, spec_from_dict
from convexdistill.training import Candidate, Recipe

SMOOTHING = 0.1
NEIGHBOURS = 10


def cross_entropy_recipe(recipe: Recipe) -> Recipe:
    """The paper's recipe with the batch size and optimiser of ``recipe``."""
    return Recipe(
        "soft-cross-entropy",
        steps=recipe.steps,
        batch_size=recipe.batch_size,
        optimizer=recipe.optimizer,
        learning_rate=recipe.learning_rate,
    )


def candidates(distilled: DistilledSet, recipe: Recipe, transferred: Tensor | None) -> list[Candidate]:
    """The distilled labels and every baseline that has a meaning for them.

    Within a data set: ``one-hot`` and ``smoothed`` (0.1) with cross-entropy, ``one-hot-recipe`` (one-hot
    under the distilled set's own loss and scale), ``teacher`` (full-data ridge scores under the same).
    Across data sets the base images' own classes mean nothing: ``transferred`` and ``teacher``.

    Args:
        distilled: the set.
        recipe: that the distilled labels are trained with.
        transferred: see :func:`transferred_labels`; needed across data sets.
    """
    found = [Candidate("distilled", distilled.labels, recipe)]
    if distilled.is_cross:
        assert transferred is not None
        found.append(Candidate("transferred", _like(transferred, distilled), recipe))
    else:
        classes = len(distilled.classes)
        hot = one_hot(distilled.base_labels, classes).float()
        paper = cross_entropy_recipe(recipe)
        found.append(Candidate("one-hot", hot, paper))
        found.append(Candidate("smoothed", (1 - SMOOTHING) * hot + SMOOTHING / classes, paper))
        if recipe.loss != paper.loss:
            found.append(Candidate("one-hot-recipe", _like(hot, distilled), recipe))
    return found + [Candidate(name, labels, recipe) for name, labels in distilled.baselines.items()]


def _like(probabilities: Tensor, distilled: DistilledSet) -> Tensor:
    """Probabilities in the label space of the distilled set."""
    if distilled.label_space in ("centred", "logit"):  # logits are centred, too, and of the same size
        return probabilities - 1 / probabilities.shape[1]
    return probabilities


def transferred_labels(distilled_sets: Sequence[DistilledSet], target: ImageData) -> list[Tensor]:
    """For each base image, the mean label of the ten nearest target images in feature space.

    The features are those of the first extractor of the pool, or the pixels where the pool was made of the
    caller's own modules, which a file cannot rebuild.

    Args:
        distilled_sets: of one job, so that they share their first extractor.
        target: the train split of the target.

    Returns:
        ``(n, C)`` float32 probabilities for each set.
    """
    from sklearn.neighbors import NearestNeighbors  # scikit-learn takes a second to import

    first = distilled_sets[0]
    record = first.manifest["extractors"][0]
    own = str(record["network"]).startswith("module/")
    extractor: nn.Module = nn.Flatten() if own else spec_from_dict(record).build(first.shape)
    index = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(target)))
    index.fit(extract(extractor, target.images, first.preprocessing).float().numpy())
    labels = []
    for distilled in distilled_sets:
        features = extract(extractor, distilled.images, distilled.preprocessing).float().numpy()
        nearest = torch.from_numpy(index.kneighbors(features, return_distance=False))
        labels.append(one_hot(target.labels[nearest], target.num_classes).float().mean(1))
    return labels


def nearest_neighbour_accuracy(distilled: DistilledSet, data: ImageData) -> float:
    """Accuracy in percent of the class of the nearest base image, by pixels; no network.

    Raises:
        InvalidInputError: the base images' own classes are not the target's.
    """
    if distilled.is_cross:
        raise InvalidInputError("the nearest base image has no class of the target across data sets")
    from sklearn.neighbors import KNeighborsClassifier

    classifier = KNeighborsClassifier(n_neighbors=1)
    classifier.fit(distilled.preprocessing(distilled.images).flatten(1).numpy(), distilled.base_labels.numpy())
    return (
        float(classifier.score(distilled.preprocessing(data.images).flatten(1).numpy(), data.labels.numpy())) * 100
    )
