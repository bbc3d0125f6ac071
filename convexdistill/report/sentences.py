"""What the page and the terminal say in whole sentences: the main number, and honestly what it is worth."""

from __future__ import annotations

from collections.abc import Sequence

from convexdistill.distilled import DistilledSet
from convexdistill.evaluate import Row
from convexdistill.report.compare import Difference, Standing, difference
from convexdistill.report.entries import Entry, against
from convexdistill.report.words import images, in_sentence, last_part, network, number, percent, signed


def title(entries: Sequence[Entry]) -> str:
    """What the page is about."""
    distilled = entries[0].distilled
    target, source = (last_part(distilled.manifest[key]["name"]) for key in ("target", "source"))
    if len(entries) > 1:
        return f"{len(entries)} distilled sets for {target}"
    if distilled.is_cross:
        return f"{images(len(distilled))} of {source} that teach {target}"
    return f"{images(len(distilled))} of {target}, with learned labels"


def headline(entries: Sequence[Entry]) -> str:
    """The main number in one sentence, and honestly what it is worth; of a comparison, who leads."""
    if len(entries) == 1:
        return _headline(entries[0].distilled, entries[0].standing)
    ranked = _ranked(entries)
    if not ranked:
        return f"{len(entries)} sets, none of them evaluated yet."
    said = [f"{one.name} ({images(len(one.distilled))}) {_reaches(one)}" for one in ranked]
    text = f"{said[0]}{', ' if len(said) > 1 else ''}{', '.join(said[1:])}."
    missing = len(entries) - len(ranked)
    return text + (f" {missing} not evaluated yet." if missing else "")


def _reaches(one: Entry) -> str:
    assert one.standing is not None
    row = one.standing.row
    return f"trains a{_n(row)} {network(row.network)} to {percent(row.accuracy_mean)} %"


def _n(row: Row) -> str:
    return "n" if network(row.network)[:1] in "AEIO" else ""


def _ranked(entries: Sequence[Entry]) -> list[Entry]:
    found = [one for one in entries if one.standing is not None and one.standing.row.accuracy_mean is not None]
    return sorted(found, key=lambda one: -one.standing.row.mean if one.standing else 0.0)


def _headline(distilled: DistilledSet, found: Standing | None) -> str:
    target, source = (last_part(distilled.manifest[key]["name"]) for key in ("target", "source"))
    whole = distilled.manifest["target"].get("images")
    subject = f"{images(len(distilled))} of {source} with learned labels"
    if not distilled.is_cross and isinstance(whole, int):
        subject = f"{len(distilled):,} of {whole:,} images of {target} with learned labels"
    if found is None:
        classes = f"{len(distilled.classes)} classes"
        whose = f"{classes} of {target}" if distilled.is_cross else f"its {classes}"
        return f"{subject} for {whose}. Not evaluated yet."
    row, best, one_hot = found.row, found.best, found.one_hot
    goal = f" on {target}" if distilled.is_cross else ""
    verb = "trains" if len(distilled) == 1 else "train"
    sentence = f"{subject} {verb} a{_n(row)} {network(row.network)} to {percent(row.accuracy_mean)} %{goal}"
    if row.accuracy_mean is None:
        return f"{subject} {verb} a{_n(row)} {network(row.network)}{goal}, but every training diverged."
    if best is None:
        return f"{sentence}."
    name, score = in_sentence(best.labels), f"{percent(best.accuracy_mean)} %"
    if percent(best.accuracy_mean) == percent(row.accuracy_mean):
        return f"{sentence} — no more than the best baseline, {name}."
    if best.mean > row.mean:
        return f"{sentence} — less than a baseline: {name} reach{_s(best.labels)} {score}."
    if one_hot is None or one_hot is best:
        return f"{sentence} — the best baseline, {name}, reaches {score}."
    return (
        f"{sentence} — one-hot labels on the same images: {percent(one_hot.accuracy_mean)} %, "
        f"the best baseline ({name}): {score}."
    )


def _s(labels: str) -> str:
    return "" if in_sentence(labels).endswith("s") or "labels" in in_sentence(labels) else "es"


def certainty(entries: Sequence[Entry]) -> str:
    """A sentence on how sure the main difference is; empty where there is none.

    Of one set, to the best baseline; of a comparison, between the two that lead.
    """
    if len(entries) > 1:
        ranked = _ranked(entries)
        gap = against(ranked[1], ranked[0]) if len(ranked) > 1 else None
        return "" if gap is None else _certainty(gap, ranked[1].name)
    found = entries[0].standing
    if found is None or found.best is None or found.row.accuracy_mean is None:
        return ""
    name = in_sentence(found.best.labels)
    gap = difference(found.row, found.best)
    if gap is None:
        return f"The runs of {name} do not pair up with those of the distilled labels."
    return _certainty(gap, name)


def _certainty(gap: Difference, name: str) -> str:
    points = f"Against {name} the difference is {signed(gap.mean, 1)} points"
    if gap.low is None or gap.high is None:
        return f"{points}, from a single training: nothing is known of its spread."
    paired = "not paired" if gap.over == "unpaired" else f"paired over {gap.pairs} {gap.over}"
    what = "runs" if gap.over == "unpaired" else gap.over
    bounds = f"95 % interval {signed(gap.low, 1)} to {signed(gap.high, 1)}, {paired}"
    if gap.is_clear:
        return f"{points} ({bounds})."
    return f"{points} ({bounds}): too few {what} to tell the two apart."


def interval_note(rows: Sequence[Row]) -> str:
    """How the 95 % intervals of these rows were made."""
    sets = max((row.base_sets for row in rows), default=1)
    if sets > 1:
        return (
            f"Intervals: 95 %, Student’s t over the means of the {sets} base sets, since trainings on the "
            "same images share their luck; cut off at 0 and 100 %."
        )
    return (
        "Intervals: 95 %, Student’s t over the trainings; cut off at 0 and 100 %. With a single base set "
        "they speak for these base images alone, not for another choice of images."
    )


def cost(one: Entry, with_name: bool = False) -> list[str]:
    """When distilling has paid for itself, and why energy is not known; nothing where no cost was recorded."""
    record = one.metrics.get("cost")
    if not record:
        return []
    name = f"{one.name}: " if with_name else ""
    trainings = record.get("pays_off_after")
    found = []
    if trainings is not None:
        count = f"{number(trainings)} training" + ("" if trainings == 1 else "s")
        found.append(
            f"{name}distilling has paid for itself after {count} on the distilled set instead of everything."
        )
    elif None not in (record.get("distil_seconds"), record.get("train_full_seconds")):
        found.append(
            f"{name}distilling does not pay for itself: a training on the set takes no less than on everything."
        )
    if record.get("energy_why_not"):
        found.append(f"{name}energy is not known: {record['energy_why_not']}.")
    return [text[:1].upper() + text[1:] if not with_name else text for text in found]
