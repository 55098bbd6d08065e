"""gpu_check's steps that must pass: the tests that need a GPU, greedy tokens against the CPU's, and
compute-sanitizer."""
import concurrent.futures
import json
import shutil

from gpu_programs import Failed, Skipped, run

FILTER = "*cuda*:*Cuda*:*Nccl*:*Gpu*"
TESTS_AT_ONCE = 4
# --tp and --pp; over MPI, so that all ranks can share one GPU.
CUTS = [(1, 1), (2, 1), (1, 2), (2, 2)]
# NCCL takes one rank of a host on each GPU. Where there are too few, each says that it is a host of its own.
A_HOST_EACH = ["sh", "-c", 'NCCL_HOSTID=rank$OMPI_COMM_WORLD_RANK exec "$0" "$@"']
ON_ONE_GPU = {"NCCL_SOCKET_IFNAME": "lo", "NCCL_IB_DISABLE": "1", "NCCL_MAX_CTAS": "2"}
EMULATED_NCCL = {"POLYSTRATE_EMULATED_STREAMS": "threads"}


def summarize(file):
    """(ran, skipped names, failed names) of a gtest report."""
    ran, skipped, failed = 0, [], []
    for suite in json.loads(file.read_text())["testsuites"]:
        for case in suite["testsuite"]:
            name = f"{suite['name']}.{case['name']}"
            if case.get("failures"):
                failed.append(name)
            if case["result"] == "SKIPPED":
                skipped.append(name)
            elif case["result"] == "COMPLETED":
                ran += 1
    return ran, skipped, failed


def run_test(check, test, seconds):
    file = check.scratch / f"{test.name}.json"
    programs = check.programs
    result = run([*programs.prefix, test, f"--gtest_filter={FILTER}", f"--gtest_output=json:{file}"], seconds,
                 programs.environment)
    entry = {"program": test.name, "ran": 0, "skipped": [], "failed": []}
    if result.code is None:
        entry["fault"] = "time-out"
    elif not file.is_file():
        entry["fault"] = result.tail()
    else:
        entry["ran"], entry["skipped"], entry["failed"] = summarize(file)
        if result.code != 0:
            entry["fault"] = result.tail(12)
    return entry


def tests(check):
    programs = check.programs.tests
    if check.emulated:  # CTest runs them all beside this one
        programs = [test for test in programs if test.name == "kernels_rope_test_emulated"] or programs[:1]
    if not programs:
        raise Failed("there are no test programs")
    budget = check.budget(150)
    with concurrent.futures.ThreadPoolExecutor(TESTS_AT_ONCE) as pool:
        entries = list(pool.map(lambda test: run_test(check, test, budget(150)), programs))
    entries = [entry for entry in entries if entry["ran"] or entry["skipped"] or "fault" in entry]
    faults = [entry["program"] for entry in entries if "fault" in entry or entry["failed"]]
    if faults:
        raise Failed("faults in " + ", ".join(faults), entries)
    if not any(entry["ran"] for entry in entries):
        raise Failed("no test of the GPU's code ran", entries)
    return entries


def greedy(check, seconds, device, tp, pp, dtype, comm="mpi"):
    """The tokens of a few prompts, one list each."""
    programs = check.programs
    prompts = check.scratch / "prompts.jsonl"
    texts = ["ROMEO:\n"] if check.emulated else ["ROMEO:\n", "To be, or not to be", "KING HENRY V:\nOnce more"]
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    arguments = ["generate", "--model", programs.source / "models" / "demo", "--prompts", prompts, "--json",
                 "--temperature", "0", "--max_tokens", "4" if check.emulated else "48", "--ignore_eos", "--dtype", dtype,
                 "--tp", tp, "--pp", pp, "--kv_memory", 1 << 24]
    if device == "cuda":
        arguments += ["--device", "cuda"]
        if "--comm " in run([programs.polystrate, "generate", "--help"], 30, programs.environment).out:
            arguments += ["--comm", comm]
    prefix, environment = [], programs.environment
    if comm == "nccl" and check.report["device"].get("gpus", 1) < tp * pp:
        prefix, environment = A_HOST_EACH, {**environment, **ON_ONE_GPU, **(EMULATED_NCCL if check.emulated else {})}
    result = run(programs.ranks(tp * pp, [str(a) for a in arguments], prefix), seconds, environment)
    if result.code != 0:
        raise Failed(f"{device} tp {tp} pp {pp} {dtype}: {'time-out' if result.code is None else result.tail()}")
    return [json.loads(line)["token_ids"] for line in result.out.splitlines() if line.startswith("{")]


def compare(check, seconds, dtypes, cuts, comm):
    """Tokens of the GPU, cut in every way, with those of the CPU."""
    entries, faults = [], []
    budget = check.budget(seconds)
    for dtype in dtypes:
        expected = greedy(check, budget(60), "cpu", 1, 1, dtype)
        for tp, pp in cuts:
            entry = {"dtype": dtype, "tp": tp, "pp": pp}
            try:
                actual = greedy(check, budget(60), "cuda", tp, pp, dtype, comm)
                entry["same"] = actual == expected
                entry["same_tokens"] = [next((i for i, (a, b) in enumerate(zip(x, y)) if a != b), len(x))
                                        for x, y in zip(actual, expected)]
            except Failed as fault:
                entry.update(same=False, fault=str(fault))
            entries.append(entry)
            if not entry["same"]:
                faults.append(f"{dtype} tp {tp} pp {pp}")
    if faults:
        raise Failed("tokens differ from the CPU's: " + ", ".join(faults), entries)
    return entries


def parity(check):
    if check.emulated:
        return compare(check, 120, ["float32"], CUTS[:2], "mpi")
    return compare(check, 120, ["float32", "bfloat16"], CUTS, "mpi")


def nccl_parity(check):
    """Over NCCL sums are part of the graphs."""
    return compare(check, 60, ["float32"], [(2, 1)] if check.emulated else [(2, 1), (1, 2)], "nccl")


def sanitize(tool):
    """A step: the operators' tests under compute-sanitizer, each for as long as time allows."""

    def step(check):
        sanitizer = shutil.which("compute-sanitizer") or shutil.which(
            "compute-sanitizer", path="/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer")
        if check.emulated or sanitizer is None:
            raise Skipped("no compute-sanitizer")

        def sanitize_one(test):
            result = run([*check.programs.prefix, sanitizer, "--tool", tool, "--error-exitcode", "9", test,
                          f"--gtest_filter={FILTER}"], check.left(20), check.programs.environment)
            status = {0: "clean", 9: "errors", None: "time-out"}.get(result.code, "failed")
            last = {"last": result.tail(12)} if status in ("errors", "failed") else {}
            return {"program": test.name, "status": status, **last}

        programs = [test for test in check.programs.tests if test.name.startswith("kernels_")]
        with concurrent.futures.ThreadPoolExecutor(TESTS_AT_ONCE) as pool:
            entries = list(pool.map(sanitize_one, programs))
        faults = [entry["program"] for entry in entries if entry["status"] in ("errors", "failed")]
        if faults:
            raise Failed("in " + ", ".join(faults), entries)
        return entries

    return step


STEPS = [("tests", tests), ("greedy tokens against the CPU's", parity),
         ("greedy tokens over NCCL", nccl_parity)]
LAST_STEPS = [("compute-sanitizer memcheck", sanitize("memcheck")), ("compute-sanitizer racecheck", sanitize("racecheck"))]
