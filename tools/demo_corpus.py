"""The demo model's text, its split into training and held-out part, and its tokenizer."""

import os
from pathlib import Path

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

REPOSITORY = Path(__file__).resolve().parent.parent
DEMO_DIR = REPOSITORY / "models" / "demo"
END_OF_TEXT = "<|endoftext|>"
HELDOUT_BYTES = (
    111_540  # the last tenth of the corpus; neither the tokenizer nor the model is trained on it
)
WINDOW = 512  # tokens a held-out window has; each is scored without the text before it


def data_dir() -> Path:
    return Path(os.environ.get("POLYSTRATE_DATA", REPOSITORY.parent / "shared" / "data"))


def read_corpus() -> tuple[str, str]:
    """(training text, held-out text)"""
    corpus = (data_dir() / "shakespeare.txt").read_bytes()
    return corpus[:-HELDOUT_BYTES].decode(), corpus[-HELDOUT_BYTES:].decode()


def train_tokenizer(text: str, vocab_size: int) -> Tokenizer:
    """A byte-level BPE of GPT-NeoX's kind, with all 256 bytes, so that it can spell any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],  # the first entry, so its id is 0
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def windows_of(tokenizer: Tokenizer, text: str, length: int = WINDOW) -> list[list[int]]:
    """A text's token ids in consecutive windows; the last may be shorter."""
    ids = tokenizer.encode(text).ids
    return [ids[i : i + length] for i in range(0, len(ids), length)]


def heldout_windows(tokenizer: Tokenizer) -> list[list[int]]:
    return windows_of(tokenizer, read_corpus()[1])
