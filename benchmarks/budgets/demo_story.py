"""Is the demo's story the same whatever else the machine does? Runs the digits demo, with foreign load or without.

    .venv/bin/python benchmarks/budgets/demo_story.py --runs 3 --json OUT
    .venv/bin/python benchmarks/budgets/demo_story.py --runs 3 --foreign 4

For each run: accuracy before and after, which devices their budgets cut short in how many rounds, the steps that the
poorest of them made, and the most that it spent of its budget in a round, sending included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

POOREST = "device-2"


def story_of(result: dict[str, Any]) -> dict[str, Any]:
    """The figures of one outcome."""
    mine = [this_round["devices"][POOREST] for this_round in result["rounds"][1:]]
    shares = [row["spent_j"] / row["budget_j"] for row in mine if row["spent_j"] is not None]
    return {
        "initial_accuracy": result["initial_accuracy"],
        "final_accuracy": result["final_accuracy"],
        "exported_accuracy": result["exported_accuracy"],
        "cut_short": result["cut_short"],
        "steps": sum(row["steps_done"] for row in mine),
        "most_of_its_budget": max(shares, default=None),
        "budgets_j": result["settings"]["budgets_j"],
        "wall_s": result["wall_s"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--foreign", type=int, default=0, metavar="N", help="so many other programs busy all the while")
    parser.add_argument("--json", type=Path, metavar="OUT")
    given = parser.parse_args()
    foreign = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(given.foreign)]
    stories = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(given.runs):
                out = Path(folder) / str(number)
                command = [sys.executable, "-m", "coordinator.cli", "demo", "--output", str(out)]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                story = story_of(json.loads((out / "outcome.json").read_text()))
                story["load"] = os.getloadavg()[0]
                stories.append(story)
                cut = ", ".join(f"{name} {count} of 6" for name, count in story["cut_short"].items())
                print(
                    f"{100 * story['initial_accuracy']:.2f} % -> {100 * story['final_accuracy']:.2f} %; "
                    f"cut short: {cut}; "
                    f"{story['steps']} steps by {POOREST}, at most {story['most_of_its_budget']:.3f} of its budget; "
                    f"{story['wall_s']:.0f} s, load {story['load']:.1f}",
                    flush=True,
                )
    finally:
        for process in foreign:
            process.kill()
            process.wait()
    if given.json is not None:
        given.json.write_text(json.dumps({"foreign": given.foreign, "runs": stories}, indent=2))
    return 0 if all(set(story["cut_short"]) == {POOREST} for story in stories) else 3


if __name__ == "__main__":
    sys.exit(main())
