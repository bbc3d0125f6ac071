"""How long the main job takes, beside what it may take.

    python benchmarks/distil.py                     # MNIST to 100 labels, all defaults, and digits
    python benchmarks/distil.py --data-root DIR

Runs `convexdistill distill` itself, as a user would, and prints its seconds and those of the whole process,
start-up included. The same job by the paper's own code (400 epochs of 49 steps through two networks) takes
hours on two cores: it is not run here. Times are only comparable on an idle machine; the JSON says which.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "distil.json"
# target, seconds for features + moments + choice + solve, seconds for everything with the evaluation
GOALS = (("digits", None, 60.0), ("mnist", 90.0, 180.0))


def measure(target: str, data_root: str | None) -> dict[str, Any]:
    command = [sys.executable, "-m", "convexdistill", "distill", "--target", target]
    with tempfile.TemporaryDirectory() as folder:
        command += ["--out", folder, *(["--data-root", data_root] if data_root else [])]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        process = time.perf_counter() - start
        metrics = json.loads((Path(folder) / "metrics.json").read_text("utf-8"))
    ours = next(row for row in metrics["results"] if row["labels"] == "distilled")
    return {
        "target": target,
        "base_size": metrics["base_size"],
        "accuracy": ours["accuracy_mean"],
        "seconds": {**metrics["seconds"], "process": round(process, 1)},
        "machine": {
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "load_before": os.getloadavg()[0],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", help="where data sets lie; default $CONVEXDISTILL_DATA or ./data")
    options = parser.parse_args()
    records = []
    for target, distil_goal, whole_goal in GOALS:
        record = measure(target, options.data_root)
        seconds = record["seconds"]
        distil = seconds["accumulate"] + seconds["solve"]
        print(
            f"\n{target} to {record['base_size']} labels, {record['accuracy']:.1f} %: distilled in {distil:.1f} s"
            + (f" (goal {distil_goal:.0f})" if distil_goal else "")
            + f", with evaluation and start-up {seconds['process']:.1f} s (goal {whole_goal:.0f})\n"
        )
        records.append(record | {"goals": {"distil": distil_goal, "whole": whole_goal}})
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(records, indent=2) + "\n", "utf-8")
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    main()
