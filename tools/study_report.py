"""What study.py found, as the tables of docs/uptraining.md and the picture docs/uptraining.svg."""

import json
from itertools import combinations
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402  (after the choice of backend)
from matplotlib.axes import Axes  # noqa: E402

# arXiv 2406.09297, Pythia-160M: KV bytes a token in float16, mean accuracy of ARC-e, LAMBADA, PIQA
# and SciQ, and LAMBADA's perplexity.
MLKV_PAPER = {
    "MHA-144": (36864, 52.79, 32.61),
    "GQA-48": (12288, 50.17, 65.79),
    "MLKV-48": (12288, 49.29, 93.19),
    "MQA-12": (3072, 49.43, 91.24),
    "MLKV-12": (3072, 48.78, 120.48),
    "MLKV-6": (1536, 49.06, 114.78),
    "MLKV-4": (1024, 47.31, 126.23),
    "MLKV-2": (512, 46.78, 150.84),
    "MLKV-1": (256, 41.12, 859.21),
}
# arXiv 2405.12981, table 1, head size 128: KV bytes a token in 16 bits, validation perplexity.
CLA_PAPER = {
    "MHA": (163840, 13.15),
    "GQA4": (40960, 13.36),
    "GQA2": (20480, 13.52),
    "MQA": (10240, 13.54),
    "GQA4-CLA2": (20480, 13.48),
    "GQA2-CLA2": (10240, 13.59),
    "MQA-CLA2": (5120, 13.60),
    "MQA-CLA3": (3584, 13.77),
    "MQA-CLA4": (2560, 13.95),
}
SHARING, PLAIN = "tab:red", "tab:blue"
LINES = {"0.2": ("-", "o"), "0.05": ("--", "s"), "0.017": (":", "^")}


def percent(share: str) -> str:
    return f"{float(share):.1%}".replace(".0%", "%")


def kv_heads(row: dict) -> int:
    return int(row["name"].partition(",")[0].rpartition("-")[2])


def colour(name: str) -> str:
    return SHARING if "LKV" in name or "CLA" in name else PLAIN


def loss(row: dict, share: str) -> str:
    return f"{row['losses'][share]:.3f}" if share in row["losses"] else ""


def our_table(results: dict) -> str:
    rows = results["variants"]
    shares = sorted({share for row in rows for share in row["losses"]}, key=float)[1:]
    heads = ["variant", "`convert` flags", "KV bytes a token", "MHA is", "parameters", "converted"]
    lines = [
        "| " + " | ".join(heads + [f"after {percent(share)}" for share in shares]) + " |",
        "|---" * (len(heads) + len(shares)) + "|",
    ]
    mha_bytes = rows[0]["kv_bytes_per_token"]
    for row in rows:
        flags = f"`{row['flags']} --pool {row['pool']}`" if row["flags"] else ""
        cells = [
            row["name"],
            flags,
            f"{row['kv_bytes_per_token']:,}",
            f"{mha_bytes / row['kv_bytes_per_token']:.0f}x",
            f"{row['parameters']:,}",
            *(loss(row, share) for share in ["0", *shares]),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def paper_table(results: dict) -> str:
    ours = {row["name"]: row for row in results["variants"]}
    base = ours["MHA-144"]["losses"]
    lines = [
        "| variant | theirs: KV bytes a token | mean accuracy | LAMBADA ppl "
        "| ours: KV bytes a token | loss over MHA-144, both after 5% |",
        "|---|---|---|---|---|---|",
    ]
    for name, (size, accuracy, perplexity) in MLKV_PAPER.items():
        row = ours[name]
        more = row["losses"]["0.05"] - base["0.05"]
        lines.append(
            f"| {name} | {size:,} | {accuracy:.2f} | {perplexity:.2f} "
            f"| {row['kv_bytes_per_token']:,} | {more:+.3f} |"
        )
    return "\n".join(lines)


def order_sentence(results: dict, share: str) -> str:
    """In how many pairs of variants ours and the paper's perplexity name the same one as better."""
    losses = {row["name"]: row["losses"].get(share) for row in results["variants"]}
    names = [name for name in MLKV_PAPER if name != "MHA-144"]
    pairs = list(combinations(names, 2))
    differ = [
        f"{a} and {b}"
        for a, b in pairs
        if (losses[a] < losses[b]) != (MLKV_PAPER[a][2] < MLKV_PAPER[b][2])
    ]
    return (
        f"After {percent(share)}, {len(pairs) - len(differ)} of the {len(pairs)} pairs of converted"
        f" variants stand in the paper's order (by LAMBADA perplexity).\nThe others: "
        f"{'; '.join(differ) or 'none'}."
    )


def agreement_sentence(results: dict) -> str:
    a = results["agreement"]
    return (
        f"{a['name']}: PyTorch says {a['pytorch']:.5f}, the engine in float32 {a['engine']:.5f}, "
        f"apart by {abs(a['pytorch'] - a['engine']):.1e}."
    )


def frontier(points: dict[str, tuple[int, float]]) -> list[tuple[int, float]]:
    """The lowest value at each size, by size."""
    lowest: dict[int, float] = {}
    for size, value in points.values():
        lowest[size] = min(value, lowest.get(size, value))
    return sorted(lowest.items())


def label(axes: Axes, points: dict[str, tuple[int, float]]) -> None:
    """Names above the points; below, where another of the same size is higher."""
    for name, (size, value) in points.items():
        below = any(s == size and v > value for s, v in points.values())
        axes.annotate(
            name,
            (size, value),
            textcoords="offset points",
            xytext=(0, -12 if below else 6),
            fontsize=6.5,
            ha="center",
        )


def byte_axis(axes: Axes, sizes: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], rotation=45, fontsize=7)
    axes.set_xlabel("KV bytes a token, 16 bits")
    axes.margins(x=0.12, y=0.12)
    axes.grid(alpha=0.3)


def draw_ours(axes: Axes, results: dict) -> None:
    rows = [row for row in results["variants"] if "," not in row["name"]]
    for share, (line, marker) in LINES.items():
        points = {
            row["name"]: (row["kv_bytes_per_token"], row["losses"][share])
            for row in rows
            if share in row["losses"]
        }
        axes.plot(*zip(*frontier(points), strict=True), line, color="0.7", lw=1, zorder=1)
        for name, (size, value) in points.items():
            axes.scatter(size, value, s=18, marker=marker, color=colour(name), zorder=2)
        axes.plot([], [], line, marker=marker, color="0.5", ms=4, label=f"after {percent(share)}")
        if share == min(LINES, key=float):  # the uppermost
            label(axes, points)
    axes.axhline(rows[0]["losses"]["0"], color=PLAIN, lw=0.8, label="the base, as it was")
    axes.scatter([], [], s=18, color=PLAIN, label="every layer has its own")
    axes.scatter([], [], s=18, color=SHARING, label="layers share")
    axes.legend(fontsize=7)
    axes.set_ylabel("held-out loss, nats a token (polystrate score)")
    axes.set_title("Here: 4 million parameters, Shakespeare", fontsize=9)
    byte_axis(axes, sorted({row["kv_bytes_per_token"] for row in rows}))


def draw_paper(axes: Axes, points: dict[str, tuple[int, float]], title: str, unit: str) -> None:
    for name, (size, value) in points.items():
        axes.scatter(size, value, s=18, color=colour(name))
    label(axes, points)
    axes.plot(*zip(*frontier(points), strict=True), color="0.7", lw=1, zorder=0)
    axes.set_ylabel(unit)
    axes.set_title(title, fontsize=9)
    byte_axis(axes, sorted({size for size, _ in points.values()}))


def draw(results: dict, path: Path) -> None:
    matplotlib.rcParams["svg.hashsalt"] = "polystrate"  # the same picture from the same figures
    matplotlib.rcParams["svg.fonttype"] = "none"
    figure, (ours, mlkv, cla) = plt.subplots(
        1, 3, figsize=(14, 4.8), width_ratios=(1.4, 1, 1), layout="constrained"
    )
    draw_ours(ours, results)
    draw_paper(
        mlkv,
        {name: (size, ppl) for name, (size, _, ppl) in MLKV_PAPER.items()},
        "MLKV paper: Pythia-160M, uptrained 1.7%",
        "LAMBADA perplexity",
    )
    mlkv.set_yscale("log")
    mlkv.set_yticks([32, 64, 128, 256, 512, 1024], ["32", "64", "128", "256", "512", "1024"])
    mlkv.minorticks_off()
    draw_paper(cla, CLA_PAPER, "CLA paper: 1B, trained from scratch", "validation perplexity")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def replace_between(text: str, name: str, content: str) -> str:
    """text with what stands between <!-- name --> and <!-- /name --> replaced."""
    before, found, rest = text.partition(f"<!-- {name} -->\n")
    _, closed, after = rest.partition(f"<!-- /{name} -->")
    if not found or not closed:
        raise ValueError(f"docs/uptraining.md has no <!-- {name} --> ... <!-- /{name} -->")
    return f"{before}{found}{content}\n{closed}{after}"


def write_report(results: dict, docs: Path) -> None:
    """Writes uptraining.json and .svg, and the marked parts of uptraining.md."""
    (docs / "uptraining.json").write_text(json.dumps(results, indent=2) + "\n")
    draw(results, docs / "uptraining.svg")
    page = docs / "uptraining.md"
    text = page.read_text()
    text = replace_between(text, "our table", our_table(results))
    text = replace_between(text, "paper table", paper_table(results))
    text = replace_between(text, "order", order_sentence(results, "0.05"))
    text = replace_between(text, "agreement", agreement_sentence(results))
    page.write_text(text)
