"""Labels to compare with, on the same base images: nothing may be won by the images or the loss alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from convexdistill.data import ImageData
from convexdistill.distilled import DistilledSet
from convexdistill.errors import InvalidInputError
from convexdistill.evaluate.label_loss import OWN, LabelLoss, centred
from convexdistill.features import extract, spec_from_dict
from convexdistill.select import BaseExamples, choose
from convexdistill.training import Candidate, Recipe

SMOOTHING = 0.1
NEIGHBOURS = 10
UNTRAINED = ("nearest-neighbour", "nearest-mean")


def paper_recipe(recipe: Recipe) -> Recipe:
    """The paper's loss with everything else of ``recipe``."""
    return replace(recipe, loss="soft-cross-entropy", label_scale=1.0, temperature=1.0)


def candidates(
    distilled: DistilledSet,
    recipe: Recipe,
    transferred: Tensor | None,
    *,
    loss: LabelLoss = LabelLoss(),  # noqa: B008 (frozen)
    trained_teacher: Tensor | None = None,
) -> list[Candidate]:
    """The distilled labels and every baseline on the same images that has a meaning for them.

    Within a data set: ``one-hot`` and ``smoothed`` (0.1) with cross-entropy, ``one-hot-recipe`` (one-hot
    under the distilled set's own loss and scale), ``teacher`` (full-data ridge scores under the same).
    Across data sets the base images' own classes mean nothing: ``transferred`` and ``teacher``. Under a loss
    that is not ``"own"`` all of them have that loss, and ``one-hot-recipe`` would be ``one-hot`` again.

    Args:
        distilled: the set.
        recipe: that the distilled labels are trained with.
        transferred: see :func:`transferred_labels`; needed across data sets.
        loss: that networks are trained under.
        trained_teacher: ``(n, C)`` probabilities of the network that was trained on the whole target.
    """
    own, space = loss.name == OWN, distilled.label_space
    found = [loss.apply("distilled", distilled.labels, space, recipe)]
    soft = {}  # probabilities that are trained on as the distilled labels are
    if distilled.is_cross:
        assert transferred is not None
        soft["transferred"] = transferred
    else:
        classes = len(distilled.classes)
        hot = one_hot(distilled.base_labels, classes).float()
        paper = paper_recipe(recipe)
        found.append(loss.apply("one-hot", hot, "probability", paper))
        smooth = (1 - SMOOTHING) * hot + SMOOTHING / classes
        found.append(loss.apply("smoothed", smooth, "probability", paper))
        if own and recipe.loss != paper.loss:
            soft["one-hot-recipe"] = hot
    if trained_teacher is not None:
        soft["trained-teacher"] = trained_teacher
    for name, labels in soft.items():
        found.append(loss.apply(name, _like(labels, distilled) if own else labels, "probability", recipe))
    return found + [loss.apply(name, labels, space, recipe) for name, labels in distilled.baselines.items()]


def _like(probabilities: Tensor, distilled: DistilledSet) -> Tensor:
    """Probabilities in the label space of the distilled set."""
    # Logits are centred, too, and of the same size.
    return probabilities if distilled.label_space == "probability" else centred(probabilities, "probability")


def subset_size(distilled: DistilledSet) -> int:
    """How many images with hard labels take no more bytes than the distilled set, and at least one.

    A class takes one byte, or two where there are more than 256.
    """
    channels, height, width = distilled.shape
    each = channels * height * width + (1 if len(distilled.classes) <= 256 else 2)
    return max(1, distilled.bytes["total"] // each)


def random_subset(distilled: DistilledSet, target: ImageData, seed: int) -> BaseExamples:
    """Images of the target's train split at the byte budget of the distilled set, as balanced as they can be."""
    size = min(subset_size(distilled), len(target))
    balanced = size // target.num_classes + 1 <= min(target.counts)
    return choose(target, size, balanced=balanced, seed=seed)


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


def untrained_accuracy(name: str, distilled: DistilledSet, data: ImageData) -> float:
    """Accuracy in percent of a rule that needs no network, by pixels of the base images and their classes.

    Pixels are normalised and not whitened, which makes distances say less.

    Args:
        name: ``"nearest-neighbour"``: the class of the nearest base image; ``"nearest-mean"``: the class whose
            base images have the nearest mean.
        distilled: the set.
        data: what is classified.

    Raises:
        InvalidInputError: the base images' own classes are not the target's.
    """
    if distilled.is_cross:
        raise InvalidInputError("the nearest base image has no class of the target across data sets")
    from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

    classifier = KNeighborsClassifier(n_neighbors=1) if name == "nearest-neighbour" else NearestCentroid()
    normalised = replace(distilled.preprocessing, zca=None)
    images, classes = normalised(distilled.images).flatten(1).numpy(), distilled.base_labels.numpy()
    if len(set(classes.tolist())) == 1:  # which NearestCentroid refuses
        return float((data.labels == int(classes[0])).double().mean()) * 100
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # pixels that are the same in all images are no news
        classifier.fit(images, classes)
        seen = normalised(data.images).flatten(1).numpy()
        return float(classifier.score(seen, data.labels.numpy())) * 100
