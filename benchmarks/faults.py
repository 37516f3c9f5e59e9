"""`make bench-faults`: fifty kills at seeded moments; each time a second run, and what it left compared.

Graph (scripted model and trainers), the real trainer on a tiny model, and the conversion of the offline model. Writes
benchmarks/faults.json; exits with status 1 when anything differed.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cai_dagster.home import Home
from cai_dagster.project import PROJECT
from tests.faults import (
    Undisturbed,
    Verdict,
    Workload,
    kill_and_go_on,
    random_moment,
    to_json,
    undisturbed,
    workloads,
)

REPORT = PROJECT / "benchmarks" / "faults.json"
# Kind of workload → what the kills are aimed at ("" is any moment of the work, uniformly) → how many.
PLAN = {
    "graph": {"": 20, "committing": 7, "in the transaction": 7, "ledger commit": 6},
    "training": {"training": 2, "saving": 2, "saved": 1},
    "conversion": {"": 5},
}


def kills(kind: str, number: int, first_seed: int) -> Iterator[tuple[int, str]]:
    """Seed and aim of each kill, at most `number` of the kind, each aim in turn."""
    left = dict(PLAN[kind])
    seed = first_seed
    while any(left.values()) and seed < first_seed + number:
        for aim in [aim for aim, count in left.items() if count][: first_seed + number - seed]:
            left[aim] -= 1
            yield seed, aim
            seed += 1


def judge(workload: Workload, folder: Path, reference: Undisturbed, seed: int, aim: str) -> Verdict:
    """One kill in a home of its own, which is removed unless something was wrong."""
    home = Home(folder / f"{workload.kind}_{seed}")
    moment = random_moment(reference, seed, aim)
    verdict = kill_and_go_on(workload, home, reference, seed, moment)
    print(json.dumps(to_json(verdict)), flush=True)
    if not verdict.wrong:
        shutil.rmtree(home.root)
    return verdict


def write_report(verdicts: list[Verdict], seconds: dict[str, float]) -> None:
    """Replace what the report says of the kinds that ran."""
    known = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.exists() else {}
    seconds = {**known.get("seconds_undisturbed", {}), **seconds}
    ran = {verdict.kind for verdict in verdicts}
    lines = [line for line in known.get("verdicts", []) if line["kind"] not in ran] + [*map(to_json, verdicts)]
    report = {
        "kills": len(lines),
        "failed": sum(bool(line["wrong"]) for line in lines),
        "seconds_undisturbed": seconds,
        "landed": {kind: Counter(line["where"] for line in lines if line["kind"] == kind) for kind in PLAN},
        "most_calls_repeated": max((line["repeated_calls"] for line in lines), default=0),
        "verdicts": lines,
    }
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{report['kills']} kills, {report['failed']} with a difference: {REPORT.relative_to(PROJECT)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--each", type=int, default=50, help="at most so many kills of each kind")
    parser.add_argument("--at-once", type=int, default=1, help="how many graphs run side by side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=PLAN, default=list(PLAN), help="the report keeps the others")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    print(f"homes in {folder}", flush=True)
    verdicts: list[Verdict] = []
    seconds: dict[str, float] = {}
    for kind, workload in workloads(folder, options.kinds).items():
        reference = undisturbed(workload, Home(folder / f"{kind}_undisturbed"))
        seconds[kind] = round(reference.seconds, 2)
        print(f"{kind}: {reference.seconds:.1f} s of work when nobody kills it", flush=True)
        with ThreadPoolExecutor(options.at_once if kind == "graph" else 1) as pool:
            planned = kills(kind, options.each, options.seed)
            running = [pool.submit(judge, workload, folder, reference, seed, aim) for seed, aim in planned]
            verdicts += [each.result() for each in running]
    write_report(verdicts, seconds)
    if any(verdict.wrong for verdict in verdicts):
        print(f"the homes that differ are kept in {folder}")
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
