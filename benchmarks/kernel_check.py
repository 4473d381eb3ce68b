"""Compiles every kernel for an H100 or H200, in the types and sizes that models have; needs no GPU.

    python -m benchmarks.kernel_check              # all of them
    python -m benchmarks.kernel_check extend       # those whose name has `extend` in it

The interpreter that the tests use knows no types and no hardware; the compiler does. For each kernel it tells the
registers of a thread, bytes of them that did not fit and lie in memory (spills), the shared memory of a program, and
which of Hopper's own instructions it found use for: matrix products of a warp group (wgmma), of a warp (mma), and
copies that run beside the arithmetic (cp.async).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

HOPPER = GPUTarget("cuda", 90, 32)
# Of one program, of an H100 or H200.
SHARED_LIMIT = 227 * 1024
CUOBJDUMP = Path(str(triton.__file__)).parent / "backends/nvidia/bin/cuobjdump"


@dataclass(frozen=True)
class Report:
    """One kernel in one form. registers: of a thread; spills: bytes of a thread; shared: bytes of a program"""

    case: str
    kernel: str
    warps: int
    registers: int
    spills: int
    shared: int
    instructions: str

    @property
    def per_unit(self) -> int:
        """Programs that fit a multiprocessor at the same time, by registers and shared memory."""
        by_registers = 65536 // (-(-self.registers // 8) * 8 * 32 * self.warps)
        return min(by_registers, (SHARED_LIMIT + 1024) // (self.shared + 1024), 2048 // (32 * self.warps))


class _NoDevice:
    """What Triton asks of a driver before it compiles; stands for a GPU that is not there."""

    def get_current_target(self) -> GPUTarget:
        return HOPPER

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def compiling(kernels: list[tuple[str, Any]]) -> Iterator[None]:
    """While it runs, a launch compiles its kernel, adds (name, compiled kernel) to `kernels`, and launches nothing."""
    run = JITFunction.run

    def compile_only(self: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        kernels.append((self.__name__.strip("_"), kernel))
        return kernel

    before = driver._active
    driver.set_active(_NoDevice())  # pyright: ignore[reportArgumentType]
    JITFunction.run = compile_only
    try:
        yield
    finally:
        JITFunction.run = run
        driver._active = before


def report(case: str, launch: Callable[[], object]) -> list[Report]:
    """What the compiler makes of the kernels that `launch` launches, each once."""
    kernels: list[tuple[str, Any]] = []
    with compiling(kernels):
        launch()
    return [_report(case, name, kernel) for name, kernel in {id(k): (n, k) for n, k in kernels}.values()]


def _report(case: str, name: str, kernel: Any) -> Report:
    registers, stack = _resources(kernel.asm["cubin"])
    found = [word for word in ("wgmma", "mma.sync", "cp.async") if word in kernel.asm["ptx"]]
    return Report(
        case=case,
        kernel=name,
        warps=kernel.metadata.num_warps,
        registers=registers,
        spills=stack,
        shared=kernel.metadata.shared,
        instructions=" ".join(found),
    )


def _resources(cubin: bytes) -> tuple[int, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        told = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    counts = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", told)}
    return counts["REG"], counts["STACK"] + counts["LOCAL"]


def main() -> None:
    from benchmarks.kernel_cases import cases

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="?", default="", help="part of the names of the cases to compile")
    parser.add_argument("--brief", action="store_true", help="one case of each kernel")
    args = parser.parse_args()
    if knobs.runtime.interpret:
        sys.exit("TRITON_INTERPRET is set: nothing would be compiled; unset it")
    found: list[Report] = []
    print(f"{'case':44} {'kernel':14} {'warps':>5} {'regs':>5} {'spills':>6} {'shared':>7} {'fit':>3}  instructions")
    for name, launch in cases(brief=args.brief):
        if args.only in name:
            for one in report(name, launch):
                found.append(one)
                print(
                    f"{name:44} {one.kernel:14} {one.warps:5} {one.registers:5} {one.spills:6} {one.shared:7}"
                    f" {one.per_unit:3}  {one.instructions}"
                )
    print(json.dumps({"triton": triton.__version__, "kernels": [asdict(one) for one in found]}))
    if any(one.shared > SHARED_LIMIT for one in found):
        sys.exit(f"a program has at most {SHARED_LIMIT} bytes of shared memory")


if __name__ == "__main__":
    main()
