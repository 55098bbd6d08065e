"""The demo model's held-out loss, measured by the engine itself.

    heldout.py write --out windows.jsonl        one {"token_ids": [...]} for each window of the text
    polystrate score --model models/demo --input windows.jsonl > scores.jsonl
    heldout.py check --scores scores.jsonl      compares the mean loss with the model card's

The loss is the mean, over every token but the first of each window, of minus the natural logarithm
of the token's probability.
"""

import argparse
import json
import sys
from pathlib import Path

from tokenizers import Tokenizer

from demo_corpus import DEMO_DIR, heldout_windows

HELDOUT_FILE = "heldout.json"  # the figures, made by train_demo.py
SAMPLE_FILE = (
    "heldout_sample.jsonl"  # the first windows, for tests that have neither the corpus nor Python
)
SAMPLE_WINDOWS = 8


def write_windows(path: Path, windows: list[list[int]]) -> None:
    lines = (json.dumps({"token_ids": window}, separators=(",", ":")) + "\n" for window in windows)
    path.write_text("".join(lines))


def mean_loss(scores: Path) -> tuple[float, int]:
    """The loss over what `polystrate score` printed, and how many tokens it is the mean of."""
    lines = scores.read_text().splitlines()
    logprobs = [
        value for line in lines for value in json.loads(line)["logprobs"] if value is not None
    ]
    return -sum(logprobs) / max(len(logprobs), 1), len(logprobs)


def check(model: Path, scores: Path, tolerance: float) -> int:
    card = json.loads((model / HELDOUT_FILE).read_text())
    loss, count = mean_loss(scores)
    expected, expected_count = card["loss"], card["predicted_tokens"]
    print(f"loss {loss:.5f} over {count} tokens; the card: {expected:.5f} over {expected_count}")
    agrees = count == expected_count and abs(loss - expected) <= tolerance * expected
    return 0 if agrees else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=DEMO_DIR)
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("write", help="write the windows to score")
    write.add_argument("--out", type=Path, required=True)
    compare = commands.add_parser("check", help="compare scores with the card")
    compare.add_argument("--scores", type=Path, required=True)
    compare.add_argument("--tolerance", type=float, default=0.01, help="relative")
    arguments = parser.parse_args()
    if arguments.command == "check":
        return check(arguments.model, arguments.scores, arguments.tolerance)
    write_windows(
        arguments.out, heldout_windows(Tokenizer.from_file(str(arguments.model / "tokenizer.json")))
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
