"""Pages of learned labels from the records of :mod:`_learned_labels`: overview, sections, plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _learned_labels import DEARER, FURTHER, PAPER_SCALE, Setting
from _panels import panels
from _records import Record, defaults, markdown_table
from matplotlib.figure import Figure

from convexdistill.evaluate.table import Row, summarise

LEARNED = ("cross-entropy", "squared", *FURTHER)  # rows that speak for learned labels
WORDS = {"alternate": ", alternating", "unrolled": ", unrolled"}  # of groups that go on from the convex solve
WANTED_SETS = 5
SETTING = defaults(Setting)


@dataclass(frozen=True)
class Goal:
    """Test accuracy to be reached, and a published one to compare with."""

    accuracy: float
    published: float | None = None


# Source, target, size, network (see :func:`trained`), select; of groups also what is done after the solve. A goal
# whose key has None for the network is one for the best network.
Key = tuple[Any, ...]


def key_of(record: Record) -> Key:
    """What a record shares with the other base sets of its group."""
    s = record["setting"]
    return (
        s["source"],
        s["target"],
        s["size"],
        trained(s),
        s["select"],
        s["rows"] if s["rows"] in FURTHER else None,
    )


def trained(setting: Mapping[str, Any]) -> str:
    """The network of a setting, and what its images and extractors have that others have not."""
    whole = SETTING | setting  # records that are older have not all of it
    words = [whole["network"]]
    if whole["zca"] is not None:
        words.append(f"ZCA {whole['zca']:g}")
    if whole["augmentation"] != "none":
        words.append(f"{whole['augmentation']} augmentation")
    if (whole["pool"], whole["extractor"]) != (SETTING["pool"], SETTING["extractor"]):
        words.append(f"labels by {whole['pool']} {whole['extractor']}")
    return ", ".join(words)


def grouped(records: Sequence[Record]) -> dict[Key, list[Record]]:
    """Records by everything but the seed: data in the order of the records, sizes rising."""
    groups: dict[Key, list[Record]] = {}
    for record in records:
        groups.setdefault(key_of(record), []).append(record)
    lines = list(dict.fromkeys((key[:2], key[3:5]) for key in groups))

    def place(key: Key) -> tuple[int, int, str]:
        return lines.index((key[:2], key[3:5])), key[2], key[5] or ""

    return {key: groups[key] for key in sorted(groups, key=place)}


def rows_of(group: Sequence[Record]) -> list[Row]:
    """A row for each kind of labels, over the base sets of a group; every record must have the same kinds."""
    seeds = [record["setting"]["seed"] for record in group]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"two records of {key_of(group[0])} have the same base set: {seeds}")
    names = [row["labels"] for row in group[0]["result"]["rows"]]
    if any([row["labels"] for row in record["result"]["rows"]] != names for record in group):
        raise ValueError(f"records of {key_of(group[0])} have different rows: they are not of one group")
    return [
        summarise(
            [record["result"]["rows"][i]["test"] for record in group],
            [record["result"]["rows"][i]["validation"] for record in group],
            labels=name,
            network=group[0]["setting"]["network"],
            optimizer="adam",
            loss=None,
            label_scale=None,
            steps=tuple(record["result"]["rows"][i]["steps"] for record in group),
        )
        for i, name in enumerate(names)
    ]


def spokesman(rows: Sequence[Row]) -> Row:
    """The row of learned labels that the validation split prefers."""
    return max((row for row in rows if row.labels.startswith(LEARNED)), key=lambda row: row.validation_mean or 0)


def pursued(goals: Mapping[Key, Goal], key: Key) -> Key:
    """Key of the goal of a group: that of its network, whatever else is done, or that for the best network."""
    alone = key[3].split(", ")[0]
    keys = [(*key[:3], network, key[4]) for network in (alone, None)]
    return next((one for one in keys if one in goals), key[:5])


def preferred(groups: Mapping[Key, list[Record]], goals: Mapping[Key, Goal], key: Key) -> Key:
    """Of the groups that pursue the same goal: whose learned labels validation prefers.

    Those that have fewer base sets than another, and fewer than are wanted, do not compete yet. The others are
    compared on the base sets that all of them have; where there are none, the largest group speaks.
    """
    all_of_them = [other for other in groups if pursued(goals, other) == pursued(goals, key)]
    enough = min(WANTED_SETS, max(len(groups[other]) for other in all_of_them))
    rivals = [other for other in all_of_them if len(groups[other]) >= enough]
    seeds = set.intersection(*({r["setting"]["seed"] for r in groups[other]} for other in rivals))
    if not seeds:
        return max(rivals, key=lambda other: len(groups[other]))
    shared = {other: [r for r in groups[other] if r["setting"]["seed"] in seeds] for other in rivals}
    return max(rivals, key=lambda other: spokesman(rows_of(shared[other])).validation_mean or 0)


def overview(records: Sequence[Record], goals: Mapping[Key, Goal]) -> list[str]:
    """One line for each group: what validation prefers, beside its best baseline (by test).

    Where several groups pursue one goal, it stands beside the one that validation prefers.
    """
    lines = []
    groups = grouped(records)
    for key, group in groups.items():
        source, target, size, network, select, _ = key
        rows = rows_of(group)
        best = spokesman(rows)
        rival = best_baseline(rows)
        goal = goals.get(pursued(goals, key)) if key == preferred(groups, goals, key) else None
        lines.append(
            (
                pair(source, target),
                size,
                network,
                select,
                len(group),
                f"**{spread(best)}**",
                best.labels,
                f"{spread(rival)} ({rival.labels})",
                *_verdict(best, goal, len(group)),
            )
        )
    columns = ["data", "base:", "network", "chosen by", "sets:", "learned labels:", "which", "best baseline:"]
    return markdown_table([*columns, "goal:", "reached", "published:"], lines)


def _verdict(best: Row, goal: Goal | None, sets: int) -> tuple[str, str, str]:
    if goal is None:
        return "–", "–", "–"
    word = "yes" if (best.accuracy_mean or 0) >= goal.accuracy else "no"
    if sets < WANTED_SETS:
        word = f"so far {word} ({sets} of {WANTED_SETS} sets)"
    return f"{goal.accuracy:g}", word, "–" if goal.published is None else f"{goal.published:g}"


def sections(records: Sequence[Record]) -> list[str]:
    """A table for each group, with every row."""
    lines = []
    for key, group in grouped(records).items():
        source, target, size, network, select, more = key
        first = group[0]["result"]
        lines += [
            "",
            f"## {pair(source, target)}, {size} base examples ({select}), {network}" + WORDS.get(more, ""),
            "",
            _facts(group),
            "",
            *markdown_table(
                ("labels, recipe", "validation:", "test:", "95 % interval:", "between sets:", "steps:"),
                [
                    (
                        row.labels,
                        f"{row.validation_mean:.1f}",
                        spread(row),
                        _span(row.accuracy_ci95) if len(group) > 1 else "–",
                        "–" if row.std_base_sets is None else f"{row.std_base_sets:.1f}",
                        f"{min(row.steps)}–{max(row.steps)}",
                    )
                    for row in rows_of(group)
                ],
            ),
        ]
        if "rounds" in first:
            rounds = "; ".join(" → ".join(f"{v:.1f}" for v in record["result"]["rounds"]) for record in group)
            lines += ["", f"Validation accuracy by round, for each base set: {rounds}."]
        if "outer_losses" in first:
            ends = [record["result"]["outer_losses"] for record in group]
            falls = "; ".join(f"{np.mean(losses[:10]):.2f} → {np.mean(losses[-10:]):.2f}" for losses in ends)
            taken = sum(_differ(record) for record in group)
            lines += [
                "",
                f"Outer loss, mean of the first and the last ten of {len(ends[0])} iterations, for each base set: "
                f"{falls}. Validation took the unrolled labels, not those of the solve, for {taken} of "
                f"{_sets(len(group))}.",
            ]
    return lines


def _differ(record: Record) -> bool:
    """Whether unrolled labels are others than the solve's: trained alike, the same labels score alike."""
    scores = {row["labels"]: (row["validation"], row["test"]) for row in record["result"]["rows"]}
    return scores["unrolled, centred"] != scores["cross-entropy, centred"]


def _sets(count: int) -> str:
    return f"{count} base set{'' if count == 1 else 's'}"


def gains(records: Sequence[Record]) -> list[str]:
    """What going on from the single solve adds to it, on the same base sets and trainings."""
    lines = []
    for (source, target, size, network, select, more), group in grouped(records).items():
        if more is None:
            continue
        rows = {row.labels: row for row in rows_of(group)}
        better, single = (
            [float(np.mean(part)) for part in np.array_split(rows[f"{name}, centred"].runs, len(group))]
            for name in (more, "cross-entropy")
        )
        pairs = np.subtract(better, single)
        error = f" ± {pairs.std(ddof=1) / len(pairs) ** 0.5:.1f} (standard error)" if len(pairs) > 1 else ""
        lines.append(
            f"- {pair(source, target)}, {size}, {network}, {select}{WORDS[more]}: {np.mean(single):.1f} → "
            f"{np.mean(better):.1f}, {pairs.mean():+.1f}{error}, {_sets(len(pairs))}"
        )
    if not lines:
        return []
    many, few = FURTHER["unrolled"], {**FURTHER["unrolled"], **DEARER}
    head = (
        "What is done after the single solve adds to it, on the same base sets. *Alternating*: solved again with",
        "networks trained on the labels among the extractors; validation picks the round, with the base set that",
        "is shown. *Unrolled*: the labels descend through whole trainings of the very architecture that is then",
        f"trained, of {many['steps']} steps: {many['count']} LeNets in {many['iterations']} iterations, or",
        f"{few['count']} other network in {few['iterations']}; validation picks between these labels and the",
        f"solve's. Under *paper*, both are trained on as the softmax of {PAPER_SCALE:g} times the labels.",
    )
    return ["", *head, "", *lines]


def _facts(group: Sequence[Record]) -> str:
    first, setting = group[0]["result"], group[0]["setting"]
    taken = "; ".join(
        f"{solve}: γ {facts['gamma']:g}, prior {facts['prior']}, scales "
        + ", ".join(f"{scale:g} ({recipe})" for recipe, scale in facts["scales"].items())
        for solve, facts in first["chosen"].items()
    )
    means = {name: np.mean([r["result"]["seconds"][name] for r in group]) for name in first["seconds"]}
    times = ", ".join(
        f"{name} {mean:.1f} s" + (" with its trainings" if name in FURTHER else "") for name, mean in means.items()
    )
    gap = max(record["result"]["duality_gap"] for record in group)
    of = " of the solve that labels start from" if setting["rows"] == "unrolled" else ""
    images = first.get("target_images")
    return (
        f"{_sets(len(group))} × {setting['repeats']} trainings, "
        + (f"{images:,} target images, " if images else f"at most {setting['target_images']:,} target images, ")
        + f"{first['test_images']:,} test images, best constant {first['constant']:.1f} %. Chosen on "
        f"validation with {setting['chooser']}: {taken}. Solves, features given, on a shared core: {times}; "
        f"largest duality gap{of} {gap:.0e}."
    )


def plot(records: list[Record]) -> Figure:
    """What the overview says, over the number of base examples: one panel a data set and way of choosing.

    A line for each network and what was done for it: the learned labels that validation prefers, dashed the best
    baseline of each size.
    """
    groups: dict[str, dict[str, dict[int, list[Row]]]] = {}
    for key, group in grouped(records).items():
        source, target, size, network, select, more = key
        panel = groups.setdefault(f"{pair(source, target)}, {select} base examples", {})
        panel.setdefault(network + WORDS.get(more, ""), {})[size] = rows_of(group)
    figure, axes = panels(len(groups), "base examples", columns=2)
    for ax, (name, lines) in zip(axes, groups.items(), strict=True):
        for label, cells in lines.items():
            sizes = sorted(cells)
            best = [spokesman(cells[size]) for size in sizes]
            means = [row.accuracy_mean or 0.0 for row in best]
            deviations = [row.accuracy_std or 0.0 for row in best]
            (line, *_) = ax.errorbar(sizes, means, deviations, fmt="o-", ms=4, lw=1.2, capsize=2, label=label)
            rivals = [best_baseline(cells[size]).accuracy_mean for size in sizes]
            ax.plot(sizes, rivals, "x--", ms=4, lw=0.8, color=line.get_color(), alpha=0.7)
        ticks = sorted({size for cells in lines.values() for size in cells})
        ax.set_xscale("log")
        ax.set_xlim(min(ticks) / 1.5, max(ticks) * 1.5)
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
        ax.set_title(name, fontsize=9)
        ax.legend(fontsize=6, loc="upper left", bbox_to_anchor=(0, -0.18), frameon=False)
        ax.set_ylabel("test accuracy, % (dashed: best baseline)", fontsize=8)
    return figure


def best_baseline(rows: Sequence[Row]) -> Row:
    """The row of labels that were not learned with the best test accuracy."""
    rivals = [row for row in rows if not row.labels.startswith(LEARNED)]
    return max(rivals, key=lambda row: row.accuracy_mean or 0)


def spread(row: Row) -> str:
    """Mean ± standard deviation over all trainings."""
    return f"{row.accuracy_mean:.1f}" + ("" if row.accuracy_std is None else f" ± {row.accuracy_std:.1f}")


def pair(source: str | None, target: str) -> str:
    """How a page names a source and a target."""
    return (f"{Path(source).stem} → " if source else "") + Path(target).stem


def _span(interval: tuple[float | None, float | None]) -> str:
    low, high = interval
    return "–" if low is None else f"{low:.1f} – {high:.1f}"
