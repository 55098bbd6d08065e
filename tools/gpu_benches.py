"""gpu_check's benches, and the table that their figures are judged by."""
import json
import pathlib
import shutil

from gpu_programs import Failed, Skipped, run

SEVEN_GIB = 7 << 30
# (figure, share it is judged by, must, aim): docs/gpu/README.md has the table.
REACH = [
    ("decode pythia-6.9b batch 1", "copy_share", 0.80, 0.90),
    ("decode llama-3.1-8b batch 1", "copy_share", 0.80, 0.90),
    ("decode tinyllama-1.1b batch 1", "copy_share", 0.60, 0.75),
    ("decode pythia-160m batch 1", "copy_share", 0.35, 0.60),
    ("prefill pythia-6.9b 4 x 2048", "matrix_share", 0.60, 0.75),
    ("attention decode 64 x 8192 kv 32", "copy_share", 0.85, 0.92),
    ("attention decode 64 x 8192 kv 8", "copy_share", 0.85, 0.92),
    ("attention decode 64 x 8192 kv 1", "copy_share", 0.85, 0.92),
    ("attention prefill 1 x 16384 kv 32", "matrix_share", 0.50, 0.65),
    ("attention prefill 1 x 16384 kv 32 by warpgroups", "matrix_share", 0.50, 0.65),
]


def bench(check, kind, arguments, seconds):
    """The JSON of one `polystrate bench` on the GPU; its limits go to the report when they are the best yet."""
    file = check.scratch / f"{kind}.json"
    programs = check.programs
    command = [programs.polystrate, "bench", kind, "--device", "cuda", "--json", file, *arguments]
    result = run(command, check.left(seconds), programs.environment)
    if result.code != 0:
        raise Failed(f"bench {kind}: {'time-out' if result.code is None else result.tail()}")
    measured = json.loads(file.read_text())
    for key in ("read_gb_per_s", "copy_gb_per_s", "matrix_tflop_per_s"):
        value = measured.get("limits", measured).get(key, 0)
        check.report["limits"][key] = max(check.report["limits"].get(key, 0), value)
    return measured


def add_figure(check, name, row):
    """Every figure with what was predicted, what it is, and its shares of the limits."""
    figure = {"name": name, **row}
    for reach_name, share, must, aim in REACH:
        if reach_name == name and share in row:
            figure.update(judged_by=share, must=must, aim=aim, reached="aim" if row[share] >= aim else
                          "must" if row[share] >= must else "no")
    check.report["figures"].append(figure)


def attention(check):
    quick = ["--quick"] if check.emulated else []
    phases = [["--phase", "decode"], ["--phase", "prefill", "--kv_heads", "32,8"]]
    for phase in [[]] if check.emulated else phases:
        for row in bench(check, "attention", [*phase, *quick], 90)["rows"]:
            how = " by warpgroups" if row.get("warpgroups") else ""
            add_figure(check, f"attention {row['phase']} {row['sequences']} x {row['context']} kv {row['kv_heads']}{how}", row)


def model(arguments, seconds):
    def step(check):
        if check.emulated:
            raise Skipped("the smallest published shape is too large for an emulated GPU")
        for row in bench(check, "model", arguments, seconds)["rows"]:
            size = f"batch {row['sequences']}" if row["phase"] == "decode" else f"{row['sequences']} x {row['context']}"
            add_figure(check, f"{row['phase']} {row['shape']} {size}", row)

    return step


def mlkv(check):
    """The paper's nine variants, each at the largest batch of one 7 GiB pool."""
    if check.emulated:
        raise Skipped("the papers' models are too large for an emulated GPU")
    measured = bench(check, "sharing", ["--kv_memory", str(SEVEN_GIB), "--largest_batch_steps", "47"], 150)
    wrong = []
    for variant in measured["variants"]:
        row = variant["largest_batch"]
        formula = SEVEN_GIB // (2048 * variant["kv_resident_bytes_per_token"])
        of_model = row["tokens_per_s"] / row["predicted_tokens_per_s"]
        check.report["figures"].append({
            "name": f"MLKV sweep {variant['name']}", **row, "formula_sequences": formula, "of_byte_model": of_model,
            "judged_by": "of_byte_model", "must": 0.85, "aim": 0.93,
            "reached": "aim" if of_model >= 0.93 else "must" if of_model >= 0.85 else "no"})
        if row["sequences"] != formula:
            wrong.append(f"{variant['name']}: {row['sequences']} sequences, {formula} by the formula")
    if wrong:
        raise Failed("; ".join(wrong))
    return {"order_predicted": measured["predicted_order"], "order_measured": measured["measured_order"]}


def transformers(check):
    """Hugging Face's own generation on the same shapes, in the same run."""
    script = pathlib.Path(__file__).resolve().parent / "time_transformers.py"
    python = shutil.which("python3")
    if check.emulated:
        raise Skipped("no GPU")
    probe = run([python, "-c", "import torch, transformers; assert torch.cuda.is_available()"], check.left(60))
    if probe.code != 0:
        raise Skipped("python3 has no torch that sees the GPU, or no transformers")
    file = check.scratch / "transformers.json"
    result = run([python, script, "--json", file, "--seconds", str(int(check.left(110)) - 5)], check.left(120))
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    ours = {figure["name"]: figure for figure in check.report["figures"]}
    for row in rows:
        same = ours.get(f"decode {row['shape']} batch {row['sequences']}")
        if same is not None:
            row["ours_over_it"] = row["median_ms"] / same["median_ms"]
        check.report["figures"].append({"name": f"transformers {row['mode']} {row['shape']} batch {row['sequences']}", **row})
    if result.code != 0:
        raise Failed("time-out" if result.code is None else result.tail())


def print_figures(report):
    for figure in report["figures"]:
        share = figure.get("judged_by", "copy_share")
        predicted = figure.get("predicted_ms", 0)
        print(f"{figure['name']:44} {figure.get('median_ms', 0):10.3f} ms, predicted {predicted:10.3f}; "
              f"{share} {100 * figure.get(share, 0):6.1f}% {figure.get('reached', '')}")


STEPS = [
    ("attention alone", attention),
    ("decode and prefill of 7B-class", model(["--shapes", "pythia-6.9b"], 90)),
    ("decode of the other shapes", model(["--shapes", "pythia-160m,tinyllama-1.1b,llama-3.1-8b", "--prompts", "0"], 90)),
    ("MLKV sweep", mlkv),
    ("decode at batch 64", model(["--shapes", "pythia-160m,tinyllama-1.1b", "--batch", "64", "--prompts", "0"], 60)),
]
LAST_STEPS = [("transformers on the same shapes", transformers)]
