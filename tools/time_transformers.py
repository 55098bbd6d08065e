"""Times Hugging Face transformers on the shapes of `polystrate bench model`: a decode step at short context, eager
and compiled with a static cache, in bfloat16 with random weights on the GPU. One line of JSON for each.

    python tools/time_transformers.py --json FILE [--shapes pythia-160m,...] [--batches 1,64] [--seconds 120]

For comparison alone; tools/gpu_check runs it where python3 has torch with CUDA, and transformers. Steps are
model(token) with a cache and argmax, without generate(), whose own bookkeeping costs more than a small model's step."""
import argparse
import json
import statistics
import time

import torch
import transformers

CONTEXT, STEPS, WARM_STEPS = 128, 32, 4


def neox(hidden, layers, heads, intermediate, vocab):
    return transformers.GPTNeoXConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                                      intermediate_size=intermediate, vocab_size=vocab, rotary_pct=0.25,
                                      max_position_embeddings=2048)


def llama(hidden, layers, heads, kv_heads, intermediate, vocab):
    return transformers.LlamaConfig(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                                    num_key_value_heads=kv_heads, intermediate_size=intermediate, vocab_size=vocab,
                                    max_position_embeddings=8192)


# As engine/public_shapes.cc has them.
SHAPES = {
    "pythia-160m": lambda: neox(768, 12, 12, 3072, 50304),
    "pythia-6.9b": lambda: neox(4096, 32, 32, 16384, 50432),
    "tinyllama-1.1b": lambda: llama(2048, 22, 32, 4, 5632, 32000),
    "llama-3.1-8b": lambda: llama(4096, 32, 32, 8, 14336, 128256),
}


def make_model(config, device):
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model = model.to_empty(device=device).eval()
    # Rotary frequencies are buffers that from_config on "meta" has not computed.
    for name, module in model.named_modules():
        if hasattr(module, "rope_init_fn"):
            module.inv_freq.copy_(module.rope_init_fn(config, device)[0])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.02)
    return model


@torch.inference_mode()
def time_steps(model, batch, compiled, device):
    """Seconds of each of STEPS decode steps, after a prompt of CONTEXT tokens."""
    cache = transformers.StaticCache(config=model.config, max_cache_len=CONTEXT + STEPS + WARM_STEPS + 1)
    tokens = torch.randint(0, model.config.vocab_size, (batch, CONTEXT), device=device)
    positions = torch.arange(CONTEXT, device=device)
    model(tokens, past_key_values=cache, cache_position=positions, use_cache=True)
    forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True) if compiled else model.forward
    token, seconds = tokens[:, -1:], []
    for step in range(WARM_STEPS + STEPS):
        torch.cuda.synchronize() if device == "cuda" else None
        begin = time.perf_counter()
        logits = forward(token, past_key_values=cache, use_cache=True,
                         cache_position=torch.tensor([CONTEXT + step], device=device)).logits
        token = logits[:, -1:].argmax(dim=-1).clone()
        token.cpu()  # what a caller streams
        if step >= WARM_STEPS:
            seconds.append(time.perf_counter() - begin)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", required=True)
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--batches", default="1,64")
    parser.add_argument("--modes", default="eager,compiled")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=120, help="nothing is begun after so long")
    arguments = parser.parse_args()
    begin = time.monotonic()
    with open(arguments.json, "w") as file:
        for mode in arguments.modes.split(","):  # all that is eager first: compiling takes long
            for name in arguments.shapes.split(","):
                if time.monotonic() - begin > arguments.seconds:
                    break
                model = make_model(SHAPES[name](), arguments.device)
                for batch in (int(text) for text in arguments.batches.split(",")):
                    seconds = time_steps(model, batch, mode == "compiled", arguments.device)
                    row = {"shape": name, "mode": mode, "sequences": batch, "context": CONTEXT,
                           "median_ms": 1e3 * statistics.median(seconds),
                           "tokens_per_s": batch / statistics.median(seconds)}
                    file.write(json.dumps(row) + "\n")
                    file.flush()
                    print(row, flush=True)
                del model
                torch._dynamo.reset()
                if arguments.device == "cuda":
                    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
