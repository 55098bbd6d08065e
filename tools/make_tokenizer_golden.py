"""Writes tests/golden/tokenizer/: token ids that Hugging Face `tokenizers` gives, which ours must equal.

cases.json has, for GPT-NeoX's tokenizer (read from the shared data, not kept here) and for the tiny
tokenizers beside it, texts with their ids, and for whole corpora and long runs the number of ids and
their FNV-1a hash. The tiny ones are made here, so that a clone without the shared data tests
every branch too; their added tokens have every combination of flags that differs in effect. Those
called spm_* are BPE over characters, in the forms in which SentencePiece's models are published.
"""

import argparse
import copy
import json
import random
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from counter_weights import fnv1a64
from demo_corpus import REPOSITORY, data_dir

OUT = REPOSITORY / "tests" / "golden" / "tokenizer"
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = LLAMA3_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
SHAKESPEARE_LINES = (0, 1, 2, 9, 33, 107, 1205, 15003)
LAMBADA_LINES = (0, 17, 2026)

# What goes wrong where a tokenizer is careless about Unicode, white space or added tokens.
NASTY = [
    "",
    " ",
    "  ",
    "\n",
    " \n \t\r\n  \n",
    "a",
    " a",
    "a  b   c    d",
    "tail space ",
    "tail spaces   ",
    "def f(x):\n        return x\n\n\n    # four\n",
    " " * 23,
    " " * 24,
    " " * 25,
    " " * 100,
    "x" * 200,
    "=" * 70,
    "\t\t\tif",
    "I'll we've they're it's 'tis 'S'LL don't",
    "it\u2019s",
    "3.14159 1,000,000 0x7fff \u00bd\u00b2 \u0663\u0664 \u2167",
    "\u00e9 e\u0301 \u00c5 A\u030a \u212b \u2126 \u1e9b\u0323",
    "q\u0307\u0323 q\u0323\u0307 a\u0345\u0323\u0301",
    "\u0301starts with a mark",
    "\u0958 \u0929\u093c \ufb1d \u2adc \U0001d15e \u0344",
    "\uac00\ub098 \u1100\u1161\u11a8 \u1112\u1161\u11ab\u1100\u1173\u11af \u1161\u11a8",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8 \u304b\u3099 \u4e2d\u6587\u3002\uff01",
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd \u200f\u0645\u0631\u062d\u0628\u0627\u200e",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea "
    "\U0001f44d\U0001f3fd \u2764\ufe0f #\ufe0f\u20e3",
    "\x00 \x01\x02\x1b[31m\x7f a\x00b",
    "\x80 \x85 \x85\x85x \x9f",
    "\u00a0 \u00a0\u00a0x x\u00a0 \u2003\u2009 \u3000\u3000y \u202f\u205f\u1680",
    "\u2028\u2029 a\u2028b \u200b \ufeff x\ufeff",
    "\u180e\u180e x \u180e",
    "\x1c\x1d\x1e\x1f x",
    "zero\u200bwidth \u200cjoin\u200ders\u2060",
    "\u1c89\u1c8a \U00031350\U00031351 \U0001e4d0 \U00010d40",  # newer than Unicode 14
    "\u1715\u0323 \u0c3c\u0301 \u08cc\u031d",  # marks newer than Unicode 9
    "\U0010ffff \ufffe\uffff \ufdd0 \ue000 \U000e0041",
    "Z\u0351\u036e\u0364\u0301\u0300a\u0327\u0328\u0323\u0307lgo",
    "<|endoftext|>",
    "a<|endoftext|>b",
    "  <|endoftext|>  <|padding|>\n",
    "<|endoftext|><|endoftext|>",
    "<|endoftext|",
    "|endoftext|> <|ENDOFTEXT|> <|end\u0301oftext|>",
    "e<|endoftext|>\u0301",
]

# For the tokens of TINY_ADDED, beside what NASTY has.
TINY_TEXTS = [
    "  [l]  [l]x",
    "  [r]  [r]x \n",
    "  [lr] \n [lr]\u00a0[lr]",
    "[w] x[w] [w]x x[w]x ([w]) \u00e9[w] _[w] [w]",
    "caf\u00e9 cafe\u0301 caf\u00e9caf\u00e9 cafe",
    "[n\u00e9] [ne\u0301]",
    "[r]    [r]      x",
    "[r] [s][l] [s] [l]",
    "the theme the[s]me",
    "[s[s]] [[s] [s",
    "\u1100\u1161[s]\u11a8",
]

# For BPE over characters.
SPM_TEXTS = [
    "\u2581",
    "\u2581\u2581the",
    " \u2581 the\u2581fox",
    "<s>",
    "<s> the",
    " <s>the </s> fox",
    "the<s>the<unk>",
    "<0x0A>the<0x41>",
    "the\n\n\tfox\n",
    "\u65e5\u672cthe\u8a9e",
    "\u65e5\u00e9\u65e5",
    "the\ufffdfox",
    "12 345",
]

TINY_ADDED = [
    {"content": "<|end|>", "special": True},
    {"content": "[l]", "lstrip": True},
    {"content": "[r]", "rstrip": True},
    {"content": "[lr]", "lstrip": True, "rstrip": True, "special": True},
    {"content": "[w]", "single_word": True},
    {"content": "caf\u00e9", "normalized": True},
    {"content": "[ne\u0301]", "normalized": False},
    {"content": "   ", "normalized": True},
    {"content": "[s]", "normalized": True},
    {"content": "[s[s]]", "normalized": True, "special": True},
]

TINY_TEXT = (
    "the quick brown fox jumps over the lazy dog, and then the other dog jumps over the fox; "
    "there's nothing they'd rather do than that. Then they rest there. "
) * 4


def tiny_tokenizers() -> dict[str, dict[str, Any]]:
    """tokenizer.json by name."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.NFC()
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        [TINY_TEXT],
        trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False),
    )
    tiny = json.loads(trained.to_str())
    add_tokens(tiny)
    end_id = len(tiny["model"]["vocab"])

    split = copy.deepcopy(tiny)  # as Llama 3 does it
    split["normalizer"] = None
    split["pre_tokenizer"] = split_then_bytes(LLAMA3_PATTERN)
    split["model"]["ignore_merges"] = True
    split["model"]["merges"] = [" ".join(pair) for pair in tiny["model"]["merges"][:40]]
    split["post_processor"] = {
        "type": "Sequence",
        "processors": [
            {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
            template(prefix={"<|end|>": end_id}),
        ],
    }

    qwen = copy.deepcopy(tiny)  # as Qwen 2 does it
    qwen["pre_tokenizer"] = split_then_bytes(QWEN2_PATTERN)
    qwen["added_tokens"] = qwen["added_tokens"][:1]

    digits = copy.deepcopy(qwen)  # as SmolLM does it
    digits["normalizer"] = None
    digits["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, tiny["pre_tokenizer"]],
    }

    prefix = copy.deepcopy(tiny)  # as RoBERTa does it
    prefix["pre_tokenizer"]["add_prefix_space"] = True
    prefix["added_tokens"] = prefix["added_tokens"][:1]
    return {
        "tiny": tiny,
        "tiny_split": split,
        "tiny_prefix": prefix,
        "tiny_qwen": qwen,
        "tiny_digits": digits,
    }


def add_tokens(tokenizer: dict[str, Any]) -> None:
    first = len(tokenizer["model"]["vocab"])
    for index, token in enumerate(TINY_ADDED):
        flags = dict.fromkeys(("special", "lstrip", "rstrip", "single_word", "normalized"), False)
        tokenizer["added_tokens"].append({"id": first + index, **flags, **token})


def split_then_bytes(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": False,
    }
    return {"type": "Sequence", "pretokenizers": [split, byte_level]}


def template(prefix: dict[str, int], suffix: dict[str, int] | None = None) -> dict[str, Any]:
    """A post-processor that puts special tokens, ids by name, before and after a text."""
    suffix = suffix or {}

    def special(name: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": name, "type_id": 0}}

    def text(name: str) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": 0}}

    one = [*map(special, prefix), text("A"), *map(special, suffix)]
    return {
        "type": "TemplateProcessing",
        "single": one,
        "pair": [*one, text("B")],
        "special_tokens": {
            name: {"id": name, "ids": [token], "tokens": [name]}
            for name, token in {**prefix, **suffix}.items()
        },
    }


def train_characters(split: bool) -> dict[str, Any]:
    """BPE over characters. Without `split` some tokens have spaces between words."""
    trained = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    trained.normalizer = normalizers.Replace(" ", "\u2581")
    if split:
        trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"]
    trained.train_from_iterator(
        [TINY_TEXT + "  " * 9 + "caf\u00e9"],
        trainers.BpeTrainer(
            vocab_size=370,
            special_tokens=special + [f"<0x{byte:02X}>" for byte in range(256)],
            show_progress=False,
        ),
    )
    tokenizer = json.loads(trained.to_str())
    tokenizer["added_tokens"] = tokenizer["added_tokens"][: len(special)]
    add_tokens(tokenizer)
    return tokenizer


def spm_tokenizers() -> dict[str, dict[str, Any]]:
    """tokenizer.json by name."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    prepend = {"type": "Prepend", "prepend": "\u2581"}
    legacy = {"type": "Sequence", "normalizers": [prepend, replace]}
    fuse = [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    by_spaces = {"String": " "}
    words = train_characters(split=True)
    phrases = train_characters(split=False)

    def metaspace(prepend_scheme: str, split: bool) -> dict[str, Any]:
        return {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": prepend_scheme,
            "split": split,
        }

    def make(base: dict[str, Any], model: dict[str, Any], **parts: Any) -> dict[str, Any]:
        made = {**copy.deepcopy(base), "pre_tokenizer": None, "normalizer": None, **parts}
        made["model"].update(model)
        return made

    def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
        return {"type": "Sequence", "decoders": list(steps)}

    llama = make(  # Llama 2, TinyLlama, Mistral
        words,
        {},
        normalizer=legacy,
        decoder=sequence(*fuse, strip),
        post_processor=template({"<s>": 1}),
    )
    few_bytes = copy.deepcopy(llama)
    vocab = few_bytes["model"]["vocab"]
    for byte in range(0x80, 0x100, 3):
        vocab[f"<{byte}>"] = vocab.pop(f"<0x{byte:02X}>")
    few_bytes["decoder"] = sequence(*fuse[1:], fuse[0], strip)
    return {
        "spm_llama": llama,
        "spm_few_bytes": few_bytes,
        "spm_first": make(
            words,
            {},
            pre_tokenizer=metaspace("first", split=False),
            decoder=sequence(*fuse, strip),
            post_processor=template({"<s>": 1}, {"</s>": 2}),
        ),
        "spm_always": make(
            words,
            {"byte_fallback": False},
            pre_tokenizer=metaspace("always", split=True),
            decoder=metaspace("always", split=True),
        ),
        "spm_never": make(
            words,
            {"byte_fallback": False, "fuse_unk": False},
            pre_tokenizer=metaspace("never", split=True),
            decoder=metaspace("never", split=True),
        ),
        "spm_gemma": make(
            phrases,
            {},
            normalizer=replace,
            pre_tokenizer={
                "type": "Split",
                "pattern": by_spaces,
                "behavior": "MergedWithPrevious",
                "invert": False,
            },
            decoder=sequence(*fuse),
            post_processor=template({"<s>": 1}),
        ),
        "spm_next": make(
            phrases,
            {"ignore_merges": True},
            normalizer=legacy,
            pre_tokenizer={
                "type": "Split",
                "pattern": {"String": "\u2581"},
                "behavior": "MergedWithNext",
                "invert": False,
            },
            decoder=sequence(*fuse, strip),
        ),
    }


def hash_ids(texts: list[list[int]]) -> dict[str, Any]:
    """The hash is over a line a text, its ids in decimal with commas between."""
    lines = "".join(",".join(map(str, ids)) + "\n" for ids in texts)
    return {"num_ids": sum(map(len, texts)), "fnv1a64": f"{fnv1a64(lines):016x}"}


def make_case(tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    ids = tokenizer.encode(text).ids
    case: dict[str, Any] = {"text": text, "ids": ids}
    for key, skip in (("decoded", False), ("decoded_skipping_special", True)):
        decoded = tokenizer.decode(ids, skip_special_tokens=skip)
        if decoded != text:
            case[key] = decoded
    return case


def make_decodes(tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Random ids, most of them bytes in some: what no text encodes to, but a model may write."""
    generator = random.Random(11)
    size = tokenizer.get_vocab_size()
    byte_ids = [i for i in range(size) if tokenizer.id_to_token(i).startswith("<0x")]
    characters = [
        [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in text.encode()]
        for text in ("\n", " ", "\u00e9", "\u2581", "\u65e5", "\U0001f600")
    ]
    decodes = []
    for _ in range(60):
        ids: list[int] = []
        share = generator.random()
        for _ in range(generator.randrange(1, 9)):
            if generator.random() > share:
                ids.append(generator.randrange(size))
            elif generator.random() < 0.3:
                ids.append(generator.choice(byte_ids))
            else:
                ids += [i for i in generator.choice(characters) if i is not None]
        texts = [tokenizer.decode(ids, skip_special_tokens=skip) for skip in (False, True)]
        decodes.append({"ids": ids, "decoded": texts[0], "decoded_skipping_special": texts[1]})
    return decodes


def make_run(tokenizer: Tokenizer, text: str, repeat: int) -> dict[str, Any]:
    return {
        "text": text,
        "repeat": repeat,
        **hash_ids([tokenizer.encode(text * repeat).ids]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    shakespeare = (data_dir() / "shakespeare.txt").read_text()
    lambada_lines = (data_dir() / "lambada_test.jsonl").read_text().splitlines()
    lambada = [json.loads(line)["text"] for line in lambada_lines]
    lines = shakespeare.splitlines()
    some = [lines[i] for i in SHAKESPEARE_LINES] + [lambada[i] for i in LAMBADA_LINES]

    neox = Tokenizer.from_file(str(data_dir() / "gpt_neox_20b_tokenizer.json"))
    golden: dict[str, Any] = {
        "source": f"tools/make_tokenizer_golden.py, tokenizers {tokenizers.__version__}",
        "gpt_neox": {
            "cases": [make_case(neox, text) for text in NASTY + some],
            "runs": [make_run(neox, t, n) for t, n in (("a", 1_000_000), (" ", 100_000), ("ab ", 9))],
            "shakespeare.txt": hash_ids([neox.encode(shakespeare).ids]),
            "lambada_test.jsonl": hash_ids([neox.encode(text).ids for text in lambada]),
        },
    }
    for name, tiny in (tiny_tokenizers() | spm_tokenizers()).items():
        text = json.dumps(tiny, separators=(",", ":"))
        (out / f"{name}.json").write_text(text + "\n")
        tokenizer = Tokenizer.from_str(text)
        spm = name.startswith("spm")
        texts = NASTY + TINY_TEXTS + (SPM_TEXTS if spm else []) + some[:3]
        golden[name] = {
            "cases": [make_case(tokenizer, text) for text in texts],
            "runs": [make_run(tokenizer, t, n) for t, n in (("the", 40_000), ("e\u0301 ", 99))],
        }
        if spm:
            golden[name]["decodes"] = make_decodes(tokenizer)
    entries = ",\n".join(f"{json.dumps(k)}:{write_lines(v)}" for k, v in golden.items())
    (out / "cases.json").write_text("{\n" + entries + "\n}\n")


def write_lines(value: Any) -> str:
    """JSON with one case a line, so that a change of one shows as one."""
    if isinstance(value, str):
        return json.dumps(value)
    members = []
    for key, member in value.items():
        if isinstance(member, list):
            rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in member)
            members.append(f"{json.dumps(key)}:[\n{rows}]")
        else:
            members.append(f"{json.dumps(key)}:{json.dumps(member)}")
    return "{\n" + ",\n".join(members) + "}"


if __name__ == "__main__":
    main()
