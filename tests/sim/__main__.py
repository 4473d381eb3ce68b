"""`python -m tests.sim --steps N [--seed S] [--jobs J]`: simulate the engine's planning half, checking every step."""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import time

from tests.sim.world import World

EPISODE = 250  # steps with things happening; as many more as it takes to end


def simulate(steps: int, seed: int) -> tuple[int, int]:
    """Episodes seed, seed + 1, ... until `steps` steps were made; returns (steps, requests that ended)."""
    done = ends = 0
    while done < steps:
        world = World(seed)
        try:
            world.run(EPISODE)
        except Exception:
            print(f"failed; to see it again: python -m tests.sim --steps 1 --seed {seed}", file=sys.stderr, flush=True)
            raise
        done += world.steps
        ends += world.ends
        seed += 1
    return done, ends


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    logging.disable()  # injected faults are not worth a word
    start = time.perf_counter()
    if options.jobs > 1:
        share = -(-options.steps // options.jobs)
        command = [sys.executable, "-m", "tests.sim", "--steps", str(share), "--seed"]
        # far apart, so that no two jobs run the same episodes
        seeds = [str(options.seed + i * 10**9) for i in range(options.jobs)]
        jobs = [subprocess.Popen([*command, seed], stdout=subprocess.PIPE, text=True) for seed in seeds]
        told = [job.communicate()[0] for job in jobs]
        if any(job.returncode for job in jobs):
            return 1
        steps, ends = (sum(int(line.split()[place]) for line in told) for place in (0, 2))
    else:
        steps, ends = simulate(options.steps, options.seed)
    seconds = time.perf_counter() - start
    print(f"{steps} steps, {ends} requests, every one checked; {steps / seconds:.0f} steps/s from seed {options.seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
