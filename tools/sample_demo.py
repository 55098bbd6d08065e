"""Prints text that the demo model writes, by PyTorch and without a KV cache."""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer

from checkpoint import load_checkpoint
from demo_corpus import DEMO_DIR


@torch.no_grad()
def continue_text(directory: Path, prompt: str, tokens: int, temperature: float) -> str:
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    model = load_checkpoint(directory)
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    for _ in range(tokens):
        probabilities = (model(ids)[0, -1] / temperature).softmax(-1)
        ids = torch.cat((ids, torch.multinomial(probabilities, 1)[None]), dim=1)
    return tokenizer.decode(ids[0].tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEMO_DIR)
    parser.add_argument("--prompt", default="ROMEO:\n")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    print(continue_text(arguments.model, arguments.prompt, arguments.tokens, arguments.temperature))


if __name__ == "__main__":
    main()
