"""The demo model's card (models/demo/README.md), filled in from the run that made the model."""

from typing import Any

from mlkv_model import kv_source

CARD = """\
---
language: en
tags: [mlkv, gpt_neox]
---
# Demo model: Shakespeare in {parameters:.1f} million parameters

A GPT-NeoX decoder whose key/value heads run through several layers (MLKV, arXiv 2406.09297). It
exists to show and test Polystrate on a real, if small, model: it writes lines that look like a
play, and knows nothing else.

## Shape and sharing map
| layers | heads | head size | KV heads | owners | hidden size | MLP size | vocabulary |
|---|---|---|---|---|---|---|---|
| {layers} | {heads} | {head_dim} | {kv_heads} | {owning} | {hidden} | {intermediate} | {vocab} |

Rotary on {rotary} of {head_dim} dimensions, parallel residual, untied embeddings,
{positions} positions, byte-level BPE with NFC.

| owner | layers that read its cache |
|---|---|
{groups}

`reuse_keys` is `post_rope`: a reusing layer reads the owner's keys as the owner rotated them. The
cache takes {kv_bytes} bytes a token in bfloat16; MHA would take {mha_bytes} and MQA {mqa_bytes}.

## Held-out loss: {loss:.4f}
In nats per token, computed by PyTorch in float32 with the weights of `model.safetensors`, which are
bfloat16. The held-out text is the last {heldout_bytes:,} bytes of `shakespeare.txt`, tokenised
as one piece and cut into {windows} consecutive windows of {window} tokens (the last is shorter).
Each window is scored by itself; the loss is the mean over all {predicted:,} predicted tokens, which
are all but the first of each window. Neither the tokenizer nor the weights were trained on this
text, but the checkpoint was chosen by it.

`heldout.json` has the figures and `heldout_sample.jsonl` the first {sample} windows;
`tools/heldout.py` writes all of them and compares what `polystrate score` gives.

## Recipe
    python tools/train_demo.py --steps {steps} --learning_rate {learning_rate} \\
        --dropout {dropout} --seed {seed}

- Text: the first {training_tokens:,} tokens of `shakespeare.txt` (karpathy/char-rnn, public
  domain).
- {batch_tokens} tokens a step, in sequences of these lengths: {length_shares}.
- AdamW (0.9, 0.98), weight decay 0.1 on matrices, gradients clipped to 1, warm-up over 100 steps,
  then a cosine to zero. Weights in float32; matrix products take inputs rounded to bfloat16.
- One CPU thread, {minutes:.0f} minutes of processor time up to step {best_step}, the best one.
- `tools/requirements.txt` has the versions.
"""


def model_card(config: dict[str, Any], heldout: dict[str, Any], facts: dict[str, Any]) -> str:
    source = kv_source(config)
    readers = {owner: [i for i, read in enumerate(source) if read == owner] for owner in source}
    rows = (f"| {owner} | {', '.join(map(str, reading))} |" for owner, reading in readers.items())
    layers, heads, kv_heads = (
        config[f"num_{key}"] for key in ("hidden_layers", "attention_heads", "key_value_heads")
    )
    head_dim = config["hidden_size"] // heads
    head_bytes = 2 * head_dim * 2  # a key and a value in bfloat16
    return CARD.format(
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        owning=len(readers),
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        vocab=config["vocab_size"],
        positions=config["max_position_embeddings"],
        rotary=int(head_dim * config["rotary_pct"]),
        groups="\n".join(rows),
        kv_bytes=len(readers) * kv_heads * head_bytes,
        mha_bytes=layers * heads * head_bytes,
        mqa_bytes=layers * head_bytes,
        loss=heldout["loss"],
        windows=heldout["windows"],
        window=heldout["window_tokens"],
        predicted=heldout["predicted_tokens"],
        sample=len(heldout["sample_window_losses"]),
        length_shares=", ".join(f"{n}: {p:.0%}" for n, p in facts["length_shares"].items()),
        **{key: value for key, value in facts.items() if key != "length_shares"},
    )
