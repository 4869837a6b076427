#!/usr/bin/env python3
"""Runs ONNX's own backend tests through enfold's command line, and compares with their expected outputs.

    python3 tests/onnx/conformance.py                  a fixed part of the tests
    ENFOLD_LONG=1 python3 tests/onnx/conformance.py    all of them
    python3 tests/onnx/conformance.py --write          all of them, and writes conformance.md
    python3 tests/onnx/conformance.py --only REGEX     those whose names match; whatever is wrong stays in target/conformance
    python3 tests/onnx/conformance.py --enfold PATH    another program than target/debug/enfold, which is built first

Packages come from PyPI into target/onnxruntime-venv. ENFOLD_ALLOW_NO_PYTHON=1 lets this be skipped where they cannot be had, and
ENFOLD_ALLOW_NO_GPU=1 lets the runs on a GPU be skipped where no adapter answers.

Each test of the kinds node, simple, pytorch-converted and pytorch-operator runs in up to four forms:

- as shipped;
- other opsets: relabelled, or else converted by onnx.version_converter, into the last opset of each range of those that enfold
  reads in which the definitions of the operators stay the same, if onnx.checker accepts that and ONNX Runtime computes the
  expected outputs;
- one input: constants in place of all inputs but the first, in each of the opsets above that enfold reads;
- constants: constants in place of all inputs, likewise.

All cases run on the CPU, each third also in the reference interpreter, and some of those that the CPU runs on a GPU. A case is

- right: names and shapes are those expected, and floats are close, by ONNX's own measure for backends (rtol 1e-3, atol 1e-7; rtol 2^-6
  for bfloat16; but 2^-9, two units in the last place, for float16), and NaN where NaN is expected. Integers and booleans are equal.
  The command line writes floats and booleans as f32 and integers as i32, so that more of types cannot be compared; of outputs of
  16 bits, values that fit are rounded to them first;
- refused: exit status 1 and one line that says why;
- not applicable: .npz, or for constants, an initializer cannot hold its inputs: strings, complex numbers, sequences, optionals;
- wrong, or a crash: any other exit status, a message that is not one line, no end within a minute. These fail this script.

conformance.md has the counts of all tests. It fails this script, too, if they are not those of a run of all tests, or if a run of a
part has fewer right than it had when the table was written. Each right output is compared once more with one value of the expected
one changed, which must be noticed.
"""

import argparse
import collections
import concurrent.futures
import difflib
import importlib.metadata
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from pathlib import Path

from backend_tests import all_tests, cases_of, changed, difference, is_numbers, stored, write_npz
from environment import HERE, ROOT, in_venv

TABLE = HERE / "conformance.md"
FAILED = ROOT / "target" / "conformance"

FORMS = ("as shipped", "other opsets", "one input", "constants")
VERDICTS = ("right", "refused", "not applicable", "wrong", "crash")
SEED = 13
PART = 500  # tests in the part that runs by default
EACH_ON_REFERENCE = 3
EACH_ON_GPU = {"part": 15, "all": 5}  # starting there takes seconds
SECONDS = 60
THE_PART = "Right in the part that runs by default: "


def chance(text, of):
    """Whether this is one of those that a fixed choice takes, one of `of`."""
    return zlib.crc32(f"{SEED} {text}".encode()) % of == 0


def arguments_of(case):
    """The lengths of dimensions that the model leaves open."""
    found = {}
    for value in case.model.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim if value.name in case.inputs else []):
            if dim.dim_value < 1 <= case.inputs[value.name].shape[axis]:
                found[dim.dim_param or f"{value.name}.{axis}"] = case.inputs[value.name].shape[axis]
    return [f"--dim={name}={length}" for name, length in found.items()]


def status(code, message):
    """The verdict on a run that has failed, and why."""
    message = message.strip("\n")
    if code == 1 and message and "\n" not in message:
        return "refused", message
    return "crash", f"exit status {code}: {message[:300]!r}"


def check_status():
    """Some verdicts hardly come from runs."""
    crashes = [(1, ""), (1, "a\nb"), (2, "a"), (101, "a"), (-11, "")]
    found = [status(*ended)[0] for ended in [(1, "a\n"), *crashes]]
    if found != ["refused"] + ["crash"] * len(crashes):
        sys.exit(f"exit statuses and messages are taken for {found}")


def run(case, device, folder):
    """The verdict on a case on a device, and why."""
    import numpy as np

    output = folder / "output.npz"
    output.unlink(missing_ok=True)
    command = [ENFOLD, "run", folder / "model.onnx", "--input", folder / "input.npz", "--output", output, "--quiet"]
    command += ["--device", device, *arguments_of(case)]
    if device == "gpu" and (adapter := os.environ.get("ENFOLD_ADAPTER")):
        command += ["--adapter", adapter]
    environment = {**os.environ, "RAYON_NUM_THREADS": "1"}
    try:
        ended = subprocess.run(command, capture_output=True, env=environment, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return "crash", f"no end within {SECONDS} s"
    if ended.returncode != 0:
        return status(ended.returncode, ended.stderr.decode(errors="replace"))
    with np.load(output) as file:
        got = {name: file[name] for name in file.files}
    if others := {str(array.dtype) for array in got.values()} - {"float32", "int32", "int8"}:
        return "wrong", f"an output is {others.pop()}, expected float32, int32 or int8"
    names = [value.name for value in case.model.graph.output]
    if problem := difference(case.test, got, names, case.outputs):
        return "wrong", problem
    other = changed(case.outputs)
    if other and difference(case.test, got, names, other) is None:
        return "wrong", "a changed value was not noticed"
    return "right", ""


def check(case, folder):
    """The verdicts of a case by device, with reasons."""
    (folder / "model.onnx").write_bytes(case.model.SerializeToString())
    write_npz(folder / "input.npz", {name: stored(array) for name, array in case.inputs.items()})
    verdicts = {"cpu": run(case, "cpu", folder)}
    if chance(f"reference {case}", EACH_ON_REFERENCE):
        verdicts["reference"] = run(case, "reference", folder)
    # A model without inputs is folded to constants, which leaves the GPU nothing to compute.
    if ON_GPU and case.inputs and verdicts["cpu"][0] == "right" and chance(f"gpu {case}", ON_GPU):
        verdicts["gpu"] = run(case, "gpu", folder)
    if any(verdict in ("wrong", "crash") for verdict, _ in verdicts.values()):
        kept = FAILED / re.sub(r"\W+", "_", str(case))
        shutil.copytree(folder, kept, dirs_exist_ok=True)
        if all(map(is_numbers, case.outputs)):
            names = [value.name for value in case.model.graph.output]
            write_npz(kept / "expected.npz", dict(zip(names, map(stored, case.outputs))))
    return verdicts


def check_test(at):
    """Counts of a test, those of its runs by device, and what is to be told."""
    warnings.simplefilter("ignore")
    test, counts, devices, lines = TESTS[at], collections.Counter(), collections.Counter(), []
    cases, not_applicable = cases_of(test)
    for form, count in not_applicable.items():
        counts[test.operator, form, "not applicable"] += count
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="enfold-") as folder:
            verdicts = check(case, Path(folder))
        worst = max((verdict for verdict, _ in verdicts.values()), key=VERDICTS.index)
        # Only the CPU runs all cases, so it decides which are refused.
        verdict = worst if worst in ("wrong", "crash") else verdicts["cpu"][0]
        counts[test.operator, case.form, verdict] += 1
        for device, (verdict, why) in verdicts.items():
            devices[device, verdict] += 1
            refused_only_there = verdict == "refused" and verdicts["cpu"][0] == "right"
            if verdict in ("wrong", "crash") or VERBOSE or refused_only_there:
                lines.append(f"{verdict}: {case}, {test.operator} on {device}: {why}")
    return counts, devices, lines


def check_tests(chosen, jobs):
    """The sums of what `check_test` counts; what it has to tell is told."""
    counts, devices = collections.Counter(), collections.Counter()
    # Workers that are forked have the tests, which take seconds to make.
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context) as workers:
        for of_test, of_devices, lines in workers.map(check_test, chosen):
            counts.update(of_test)
            devices.update(of_devices)
            for line in lines:
                print(line, file=sys.stderr, flush=True)
    return counts, devices


def total(counts, form, verdict):
    return sum(count for (_, f, v), count in counts.items() if (f, v) == (form, verdict))


def right(counts):
    return ", ".join(f"{form} {total(counts, form, 'right')}" for form in FORMS)


def table(counts, part):
    """What conformance.md holds."""

    def cells(of):
        for form in FORMS:
            found = [of(form, verdict) for verdict in ("right", "refused", "not applicable")]
            yield " / ".join(map(str, found)) if any(found) else ""

    def row(name, of):
        return f"| {name} | {' | '.join(cells(of))} |"

    versions = " and ".join(f"{package} {importlib.metadata.version(package)}" for package in ("onnx", "onnxruntime"))
    lines = [
        "# Conformance",
        "",
        "Cases of ONNX's own backend tests by operator: right / refused / not applicable. Wrong are none.",
        f"`tests/onnx/conformance.py --write` counts them, here with {versions}, and says what the forms are and what is compared.",
        "",
        f"{THE_PART}{right(part)}.",
        "",
        f"| operator | {' | '.join(FORMS)} |",
        f"|---|{'---|' * len(FORMS)}",
        row("all", lambda form, verdict: total(counts, form, verdict)),
    ]
    for name in sorted({name for name, _, _ in counts}, key=str.lower):
        lines.append(row(name, lambda form, verdict: counts[name, form, verdict]))
    return "\n".join(lines) + "\n"


def differences(now):
    """The lines of the table that are not those of a run."""
    there = TABLE.read_text() if TABLE.exists() else ""
    return [line for line in difflib.unified_diff(there.splitlines(), now.splitlines(), "committed", "now", n=0, lineterm="")]


def differences_of_part(counts):
    """Of the part, where fewer are right than when the table was written."""
    then = re.search(f"^{THE_PART}(.*)\\.$", TABLE.read_text() if TABLE.exists() else "", re.M)
    if not then:
        return ["there is no line of the part that runs by default"]
    told = f"right are {right(counts)}; when it was written, {then[1]}"
    then = dict(entry.rsplit(" ", 1) for entry in then[1].split(", "))
    now = {form: total(counts, form, "right") for form in then}
    if any(now[form] < int(then[form]) for form in then):
        return [told]
    if any(now[form] > int(then[form]) for form in then):
        print(f"{TABLE.name}: {told}; --write brings it up to date")
    return []


def adapter_answers():
    ended = subprocess.run([ENFOLD, "adapters", "--json"], capture_output=True, check=True)
    if json.loads(ended.stdout):
        return True
    if os.environ.get("ENFOLD_ALLOW_NO_GPU") == "1":
        return False
    sys.exit("no adapter answers; set ENFOLD_ALLOW_NO_GPU=1 to do without the runs on a GPU")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="run all tests and write the table")
    parser.add_argument("--only", metavar="REGEX", help="run the tests whose names match, and tell all verdicts")
    parser.add_argument("--enfold", metavar="PATH", type=Path, help="the program that runs")
    parser.add_argument("--jobs", type=int, default=2, help="how many run at once")
    parser.add_argument("--in-venv", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.in_venv:
        in_venv(__file__, "not run through ONNX backend tests")
    warnings.simplefilter("ignore")
    check_status()

    global ENFOLD, TESTS, ON_GPU, VERBOSE
    ENFOLD = arguments.enfold
    if ENFOLD is None:
        # The tests of the command line need the program too. Building it alone would build its dependencies once more, with other
        # features.
        subprocess.run("cargo test --quiet --features coopmat,cli --test cli --no-run".split(), cwd=ROOT, check=True)
        ENFOLD = ROOT / "target" / "debug" / "enfold"
    started = time.monotonic()
    TESTS, VERBOSE = all_tests(), arguments.only is not None
    # The part, and then the others, always in the same order.
    order = sorted(range(len(TESTS)), key=lambda at: zlib.crc32(f"{SEED} {TESTS[at].name}".encode()))
    whole = arguments.write or os.environ.get("ENFOLD_LONG") == "1"
    ON_GPU = EACH_ON_GPU["all" if whole or VERBOSE else "part"] if adapter_answers() else None
    if arguments.only:
        chosen, others = [at for at in order if re.search(arguments.only, TESTS[at].name)], []
    else:
        chosen, others = order[:PART], order[PART:] if whole else []
    shutil.rmtree(FAILED, ignore_errors=True)
    counts, devices = check_tests(chosen, arguments.jobs)
    part = counts.copy()
    for counter, of_others in zip((counts, devices), check_tests(others, arguments.jobs)):
        counter.update(of_others)

    cases = {verdict: sum(count for (_, _, v), count in counts.items() if v == verdict) for verdict in VERDICTS}
    bad = cases["wrong"] + cases["crash"]
    if arguments.write and not bad:
        TABLE.write_text(table(counts, part))
    told = [] if arguments.only else differences(table(counts, part)) if whole else differences_of_part(part)
    for line in told:
        print(f"{TABLE.name}: {line}", file=sys.stderr)
    by_device = ", ".join(f"{count} {verdict} on {device}" for (device, verdict), count in sorted(devices.items()))
    print(f"runs: {by_device}; {time.monotonic() - started:.0f} s")
    by_verdict = ", ".join(f"{count} {verdict}" for verdict, count in cases.items())
    print(f"{sum(cases.values())} cases of {len(chosen + others)} of {len(TESTS)} ONNX backend tests: {by_verdict}")
    if bad or told or not (cases["right"] or arguments.only):
        sys.exit(f"{cases['wrong']} wrong, {cases['crash']} crashes, {len(told)} differences from {TABLE.name}")


if __name__ == "__main__":
    main()
