"""The other tables: what it costs, whom it serves worse, and which settings were tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from convexdistill.evaluate.disparity import EVERYONE, FULL_DATA
from convexdistill.report import words
from convexdistill.report.compare import DISTILLED
from convexdistill.report.entries import Entry
from convexdistill.report.figures.groups import clear
from convexdistill.report.tables import Cell, Heading, Line, Table


def cost(entries: Sequence[Entry]) -> Table | None:
    """Seconds and energy of distilling, of training on the set and of training on everything."""
    names = {
        "distil": "distilling, once",
        "train_distilled": "one training on the distilled set",
        "train_full": "one training on everything",
    }
    many, lines, has_energy = len(entries) > 1, [], False
    for one in entries:
        record = one.metrics.get("cost") or {}
        energy = record.get("energy_kwh") or {}
        has_energy |= any(value is not None for value in energy.values())
        for key, name in names.items():
            taken = record.get(f"{key}_seconds")
            if taken is None:
                continue
            if key == "train_full" and record.get("train_full_is"):
                name += f" ({record['train_full_is']})"
            power = energy.get(key)
            cells = [*([Cell(one.name)] if many else []), Cell(name), Cell(words.seconds(taken), taken)]
            lines.append(Line((*cells, Cell(words.energy(power), power))))
    if not lines:
        return None
    head = [*([Heading("set", False)] if many else []), Heading("what", False), Heading("time"), Heading("energy")]
    if not has_energy:
        head, lines = head[:-1], [Line(line.cells[:-1]) for line in lines]
    return Table("cost-table", "What it costs, on the machine that measured it.", tuple(head), tuple(lines))


def groups(one: Entry) -> Table | None:
    """Accuracy by group, with what distillation costs each; ``None`` where no bias report was made."""
    records = one.metrics.get("subgroups") or []
    of = {(r["labels"], r["group"], r["value"]): r for r in records}
    baselines = list(dict.fromkeys(r["labels"] for r in records if r["labels"] not in (DISTILLED, FULL_DATA)))
    lines = []
    for record in (r for r in records if r["labels"] == DISTILLED):
        place = record["group"], record["value"]
        name = "everyone" if record["group"] == EVERYONE else f"{record['group']}: {record['value']}"
        cells = [Cell(name), Cell(f"{record['count']:,}", record["count"]), _accuracy(record)]
        cells += [_accuracy(of.get((FULL_DATA, *place))), _of_group(record, "gap"), _of_group(record, "excess")]
        cells += [_accuracy(of.get((kind, *place))) for kind in baselines]
        lines.append(Line(tuple(cells), record.get("excess") is not None and clear(record)))
    names = (
        Heading("group", False),
        Heading("test images"),
        Heading("distilled %"),
        Heading("full data %", True, "networks trained on everything"),
        Heading("gap", True, "distilled minus full data, points, 95 % interval"),
        Heading("excess", True, "the group’s gap minus everyone’s, points, 95 % interval"),
        *(Heading(f"{words.label_name(kind)} %") for kind in baselines),
    )
    caption = "Test accuracy by group; marked: the excess gap’s 95 % interval leaves zero out."
    return Table("groups-table", caption, names, tuple(lines)) if lines else None


def _accuracy(record: Mapping[str, Any] | None) -> Cell:
    return Cell(words.DASH) if record is None else Cell(words.percent(record["accuracy"]), record["accuracy"])


def _of_group(record: Mapping[str, Any], key: str) -> Cell:
    value = record.get(key)
    if value is None:
        return Cell(words.DASH)
    low, high = record.get(f"{key}_ci95") or (None, None)
    return Cell(words.gap(value, low, high), value)


def disparities(one: Entry) -> Table | None:
    """How far apart the groups of each column are, for every kind of labels."""
    records = one.metrics.get("disparities") or []
    of = {(r["group"], r["labels"]): r for r in records}
    kinds = list(dict.fromkeys(r["labels"] for r in records))
    lines = [
        Line(
            (
                Cell(group),
                *(
                    Cell(f"{words.percent(r['difference'])} ({words.shortened(r['worst'], 20)})", r["difference"])
                    if (r := of.get((group, kind)))
                    else Cell(words.DASH)
                    for kind in kinds
                ),
            )
        )
        for group in dict.fromkeys(r["group"] for r in records)
    ]
    head = (Heading("column", False), *(Heading(words.label_name(kind)) for kind in kinds))
    caption = "Accuracy of the best served group minus that of the worst, points; in brackets the worst."
    return Table("disparities", caption, head, tuple(lines)) if lines else None


def tried(one: Entry) -> Table | None:
    """The settings that were tried on the validation split, with a mark at the one that was taken."""
    records = one.distilled.manifest.get("chosen_from", ())
    if not records:
        return None
    recipe = one.distilled.recipe
    manifest = one.distilled.manifest
    taken = {
        **manifest,
        "label_scale": recipe.label_scale,
        "steps": recipe.steps,
        "labels": manifest.get("labels_taken"),
    }
    keys = ("prior", "gamma", "label_scale", "logit_scale", "steps", "labels")
    names = {"labels": "labels", "prior": "prior", "gamma": "γ", "label_scale": "label scale", "steps": "steps"}
    texts = ("labels", "prior")
    shown = [key for key in names if key not in texts or key in records[0]]
    lines = []
    for record in records:
        cells = [
            Cell(record.get(key, words.DASH)) if key in texts else Cell(words.number(v := record.get(key)), v)
            for key in shown
        ]
        mean = record.get("validation_mean")
        chosen = all(record.get(key) == taken.get(key) for key in keys if key in record)
        lines.append(Line((*cells, Cell(words.percent(mean), mean)), chosen))
    head = (*(Heading(names[key], key not in texts) for key in shown), Heading("validation %"))
    return Table("tried", "Settings that were tried; the marked one was taken.", head, tuple(lines))
