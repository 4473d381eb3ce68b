"""schemathesis against the server's own OpenAPI document: `python -m tests.fuzz_openapi`.

Requests that fit the document and requests that break it, over the fake engine and the fake embedder; held are: no
5xx, documented statuses and content types, answers that fit their schema, wrong requests refused, the key asked for,
unsupported methods refused. The last line is JSON. Status 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CHECKS = (
    "not_a_server_error status_code_conformance content_type_conformance response_headers_conformance "
    "response_schema_conformance negative_data_rejection ignored_auth unsupported_method allow_header_conformance"
).split()


@contextmanager
def served(*flags: str) -> Generator[str]:
    """The address of a server over a fake."""
    command = [sys.executable, "-m", "tests.server.fake_process", "1", "--pace", "0", "--key", "k", *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def fuzz(url: str, *, examples: int, seed: int, phases: str = "fuzzing") -> dict[str, Any]:
    """The report of one run; `examples` of each route in the fuzzing phase."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"]
        command += ["-H", "Authorization: Bearer k", "--checks", ",".join(CHECKS), "--phases", phases]
        command += ["-n", str(examples), "--seed", str(seed), "--warnings", "off", "--no-color"]
        command += ["--max-response-time", "10", "--report", "json", "--report-json-path", str(report)]
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "120"})
        assert report.exists(), ran.stdout + ran.stderr
        found: dict[str, Any] = json.loads(report.read_text())
    return {**found, "text": ran.stdout}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=40, help="of each route, over each of the two fakes")
    parser.add_argument("--coverage", action="store_true", help="also every boundary of every field: thousands more")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    phases = "coverage,fuzzing" if asked.coverage else "fuzzing"
    began = time.monotonic()
    cases = failures = 0
    for flags in ((), ("--embedding",)):
        with served(*flags) as url:
            found = fuzz(url, examples=asked.examples, seed=asked.seed, phases=phases)
        counted = found["test_cases"]
        cases += counted["generated"]
        failures += len(found["failures"]) + len(found["errors"])
        print(f"{' '.join(flags) or 'generating'}: {counted}", flush=True)
        if found["failures"] or found["errors"]:
            print(found["text"])
    seconds = round(time.monotonic() - began, 1)
    print(
        json.dumps(
            {"name": "fuzz_openapi", "seed": asked.seed, "cases": cases, "failures": failures, "seconds": seconds}
        )
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
