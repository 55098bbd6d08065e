"""The uptraining study: one MHA model, converted to less and less KV cache, uptrained and measured.

    python tools/study.py                        under an hour of one core; may be run again

Trains models/shakespeare-mha unless it is there, converts it with `polystrate convert`, uptrains
with uptrain.py, measures held-out loss with `polystrate score` and bytes with `polystrate plan`,
and writes docs/uptraining.json, the tables of docs/uptraining.md and docs/uptraining.svg. What a
former run finished is not done again.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from checkpoint import write_json
from demo_card import uptrained_card
from demo_corpus import HELDOUT_BYTES, REPOSITORY, heldout_windows, read_corpus
from heldout import HELDOUT_FILE, SAMPLE_FILE, SAMPLE_WINDOWS, mean_loss, write_windows
from study_report import write_report
from uptrain import FACTS_FILE

# The base: half of a long cosine, and then its own descent to zero.
EARLY = "--shape mha --steps 2000 --stop_after 1000"
EARLY_TOKENS = 1000 * 2048
REST = "--share 0.35 --learning_rate 0.002 --batch_tokens 2048"
BASE_TOKENS = EARLY_TOKENS + 350 * 2048
MLKV_SHARE, GQA_SHARE, LARGE_SHARE = 0.017, 0.05, 0.2  # of BASE_TOKENS
PAPERS = (MLKV_SHARE, GQA_SHARE)
ALL = (*PAPERS, LARGE_SHARE)
COMPARED = (MLKV_SHARE,)


@dataclass(frozen=True)
class Variant:
    name: str
    flags: str  # of polystrate convert; none where there is nothing to convert
    shares: tuple[float, ...] = PAPERS
    pool: str = "mean"

    @property
    def folder(self) -> str:
        return self.name.lower().replace(" ", "-").replace(",", "")


VARIANTS = [
    Variant("MHA-144", ""),
    Variant("CLA2-72", "--kv_source cla2"),
    Variant("GQA-48", "--kv_layers 12 --kv_heads 4"),
    Variant("MLKV-48", "--kv_layers 4 --kv_heads 12"),
    Variant("MQA-12", "--kv_layers 12 --kv_heads 1"),
    Variant("MLKV-12", "--kv_layers 4 --kv_heads 3"),
    Variant("MLKV-6", "--kv_layers 6 --kv_heads 1"),
    Variant("MLKV-4", "--kv_layers 4 --kv_heads 1", ALL),
    Variant("MLKV-2", "--kv_layers 2 --kv_heads 1"),
    Variant("MLKV-1", "--kv_layers 1 --kv_heads 1"),
    Variant("MLKV-12, sequential", "--kv_layers 4 --kv_heads 3", COMPARED, "sequential"),
    Variant("MLKV-2, sequential", "--kv_layers 2 --kv_heads 1", COMPARED, "sequential"),
    Variant("MLKV-4, grown MLP", "--kv_layers 4 --kv_heads 1 --grow_mlp", COMPARED),
]
KEPT = ("MLKV-4", LARGE_SHARE)  # goes to models/


class Study:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self.work: Path = arguments.work
        self.engine: Path = arguments.polystrate
        self.base: Path = arguments.base
        self.python = f"{shlex.quote(sys.executable)} {shlex.quote(str(REPOSITORY / 'tools'))}/"
        self.windows = self.work / "windows.jsonl"
        self.text, self.heldout = self.work / "training.txt", self.work / "heldout.txt"

    def run(self, command: str, product: Path, capture: bool = False) -> None:
        """Runs a command unless its product exists; with capture its output is the product."""
        if product.exists():
            return
        print(f"$ {command}", flush=True)
        if not capture:
            product.parent.parent.mkdir(parents=True, exist_ok=True)  # it makes its own folder
            subprocess.run(command, shell=True, check=True)
            return
        product.parent.mkdir(parents=True, exist_ok=True)
        unfinished = product.with_name(product.name + ".part")
        with unfinished.open("w") as output:
            subprocess.run(
                command, shell=True, check=True, stdout=output, stderr=subprocess.DEVNULL
            )
        unfinished.rename(product)

    def prepare(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        for path, part in zip((self.text, self.heldout), read_corpus(), strict=True):
            path.write_text(part)
        if not (self.base / "model.safetensors").exists():
            self.make_base()
        self.run(
            f"{self.python}heldout.py --model {self.base} write --out {self.windows}", self.windows
        )

    def make_base(self) -> None:
        early, base = self.work / "base" / "early", self.work / "base" / "whole"
        finished = early / "finished"  # the checkpoint is there long before
        self.run(f"{self.python}train_demo.py {EARLY} --out {early} && touch {finished}", finished)
        self.run(
            f"{self.python}uptrain.py --model {early} --output {base} --text {self.text} "
            f"--heldout {self.heldout} --base_tokens {EARLY_TOKENS} {REST}",
            base / FACTS_FILE,
        )
        before = json.loads((early / HELDOUT_FILE).read_text())["loss"]
        commands = [
            f"python tools/train_demo.py {EARLY} --out early",
            f"python tools/uptrain.py --model early --output models/{self.base.name} \\",
            f"    --text training.txt --base_tokens {EARLY_TOKENS} \\",
            f"    {REST}",
        ]
        self.keep(base, self.base, "MHA-144", before, commands)

    def convert(self, variant: Variant) -> Path:
        if not variant.flags:
            return self.base
        output = self.work / variant.folder / "converted"
        self.run(
            f"{self.engine} convert --model {self.base} --output {output} "
            f"{variant.flags} --pool {variant.pool}",
            output / "model.safetensors",
        )
        return output

    def uptrain(self, variant: Variant, converted: Path, share: float) -> Path:
        output = self.work / variant.folder / f"share-{share}"
        kept = f" --heldout {self.heldout}" if (variant.name, share) == KEPT else ""
        self.run(
            f"{self.python}uptrain.py --model {converted} --output {output} "
            f"--text {self.text} --base_tokens {BASE_TOKENS} --share {share}{kept}",
            output / FACTS_FILE,
        )
        return output

    def score(self, model: Path, name: str, flags: str = "") -> float:
        scores = self.work / "scores" / f"{name}.jsonl"
        self.run(f"{self.engine} score --model {model} --input {self.windows}{flags}", scores, True)
        return mean_loss(scores)[0]

    def measure(self, variant: Variant) -> dict:
        converted = self.convert(variant)
        plan = self.work / "plans" / f"{variant.folder}.json"
        self.run(f"{self.engine} plan --model {converted} --json", plan, True)
        facts = json.loads(plan.read_text())
        losses = {"0": self.score(converted, f"{variant.folder}-converted")}
        for share in variant.shares:
            model = self.uptrain(variant, converted, share)
            losses[str(share)] = self.score(model, f"{variant.folder}-{share}")
        return {
            "name": variant.name,
            "flags": variant.flags,
            "pool": variant.pool if variant.flags else "",
            "kv_bytes_per_token": facts["kv_bytes_per_token"],
            "parameters": facts["num_parameters"],
            "losses": losses,
        }

    def agreement(self, variant: Variant, share: float) -> dict:
        """PyTorch's and the engine's loss of the same weights, both in float32."""
        model = self.uptrain(variant, self.convert(variant), share)
        name = f"{variant.folder}-{share}-float32"
        return {
            "name": f"{variant.name} at {share:.1%}",
            "pytorch": json.loads((model / FACTS_FILE).read_text())["heldout"]["loss"],
            "engine": self.score(model, name, " --dtype float32"),
        }

    def keep_variant(self, variant: Variant, share: float, directory: Path) -> None:
        converted = self.convert(variant)
        commands = [
            f"polystrate convert --model models/{self.base.name} --output converted \\",
            f"    {variant.flags} --pool {variant.pool}",
            f"python tools/uptrain.py --model converted --output models/{directory.name} \\",
            f"    --text training.txt --base_tokens {BASE_TOKENS} --share {share}",
        ]
        before = self.score(converted, f"{variant.folder}-converted")
        model = self.uptrain(variant, converted, share)
        self.keep(model, directory, variant.name, before, commands)

    def keep(
        self, model: Path, directory: Path, name: str, loss_before: float, commands: list[str]
    ) -> None:
        """Copies an uptrained model to where it is kept, with its card and held-out figures."""
        directory.mkdir(parents=True, exist_ok=True)
        for file in model.iterdir():
            if file.name != FACTS_FILE:
                shutil.copyfile(file, directory / file.name)
        facts = json.loads((model / FACTS_FILE).read_text())
        write_json(directory / HELDOUT_FILE, facts["heldout"])
        windows = heldout_windows(Tokenizer.from_file(str(model / "tokenizer.json")))
        write_windows(directory / SAMPLE_FILE, windows[:SAMPLE_WINDOWS])
        facts |= {"heldout_bytes": HELDOUT_BYTES, "loss_before": loss_before}
        config = json.loads((model / "config.json").read_text())
        (directory / "README.md").write_text(uptrained_card(config, facts, name, commands))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--polystrate", type=Path, default=Path("build/cpu/polystrate"))
    parser.add_argument("--base", type=Path, default=REPOSITORY / "models" / "shakespeare-mha")
    parser.add_argument("--work", type=Path, default=Path("build/study"))
    return parser.parse_args()


def main() -> None:
    study = Study(parse_arguments())
    study.prepare()
    for share in ALL:  # cheap ones first
        for variant in VARIANTS:
            if share in variant.shares:
                study.uptrain(variant, study.convert(variant), share)
    by_name = {variant.name: variant for variant in VARIANTS}
    kept, share = by_name[KEPT[0]], KEPT[1]
    results = {
        "base_tokens": BASE_TOKENS,
        "variants": [study.measure(variant) for variant in VARIANTS],
        "agreement": study.agreement(kept, share),
    }
    study.keep_variant(kept, share, REPOSITORY / "models" / f"shakespeare-{kept.folder}")
    write_report(results, REPOSITORY / "docs")


if __name__ == "__main__":
    os.nice(10)
    main()
