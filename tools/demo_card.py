"""Cards of the models kept under models/, filled in from the runs that made the models."""

from typing import Any

from mlkv_model import Config, kv_source

DEMO_INTRO = """\
A GPT-NeoX decoder whose key/value heads run through several layers (MLKV, arXiv 2406.09297). It
exists to show and test Polystrate on a real, if small, model: it writes lines that look like a
play, and knows nothing else."""
MHA_INTRO = """\
A stock GPT-NeoX decoder, every layer with keys and values of its own, that writes lines that look
like a play and knows nothing else. It exists to be converted: `polystrate convert` makes GQA, MQA,
MLKV and CLA models of it, `tools/uptrain.py` mends them, docs/uptraining.md says how well."""
UPTRAINED_INTRO = """\
models/shakespeare-mha with its {mha_heads} KV heads pooled to {kv_heads} by `polystrate convert`
and uptrained by `tools/uptrain.py`. It exists to show what conversion gives; docs/uptraining.md
compares it with others."""

CARD = """\
---
language: en
tags: [{tags}]
---
# {title}

{intro}

## Shape and sharing map
| layers | heads | head size | KV heads | owners | hidden size | MLP size | vocabulary |
|---|---|---|---|---|---|---|---|
| {layers} | {heads} | {head_dim} | {kv_heads} | {owning} | {hidden} | {intermediate} | {vocab} |

Rotary on {rotary} of {head_dim} dimensions, parallel residual, untied embeddings,
{positions} positions, byte-level BPE with NFC.

{groups}

The cache takes {kv_bytes} bytes a token in bfloat16; MHA would take {mha_bytes} and MQA {mqa_bytes}.

## Held-out loss: {loss:.4f}
In nats per token, computed by PyTorch in float32 with the weights of `model.safetensors`, which are
bfloat16. The held-out text is the last {heldout_bytes:,} bytes of `shakespeare.txt`, tokenised
as one piece and cut into {windows} consecutive windows of {window} tokens (the last is shorter).
Each window is scored by itself; the loss is the mean over all {predicted:,} predicted tokens, which
are all but the first of each window. Neither the tokenizer nor the weights were trained on this
text{chosen}.

`heldout.json` has the figures and `heldout_sample.jsonl` the first {sample} windows;
`tools/heldout.py` writes all of them and compares what `polystrate score` gives.

## Recipe
{recipe}
- Text: the first {training_tokens:,} tokens of `shakespeare.txt` (karpathy/char-rnn, public
  domain).
- AdamW (0.9, 0.98), weight decay 0.1 on matrices, gradients clipped to 1. Weights in float32;
  matrix products take inputs rounded to bfloat16.
- `tools/requirements.txt` has the versions.
"""

GROUPS = """\
| owner | layers that read its cache |
|---|---|
{rows}

`reuse_keys` is `post_rope`: a reusing layer reads the owner's keys as the owner rotated them."""

TRAINED = """\
    python tools/train_demo.py --shape {shape} --steps {steps} \\
        --learning_rate {learning_rate} --dropout {dropout} --seed {seed}

- {batch_tokens} tokens a step, in sequences of these lengths: {length_shares}.
- Warm-up over 100 steps, then a cosine to zero.
- One CPU thread, {minutes:.0f} minutes of processor time up to step {best_step}, the best one."""

UPTRAINED = """\
{commands}

- {uptrained} was on {steps} steps of {batch_tokens} tokens, {share:.1%} of what went before, in
  sequences of {sequence_tokens}; warm-up over a fifth of the steps to {learning_rate}, then a
  cosine to zero. One CPU thread, {seconds:.0f} seconds of processor time; the loss before it was
  {loss_before:.4f}."""


def groups_section(source: list[int]) -> str:
    readers = {owner: [i for i, read in enumerate(source) if read == owner] for owner in source}
    if len(readers) == len(source):
        return "Nothing is shared: every layer is an owner."
    rows = (f"| {owner} | {', '.join(map(str, reading))} |" for owner, reading in readers.items())
    return GROUPS.format(rows="\n".join(rows))


def card(config: Config, heldout: dict[str, Any], **texts: Any) -> str:
    source = kv_source(config)
    layers, heads = config["num_hidden_layers"], config["num_attention_heads"]
    kv_heads, owning = config.get("num_key_value_heads", heads), len(set(source))
    head_dim = config["hidden_size"] // heads
    head_bytes = 2 * head_dim * 2  # a key and a value in bfloat16
    return CARD.format(
        tags="mlkv, gpt_neox" if owning < layers else "gpt_neox",
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        owning=owning,
        hidden=config["hidden_size"],
        intermediate=config["intermediate_size"],
        vocab=config["vocab_size"],
        positions=config["max_position_embeddings"],
        rotary=int(head_dim * config["rotary_pct"]),
        groups=groups_section(source),
        kv_bytes=owning * kv_heads * head_bytes,
        mha_bytes=layers * heads * head_bytes,
        mqa_bytes=layers * head_bytes,
        loss=heldout["loss"],
        windows=heldout["windows"],
        window=heldout["window_tokens"],
        predicted=heldout["predicted_tokens"],
        sample=len(heldout["sample_window_losses"]),
        **texts,
    )


def trained_card(config: Config, heldout: dict[str, Any], facts: dict[str, Any]) -> str:
    """The card of a model that train_demo.py made."""
    shared = len(set(kv_source(config))) < config["num_hidden_layers"]
    title = "Demo model: Shakespeare" if shared else "Shakespeare with nothing shared,"
    lengths = ", ".join(f"{n}: {p:.0%}" for n, p in facts["length_shares"].items())
    return card(
        config,
        heldout,
        title=f"{title} in {facts['parameters']:.1f} million parameters",
        intro=DEMO_INTRO if shared else MHA_INTRO,
        recipe=TRAINED.format(**facts | {"length_shares": lengths}),
        chosen=", but the checkpoint was chosen by it",
        heldout_bytes=facts["heldout_bytes"],
        training_tokens=facts["training_tokens"],
    )


def uptrained_card(config: Config, facts: dict[str, Any], name: str, commands: list[str]) -> str:
    """The card of a model that these commands made, uptrain.py the last of them."""
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    kv_heads = len(set(kv_source(config))) * config.get("num_key_value_heads", heads)
    is_base = kv_heads == heads * layers
    return card(
        config,
        facts["heldout"],
        title=f"{name}: Shakespeare with {kv_heads} KV heads in all",
        intro=MHA_INTRO
        if is_base
        else UPTRAINED_INTRO.format(mha_heads=heads * layers, kv_heads=kv_heads),
        recipe=UPTRAINED.format(
            commands="\n".join(f"    {line}" for line in commands),
            uptrained="The end of the training" if is_base else "Uptraining",
            **facts,
        ),
        chosen=", but learning rates were chosen by it",
        heldout_bytes=facts["heldout_bytes"],
        training_tokens=facts["training_tokens"],
    )
