"""Checks the model that is trained, and uptrain.py, on checkpoints made here. Plain `python
tools/test_uptrain.py`: it needs torch, which the product does not, so it is no part of the product's
tests."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import oracle
from checkpoint import fuse, load_checkpoint, read_tensors, split, write_json, write_tensors
from golden_cases import make_config
from mlkv_model import MlkvModel, initialise

SCRIPT = Path(__file__).with_name("uptrain.py")
SHAPE = (6, 6, 48)  # layers, heads, hidden size
SHARING = {
    "mha": {},
    "gqa": {"num_key_value_heads": 2},
    "mlkv": {"num_key_value_heads": 3, "num_key_value_layers": 2},
    "uneven_mlkv": {"num_key_value_heads": 1, "num_key_value_layers": 4},
    "crossed": {"num_key_value_heads": 2, "kv_source": [0, 1, 0, 1, 4, 0]},
}
TEXT = "To be, or not to be, that is the question. " * 40


def random_model(config: dict) -> MlkvModel:
    torch.manual_seed(7)
    model = MlkvModel(config)
    initialise(model, config | {"initializer_range": 0.2})
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    return model


class UptrainTest(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.source = Path(directory.name) / "source"
        self.out = Path(directory.name) / "out"
        self.text = Path(directory.name) / "text.txt"
        self.source.mkdir()
        self.text.write_text(TEXT)

    def write_source(self, config: dict) -> None:
        """A random model whose dtypes are mixed, and a tokenizer of single bytes."""
        tensors = random_model(config).state_dict()
        if "num_key_value_heads" not in config:
            tensors = fuse(tensors, config)
        write_tensors(
            self.source,
            {
                name: (tensor.half() if "mlp" in name else tensor.bfloat16()).contiguous()
                for name, tensor in tensors.items()
            },
        )
        write_json(self.source / "config.json", config)
        vocabulary = {byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.save(str(self.source / "tokenizer.json"))

    def run_script(self, *flags: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(SCRIPT), "--model", str(self.source)]
        command += ["--output", str(self.out), "--text", str(self.text), "--base_tokens", "10000"]
        command += ["--sequence_tokens", "64", "--batch_tokens", "256", *flags]
        return subprocess.run(command, capture_output=True, text=True)

    def test_model_is_the_oracles_under_every_map(self) -> None:
        for name, sharing in SHARING.items():
            with self.subTest(name):
                config = make_config(*SHAPE, **sharing)
                model = random_model(config).double().eval()
                ids = torch.randint(config["vocab_size"], (21,)).tolist()
                expected = oracle.logits(model.state_dict(), config, ids)
                with torch.no_grad():
                    found = model(torch.tensor([ids]))[0]
                self.assertLess((found - expected).abs().max(), 2e-6)

    def test_attention_that_rounds_is_close_to_the_exact(self) -> None:
        model = random_model(make_config(*SHAPE, **SHARING["crossed"])).eval()
        ids = torch.randint(97, (2, 40))
        with torch.no_grad():
            exact = model(ids)
            torch.set_float32_matmul_precision("medium")
            rounded = model(ids)
            torch.set_float32_matmul_precision("highest")
        difference = (rounded - exact).abs().max()
        self.assertGreater(difference, 0)
        self.assertLess(difference, 0.03 * exact.abs().max())

    def test_split_undoes_fuse(self) -> None:
        config = make_config(*SHAPE)
        tensors = random_model(config).state_dict()
        fused = fuse(tensors, config)
        self.assertIn("gpt_neox.layers.5.attention.query_key_value.bias", fused)
        again = split(fused, config)
        self.assertEqual(again.keys(), tensors.keys())
        for name in tensors:
            self.assertTrue(torch.equal(again[name], tensors[name]), name)

    def test_uptraining_learns_and_keeps_the_directorys_form(self) -> None:
        for name in ("mha", "crossed"):
            with self.subTest(name):
                config = make_config(*SHAPE, **SHARING[name]) | {"vocab_size": 256}
                self.write_source(config)
                result = self.run_script("--share", "1", "--heldout", str(self.text))
                self.assertEqual(result.returncode, 0, result.stderr)
                before, after = read_tensors(self.source), read_tensors(self.out)
                form = {key: (t.dtype, t.shape) for key, t in before.items()}
                self.assertEqual({key: (t.dtype, t.shape) for key, t in after.items()}, form)
                written = json.loads((self.out / "config.json").read_text())
                expected = config | ({"reuse_keys": "post_rope"} if name == "crossed" else {})
                self.assertEqual(written, expected)
                facts = json.loads((self.out / "uptraining.json").read_text())
                self.assertEqual(facts["tokens"], 39 * 256)  # the nearest to 10,000
                self.assertLess(facts["heldout"]["loss"], 3.5)  # of ln 256 = 5.5
                load_checkpoint(self.out)

    def test_bad_input_is_named(self) -> None:
        config = make_config(*SHAPE, **SHARING["mlkv"]) | {"vocab_size": 256}
        self.write_source(config | {"reuse_keys": "pre_rope"})
        self.assert_refused("reuse_keys is 'pre_rope'")
        self.write_source(config)
        self.assert_refused("the model has 256", "--sequence_tokens", "300")
        self.text.write_text("Short.")
        self.assert_refused("6 tokens")
        (self.source / "model.safetensors").unlink()
        self.text.write_text(TEXT)
        self.assert_refused("no *.safetensors file")

    def assert_refused(self, reason: str, *flags: str) -> None:
        result = self.run_script(*flags)
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertIn(reason, result.stderr)
        self.assertFalse(self.out.exists())


if __name__ == "__main__":
    unittest.main()
