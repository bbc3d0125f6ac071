"""Write docs/performance.md from the JSON of the benchmarks: what was measured, the cost model, and two plans.

python benchmarks/performance.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from _speed import RESULTS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
# Images, classes, shape, features an extractor has (ConvNet of width 32, depth as the field has it), pool, cores.
PLANS = (
    ("ImageNet-21k at 64×64", 14_197_122, 21_841, (3, 64, 64), 64),
    ("10 billion images at 64×64", 10_000_000_000, 1_000, (3, 64, 64), 4096),
)
JPEG_BYTES = 3_000  # of an image of 64×64


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    return found


def on_cuda(name: str) -> dict[str, Any] | None:
    """What the same benchmark found with ``--device cuda``, where it ran."""
    return read(f"{name}-cuda") if (RESULTS / f"{name}-cuda.json").exists() else None


NO_GPU = "not measured yet; no GPU was at hand"


def busy(machine: dict[str, Any]) -> str:
    load = machine["load_before"]
    shared = f"; shared with other work (load {load:g})" if load > machine["cores"] / 2 else ""
    return f"{machine.get('cpu', machine.get('machine'))}, {machine['cores']} cores{shared}"


def verdict(figure: float, goal: float, *, most: bool = False) -> str:
    return "met" if (figure <= goal if most else figure >= goal) else "missed"


def passes(moments: dict[str, Any]) -> list[str]:
    goals = moments["goals"]
    lines = [
        "## The pass over the target set",
        "",
        f"`python benchmarks/moments.py`, default pool of five, one thread, batches of {moments['batch']}; "
        "CPU time, "
        f"best round (median in brackets). {busy(moments['machine'])}.",
        "",
        "| images | features | MFLOP an image | stock, images/s | forward | accumulate | forward, % of "
        "GEMM | accumulate,"
        " % of forward |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in moments["cases"]:
        rate, share = case["images_a_second"], case["share_of_gemm"]["forward"]
        kept = case["accumulate_share_of_forward"]
        lines.append(
            f"| {'×'.join(map(str, case['shape']))} | {len(case['features'])}×{case['features'][0]} "
            f"| {case['flops_an_image'] / 1e6:.1f} | {rate['stock']:.0f} | {rate['forward']:.0f} "
            f"| {rate['accumulate']:.0f} | {100 * share:.0f} ({100 * case['share_of_gemm_median']:.0f}) "
            f"| {100 * kept:.0f} ({100 * case['accumulate_share_of_forward_median']:.0f}) |"
        )
    first = moments["cases"][0]
    forward, kept = first["share_of_gemm_median"], first["accumulate_share_of_forward_median"]
    return [
        *lines,
        "",
        f"GEMM, 1024×1024 in float32, in the same rounds: {first['gemm_gflops']:.0f} GFLOP/s at best. "
        "“Stock” is the "
        "extractors as they are built, “forward” with preprocessing and with convolution and ReLU in one "
        "kernel of "
        "oneDNN, “accumulate” with the float64 sums.",
        "",
        "- Goal: forward at 60 % of GEMM on the default pool (by medians of the same rounds, which share "
        "whatever else "
        f"the machine does). Measured: {100 * forward:.0f} %, "
        f"{verdict(forward, goals['forward_share_of_gemm'])}.",
        f"- Goal: accumulation at 80 % of forward. Measured: {100 * kept:.0f} %, "
        f"{verdict(kept, goals['accumulate_share_of_forward'])}.",
        f"- CUDA, `--device cuda`: {_rates_on_cuda()}.",
        "",
        *cores(moments["cores"]),
        *choices(moments["choices"]),
    ]


def _rates_on_cuda() -> str:
    if (found := on_cuda("moments")) is None:
        return NO_GPU
    rates = (
        f"{case['images_a_second']['accumulate']:,.0f} images/s of {'×'.join(map(str, case['shape']))}, "
        f"{100 * case['accumulate_share_of_forward_median']:.0f} % of forward"
        for case in found["cases"]
    )
    return f"{'; '.join(rates)} ({found['machine']['gpu']}, batches of {found['batch']})"


def cores(cases: list[dict[str, Any]]) -> list[str]:
    """The pass on one core and on all."""
    rates = (
        f"{'×'.join(map(str, case['shape']))}: "
        + ", ".join(f"{rate:,.0f} images/s on {n}" for n, rate in case["images_a_second"].items())
        for case in cases
    )
    return [f"The whole pass, on the clock, by cores (best of three): {'; '.join(rates)}.", ""]


def choices(cases: list[dict[str, Any]]) -> list[str]:
    """What the layout, the grouping and the size of pieces are worth."""
    return [
        "What the choices of the pass are worth, features alone, images/s of one thread (pieces of 32 images "
        "where nothing else is said; the pass takes fused extractors, channels last, in pieces of 32, a core for "
        "each):",
        "",
        f"| | {' | '.join('×'.join(map(str, case['shape'])) for case in cases)} |",
        "|---|" + "---|" * len(cases),
        *(
            f"| {way} | " + " | ".join(f"{case['images_a_second'][way]:.0f}" for case in cases) + " |"
            for way in cases[0]["images_a_second"]
        ),
        "",
    ]


def scaling(record: dict[str, Any]) -> list[str]:
    sizes = record["passes"]
    lines = [
        "## More images, more workers",
        "",
        "`python benchmarks/scaling.py`; synthetic 8×8 images, 64 features, batches and cores as by default. "
        f"{busy(record['machine'])}.",
        "",
        "| images | seconds | CPU seconds | peak memory of the process, MB |",
        "|---|---|---|---|",
        *(
            f"| {p['images']:,} | {p['seconds']:.1f} | {p['cpu_seconds']:.1f} | {p['peak_mb']:.0f} |"
            for p in sizes
        ),
        "",
    ]
    by_count = {p["images"]: p for p in sizes}
    largest = sizes[-1]
    if 100_000 in by_count and largest["images"] > 100_000:
        ratio = largest["peak_mb"] / by_count[100_000]["peak_mb"]
        lines += [
            f"- Goal: memory for 1e7 images within 10 % of that for 1e5. Measured: {100 * (ratio - 1):+.1f} % for "
            f"{largest['images']:,}, {verdict(ratio, 1.1, most=True)}.",
            "",
        ]
    runs = record["workers"]
    if len(sizes) < 4 or len(runs) < 3:
        lines += ["The rest of this benchmark is not measured yet.", ""]
    if runs:
        one = runs[0]
        lines += [
            f"The default pool on {one['images']:,} images of 28×28 under `torchrun`, one thread a worker, gloo:",
            "",
            "| workers | seconds | times one worker | CPU seconds, all workers | labels differ by |",
            "|---|---|---|---|---|",
            *(
                f"| {r['workers']} | {r['seconds']:.1f} | {one['seconds'] / r['seconds']:.2f} "
                f"| {r['cpu_seconds']:.1f} | {r['labels_differ_by']:.0e} |"
                for r in runs
            ),
            "",
        ]
        two = next((r for r in runs if r["workers"] == 2), None)
        if two:
            speedup = one["seconds"] / two["seconds"]
            lines += [
                f"- Goal: two workers on two cores at 1.7 times one. Measured: {speedup:.2f}, "
                f"{verdict(speedup, 1.7)}; "
                f"of the processor's time they need {two['cpu_seconds'] / one['cpu_seconds']:.2f} times as much.",
                f"- Goal: labels equal to 1e-8. Measured: {max(r['labels_differ_by'] for r in runs):.0e}, "
                f"{verdict(max(r['labels_differ_by'] for r in runs), 1e-8, most=True)}.",
                "",
            ]
    return lines


def solves(record: dict[str, Any]) -> list[str]:
    lines = ["## Labels", ""]
    if "solves" in record:
        machine = record["solves_machine"]
        lines += [
            f"`python benchmarks/distil.py --only solves`: from moments to labels and certificate, best of five, "
            f"{machine['threads']} thread(s). {busy(machine)}.",
            "",
            "| n | d | pool | roots, once a target, s | solve, s | solve, CPU s | goal, s | |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for s in record["solves"]:
            seconds, goal = s["seconds"], s["goal"]
            judged = "" if goal is None else verdict(seconds["solve"], goal, most=True)
            lines.append(
                f"| {s['n']} | {s['d']} | {s['pool']} | {seconds['roots']:.2f} | {seconds['solve']:.3f} "
                f"| {seconds['solve_cpu']:.3f} | {'' if goal is None else goal} | {judged} |"
            )
        lines.append("")
    else:
        lines += ["Label solves alone, `python benchmarks/distil.py --only solves`: not measured yet.", ""]
    lines += [
        "`python benchmarks/distil.py --only sizes`: from the images of MNIST to labels, γ given and nothing "
        f"trained. {busy(record['sizes_machine'])}.",
        "",
        "| N | pool | n | accumulate, s | roots, labels and certificate, s |",
        "|---|---|---|---|---|",
        *(
            f"| {s['images']:,} | {s['pool']} | {s['n']:,} | {s['seconds']['accumulate']:.2f} "
            f"| {s['seconds']['solve']:.2f} |"
            for s in record["sizes"]
        ),
        "",
        "The whole command, `python benchmarks/distil.py --only jobs`:",
        "",
    ]
    for job in record.get("jobs", []):
        seconds, goals = job["seconds"], job["goals"]
        distil = seconds["accumulate"] + seconds["solve"]
        goal = (
            ""
            if goals["distil"] is None
            else f", goal {goals['distil']:g}: {verdict(distil, goals['distil'], most=True)}"
        )
        lines.append(
            f"- {job['target']} to {job['base_size']} labels, {job['accuracy']:.1f} %: distilled in "
            f"{distil:.1f} s "
            f"(accumulate {seconds['accumulate']:.1f}, choose and solve {seconds['solve']:.1f}{goal}); "
            f"reading the files took {seconds['load']:.1f} s before; with evaluation "
            f"and start-up {seconds['process']:.1f} s. {busy(job['machine'])}."
        )
    lines.append(f"- CUDA, goal: MNIST within 3 s after start-up: {_jobs_on_cuda()}.")
    return [*lines, ""]


def _jobs_on_cuda() -> str:
    if (found := on_cuda("distil")) is None:
        return NO_GPU
    seconds = {job["target"]: job["seconds"]["accumulate"] + job["seconds"]["solve"] for job in found["jobs"]}
    gpu = found["jobs"][0]["machine"]["gpu"]
    return ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items()) + f" ({gpu})"


def model(moments: dict[str, Any]) -> list[str]:
    first = moments["cases"][0]
    sums = first["flops_of_sums_an_image"] / 1e6
    return [
        "## Cost model",
        "",
        "For N images, extractors k = 1…K of F_k floating-point operations an image and d_k features, and "
        "C classes:",
        "",
        "| | operations | memory, bytes |",
        "|---|---|---|",
        "| features | N Σ F_k | one batch |",
        "| Gram sums, float64, one triangle | N Σ (d_k+1)(d_k+2) | 8 Σ (d_k+1)² |",
        "| cross sums | N Σ (d_k+1) | 8 C Σ (d_k+1) |",
        "| one all-reduce, a checkpoint, a file of moments | | 8 Σ (d_k+1)(d_k+1+C) |",
        "| roots of the moments, once | about 9 Σ (d_k+1)³ | 16 Σ (d_k+1)² |",
        "| label solve, n base examples, s = Σ (d_k+1) | about n s · min(n, s) | 8 n s |",
        "",
        f"For the default pool at 28×28 features take {first['flops_an_image'] / 1e6:.1f} MFLOP an image "
        "in float32 and "
        f"sums {sums:.2f} MFLOP in float64. A pass costs N / (images a second of the table above) core-seconds; "
        "reading and decoding run beside it in a thread of their own.",
        "",
    ]


def plans(moments: dict[str, Any]) -> list[str]:
    by_shape = {tuple(case["shape"]): case for case in moments["cases"]}
    lines = ["## Two plans", "", "From the rates above, on cores like this one; not run.", ""]
    for name, images, classes, shape, cores in PLANS:
        case = by_shape[shape]
        rate = case["images_a_second"]["accumulate"]
        core_seconds = images / rate
        hours = core_seconds / cores / 3600
        sums = 8 * sum((d + 1) * (d + 1 + classes) for d in case["features"])
        per_second = cores * rate * JPEG_BYTES / 1e6
        lines += [
            f"### {name}",
            "",
            f"- {images:,} images, {classes:,} classes, default pool ({len(case['features'])} × "
            f"{case['features'][0]} "
            f"features): {core_seconds / 3600:,.0f} core-hours, {hours:.1f} hours on {cores:,} cores.",
            f"- As tar shards of JPEG (about {JPEG_BYTES:,} bytes an image) that is "
            f"{images * JPEG_BYTES / 1e9:,.0f} GB "
            f"to be read, at {per_second:,.0f} MB/s over all cores.",
            f"- Sums of a worker: {sums / 1e6:,.0f} MB. They are its checkpoint, its file of moments and "
            "its part of the "
            "all-reduce; nothing else moves.",
            f"- `convexdistill moments accumulate --target 'train-*.tar' --classes {classes} --shard i/{cores} "
            "--checkpoint ck.i --out part.i` on every core (whole tar files are divided, so make at least "
            "as many), "
            "then `moments merge part.* --out all`; or the same command under `torchrun`.",
            "- `convexdistill distill --moments all --target FOLDER --base-size n` learns the labels: base "
            "images, validation and test come from a folder of other images, of the same class names and size "
            "(`--classes` takes a file of names, too).",
            "- What a killed worker loses is at most the seconds since its last checkpoint.",
            "",
        ]
    return lines


def trainings(record: dict[str, Any], cohorts: dict[str, Any]) -> list[str]:
    """Repeats that are trained side by side."""
    gpu = on_cuda("evaluate")
    name = f"{record['networks']} {record['network']}s, {record['steps']} steps, {record['threads']} threads"
    sizes = list(cohorts["cases"][0]["milliseconds_a_member"])
    return [
        "## Repeats side by side",
        "",
        "`python benchmarks/evaluate.py`; trained as grouped networks, one a core at a time, with the weights and",
        f"minibatches that each has alone (largest difference {record['largest_difference']:.0e}):",
        "",
        f"- {name}: {record['seconds_one_by_one']:.1f} s one by one, {record['seconds_together']:.1f} s together, "
        f"{record['ratio']:.2f} times as fast. Goal: {record['goal']:g} times. "
        f"{verdict(record['ratio'], record['goal']).capitalize()}. A member spends its time in convolutions that "
        "oneDNN computes no faster in groups; what is saved is the calls around them, and cores waiting for "
        f"each other. {busy(record['machine'])}.",
        f"- CUDA, goal 10 times: {NO_GPU if gpu is None else format(gpu['ratio'], '.2f')}.",
        "",
        "`python benchmarks/cohorts.py`: CPU milliseconds for a step of one member, by how many are one grouped",
        "network. As many are taken as leave the largest map below "
        f"{cohorts['cache'] >> 20} MB. {busy(cohorts['machine'])}.",
        "",
        f"| network | images | batch | largest map of a member, MB | {' | '.join(sizes)} | taken |",
        "|---|---|---|---|" + "---|" * len(sizes) + "---|",
        *(
            f"| {case['network']} | {'×'.join(map(str, case['shape']))} | {case['batch']} "
            f"| {case['largest_map_mb']:.2f} "
            + "".join(f"| {ms:.2f} " for ms in case["milliseconds_a_member"].values())
            + f"| {case['taken']} |"
            for case in cohorts["cases"]
        ),
        "",
    ]


def page() -> str:
    """The page, from the records alone."""
    moments = read("moments")
    lines = [
        "# Performance",
        "",
        "Written by `python benchmarks/performance.py` from `benchmarks/results/*.json`; every figure is in the "
        "JSON that the command beside it wrote, or follows from it. Where the machine was shared, seconds on the "
        "clock say little; CPU time and ratios within one run say more.",
        "",
        *passes(moments),
        *scaling(read("scaling")),
        *solves(read("distil")),
        *trainings(read("evaluate-cpu"), read("cohorts")),
        *model(moments),
        *plans(moments),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    PAGE.write_text(page(), "utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
