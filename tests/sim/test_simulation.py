"""Volume: many random steps, every one checked; and a check of the checks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.mutants import MUTANTS, Mutant
from tests.sim.world import World

ROOT = Path(__file__).parents[2]
STEPS = 300_000


def test_no_random_run_breaks_an_invariant_or_an_equivalence() -> None:
    command = [sys.executable, "-m", "tests.sim", "--steps", str(STEPS), "--jobs", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    steps = sum(int(line.split()[0]) for line in done.stdout.splitlines())
    assert steps >= STEPS


def test_one_seed_gives_one_run() -> None:
    worlds = [World(11), World(11)]
    for world in worlds:
        world.run(60)
    one, two = worlds
    assert one.scheduler.counters == two.scheduler.counters
    assert one.asker.texts == two.asker.texts


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_a_broken_engine_is_noticed(mutant: Mutant) -> None:
    with mutant():
        for seed in range(600):
            try:
                World(seed).run(120)
            except TypeError:  # the mutant does not fit the method that it replaces
                raise
            except Exception:  # however it shows: an invariant, an answer, or a crash
                return
    pytest.fail(f"nobody noticed: {mutant.__doc__}")
