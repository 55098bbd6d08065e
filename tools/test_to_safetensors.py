"""Checks to_safetensors.py on checkpoints made here. Plain `python tools/test_to_safetensors.py`:
it needs torch, which the product does not, so it is no part of the product's tests."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("to_safetensors.py")
ATTENTION = "gpt_neox.layers.0.attention"
WEIGHTS = {
    "gpt_neox.embed_in.weight": torch.randn(7, 4, dtype=torch.float16),
    f"{ATTENTION}.query.weight": torch.randn(4, 4),
    f"{ATTENTION}.key.weight": torch.randn(2, 4).bfloat16(),
    f"{ATTENTION}.dense.bias": torch.randn(4),
}
BUFFERS = {
    f"{ATTENTION}.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8),
    f"{ATTENTION}.masked_bias": torch.tensor(-1e9),
    f"{ATTENTION}.rotary_emb.inv_freq": torch.ones(2),
}


class Untrusted:
    """What an attacker would pickle: unpickling it calls a function."""

    def __reduce__(self):
        return print, ("code ran",)


class ToSafetensorsTest(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.source = Path(directory.name) / "source"
        self.out = Path(directory.name) / "out"
        self.source.mkdir()
        (self.source / "config.json").write_text('{"model_type": "gpt_neox"}')

    def run_script(self) -> subprocess.CompletedProcess:
        command = [sys.executable, str(SCRIPT), str(self.source), str(self.out)]
        return subprocess.run(command, capture_output=True, text=True)

    def write_shards(self, *shards: dict) -> None:
        names = [f"pytorch_model-{i:05}-of-{len(shards):05}.bin" for i in range(1, len(shards) + 1)]
        for name, shard in zip(names, shards, strict=True):
            torch.save(shard, self.source / name)
        weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        self.write_index(weight_map)

    def write_index(self, weight_map: dict) -> None:
        index = self.source / "pytorch_model.bin.index.json"
        index.write_text(json.dumps({"weight_map": weight_map}))

    def assert_same_weights(self, written: dict) -> None:
        self.assertEqual(written.keys(), WEIGHTS.keys())
        for name, tensor in WEIGHTS.items():
            self.assertEqual(written[name].dtype, tensor.dtype)
            self.assertTrue(torch.equal(written[name], tensor), name)

    def assert_refused(self, *words: str) -> None:
        result = self.run_script()
        self.assertEqual(result.returncode, 2, result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)
        self.assertNotIn("Traceback", result.stderr)
        self.assertNotIn("code ran", result.stdout)
        self.assertEqual([path.name for path in self.source.parent.iterdir()], ["source"])

    def test_single_file_keeps_dtypes_and_drops_buffers(self) -> None:
        torch.save(WEIGHTS | BUFFERS, self.source / "pytorch_model.bin")
        (self.source / "tokenizer.json").write_text("{}")
        self.assertEqual(self.run_script().returncode, 0)
        self.assert_same_weights(load_file(self.out / "model.safetensors"))
        written = sorted(path.name for path in self.out.iterdir())
        self.assertEqual(written, ["config.json", "model.safetensors", "tokenizer.json"])

    def test_shards_stay_shards(self) -> None:
        items = list((WEIGHTS | BUFFERS).items())
        self.write_shards(dict(items[:2]), dict(items[2:]))
        self.assertEqual(self.run_script().returncode, 0)
        index = json.loads((self.out / "model.safetensors.index.json").read_text())
        self.assertEqual(index["weight_map"].keys(), WEIGHTS.keys())
        files = sorted(set(index["weight_map"].values()))
        self.assertEqual(len(files), 2)
        self.assert_same_weights(
            {k: v for file in files for k, v in load_file(self.out / file).items()}
        )
        self.assertEqual(index["metadata"]["total_size"], sum(t.nbytes for t in WEIGHTS.values()))

    def test_tied_and_strided_tensors(self) -> None:
        tied = torch.randn(3, 5)
        weights = {"a.weight": tied, "b.weight": tied, "c.weight": tied.T}
        torch.save(weights, self.source / "pytorch_model.bin")
        self.assertEqual(self.run_script().returncode, 0)
        written = load_file(self.out / "model.safetensors")
        for name, tensor in weights.items():
            self.assertTrue(torch.equal(written[name], tensor), name)

    def test_code_is_not_run(self) -> None:
        torch.save({"a.weight": Untrusted()}, self.source / "pytorch_model.bin")
        self.assert_refused("pytorch_model.bin", "refused")

    def test_other_contents_are_refused(self) -> None:
        for content in ([torch.ones(1)], {"step": 3}, {4: torch.ones(1)}):
            torch.save(content, self.source / "pytorch_model.bin")
            self.assert_refused("refused")

    def test_broken_files_are_refused(self) -> None:
        path = self.source / "pytorch_model.bin"
        torch.save(WEIGHTS, path)
        whole = path.read_bytes()
        for content in (b"", b"not a pickle", whole[: len(whole) // 2]):
            path.write_bytes(content)
            self.assert_refused("refused")

    def test_missing_files(self) -> None:
        self.assert_refused("neither pytorch_model.bin nor")
        self.write_index({"a": "pytorch_model-00001-of-00001.bin"})
        self.assert_refused("which is not there")
        (self.source / "config.json").unlink()
        self.assert_refused("config.json")

    def test_shard_outside_the_directory(self) -> None:
        self.write_index({"a": "../elsewhere.bin"})
        self.assert_refused("../elsewhere.bin")

    def test_tensor_in_two_shards(self) -> None:
        self.write_shards(WEIGHTS | {"only.here": torch.ones(1)}, WEIGHTS)
        self.assert_refused("in another shard too")

    def test_existing_output_is_left_alone(self) -> None:
        torch.save(WEIGHTS, self.source / "pytorch_model.bin")
        self.out.mkdir()
        result = self.run_script()
        self.assertEqual(result.returncode, 2)
        self.assertIn("exists", result.stderr)
        self.assertEqual(list(self.out.iterdir()), [])


if __name__ == "__main__":
    unittest.main()
