"""Writes tests/golden/*.json: logits that the engine must reproduce.

The checkpoints are counter_weights.py's, so both sides make them and none is stored.

Stock checkpoints: Hugging Face transformers, float32, eager attention. Checkpoints that share keys
and values, which transformers cannot load: oracle.py, float64, after it has agreed with
transformers on every stock one.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

import golden_cases
import golden_llama
import oracle
import reference_decode
from counter_weights import counter_weights, fnv1a64
from demo_corpus import REPOSITORY
from golden_cases import Case, Shapes

MODEL_SEED = 2406_09297
POSITIONS = 6  # rows of logits kept for a case
WHOLE_VOCABULARY = 128  # up to this size every column is kept, above it about COLUMNS
COLUMNS = 200
# The two best logits of a kept row differ by this share of the largest at least, so that rounding
# cannot swap them.
MARGIN = 0.01
# Of reference_decode/: shared under the rule that its full forward has, and one that shares nothing.
REFERENCE_CASES = ("mlkv_l4_m2_g1_pre_rope", "mlkv_l5_m3_g2_pre_rope", "gqa")
REFERENCE_CHUNK = 4  # tokens of a step


def transformers_logits(
    weights: dict[str, Tensor], case: Case, token_ids: list[int], dtype: torch.dtype
) -> Tensor:
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "config.json").write_text(json.dumps(case.config))
        save_file(weights, Path(directory) / "model.safetensors", metadata={"format": "pt"})
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            directory, attn_implementation="eager", dtype=dtype, output_loading_info=True
        )
    assert not report["missing_keys"] and not report["unexpected_keys"], report
    with torch.no_grad():
        return model(torch.tensor([token_ids])).logits[0]


def keep_positions(logits: Tensor) -> list[int]:
    """The first, the last and some rows between, of those whose best token leads clearly."""
    best = logits.topk(2).values
    clear = ((best[:, 0] - best[:, 1]) >= MARGIN * logits.abs().max()).nonzero().flatten().tolist()
    assert len(clear) >= POSITIONS, "too few rows with a clear best token"
    return [clear[round(i * (len(clear) - 1) / (POSITIONS - 1))] for i in range(POSITIONS)]


def keep_columns(logits: Tensor, positions: list[int]) -> list[int]:
    vocab = logits.shape[1]
    if vocab <= WHOLE_VOCABULARY:
        return list(range(vocab))
    strided = range(0, vocab, vocab // COLUMNS)
    return sorted({*strided, vocab - 1, *logits[positions].argmax(-1).tolist()})


def golden_logits(
    case: Case, weights: dict[str, Tensor], token_ids: list[int]
) -> tuple[str, Tensor]:
    truth = oracle.logits(weights, case.config, token_ids)
    if not case.stock:
        return "oracle float64", truth
    reference = transformers_logits(weights, case, token_ids, torch.float64)
    # Even there transformers computes rotary angles and RMS norms in float32.
    assert (truth - reference).abs().max() < 5e-7 * truth.abs().max(), (
        f"{case.name}: oracle and transformers differ"
    )
    single = transformers_logits(weights, case, token_ids, torch.float32)
    return f"transformers {transformers.__version__} float32", single.double()


def tensor_shapes(case: Case) -> Shapes:
    source = oracle.sharing_map(case.config)
    if case.config["model_type"] == "gpt_neox":
        return golden_cases.tensor_shapes(case, source)
    return golden_llama.tensor_shapes(case.config, source)


def make_weights(case: Case) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(counter_weights(name, tuple(shape), MODEL_SEED, case.gain))
        for name, shape in tensor_shapes(case).items()
    }


def rounded(logits: Tensor) -> list[list[float]]:
    return [[float(f"{value:.7g}") for value in row] for row in logits.tolist()]


def make_golden(case: Case) -> dict:
    shapes = tensor_shapes(case)
    weights = make_weights(case)
    generator = np.random.default_rng(fnv1a64(case.name))
    token_ids = generator.integers(case.config["vocab_size"], size=case.length).tolist()
    source, logits = golden_logits(case, weights, token_ids)
    positions = keep_positions(logits)
    columns = keep_columns(logits, positions)
    return {
        "name": case.name,
        "source": source,
        "config": case.config,
        "reuse_keys": case.config.get("reuse_keys", "post_rope"),
        "weights": {"model_seed": MODEL_SEED, "gain": case.gain},
        "tensors": shapes,
        "token_ids": token_ids,
        "positions": positions,
        "vocab_ids": columns,
        "logits": rounded(logits[positions][:, columns]),
        "argmax": logits[positions].argmax(-1).tolist(),
        "logit_scale": float(f"{logits.abs().max():.7g}"),
    }


def make_reference_decode(golden: dict) -> dict:
    """The golden's own rows and columns, as the published code decodes them."""
    (case,) = (case for case in golden_cases.CASES if case.name == golden["name"])
    weights, token_ids = make_weights(case), golden["token_ids"]
    full = reference_decode.logits(weights, case.config, token_ids, len(token_ids))
    assert torch.allclose(full, oracle.logits(weights, case.config, token_ids), rtol=0, atol=1e-9)
    decoded = reference_decode.logits(weights, case.config, token_ids, REFERENCE_CHUNK)
    return golden | {
        "source": f"reference_decode float64, {REFERENCE_CHUNK} tokens at a time",
        "logits": rounded(decoded[golden["positions"]][:, golden["vocab_ids"]]),
        "argmax": decoded[golden["positions"]].argmax(-1).tolist(),
    }


def write_golden(path: Path, golden: dict) -> None:
    """One line for each key, so that a change shows where it is."""
    lines = (
        f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}"
        for key, value in golden.items()
    )
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=REPOSITORY / "tests" / "golden")
    out = parser.parse_args().out
    (out / "reference_decode").mkdir(parents=True, exist_ok=True)
    transformers.utils.logging.disable_progress_bar()
    for case in golden_cases.CASES + golden_llama.CASES:
        golden = make_golden(case)
        write_golden(out / f"{case.name}.json", golden)
        print(f"{case.name}: {golden['source']}, largest logit {golden['logit_scale']:.3g}")
        if case.name in REFERENCE_CASES:
            decoded = make_reference_decode(golden)
            write_golden(out / "reference_decode" / f"{case.name}.json", decoded)


if __name__ == "__main__":
    main()
