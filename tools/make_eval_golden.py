"""Writes tests/golden/eval: what lm-evaluation-harness makes of given log-likelihoods, and how it cuts texts
into tokens. `polystrate eval` must do the same; see tests/launcher.

A stand-in for a model answers the harness with made-up numbers, so that no model is needed, and the harness's
own tasks (arc_easy, piqa, sciq, lambada_openai) read our hand-written questions in place of their data sets.
"""

import glob
import json
import os
import random

os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"

import lm_eval
import transformers
import yaml
from lm_eval.api.model import TemplateLM

import to_choices
from lm_eval_polystrate import metrics_of

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
FOLDER = os.path.join(ROOT, "tests", "golden", "eval")
TASKS = {"arc_easy": "arc", "piqa": "piqa", "sciq": "sciq", "lambada_openai": None}


class StandIn(TemplateLM):
    """Answers at random, and remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(os.path.join(ROOT, "models", "demo"))
        self.random = random.Random(3)
        self.asked, self.answers = [], []

    @property
    def eot_token_id(self):
        return self.tokenizer.eos_token_id

    def tok_encode(self, string, add_special_tokens=None, **_):
        return self.tokenizer.encode(string)

    def _loglikelihood_tokens(self, requests, **_):
        for texts, context, continuation in requests:
            self.asked.append((texts, context, continuation))
            # Of a size that makes length matter to the choice.
            logprob = -len(continuation) * self.random.uniform(0.4, 1.2)
            self.answers.append((logprob, self.random.random() < 0.4))
        return self.answers[-len(requests):]

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError

    def generate_until(self, requests, disable_tqdm=False):
        raise NotImplementedError


def harness_task(name, data):
    """The harness's own task, its words untouched, on `data`."""
    found = glob.glob(os.path.join(os.path.dirname(lm_eval.__file__), "tasks", "*", f"{name}.yaml"))
    with open(found[0]) as file:
        task = yaml.safe_load(file)
    for key in ("dataset_name", "training_split", "validation_split", "tag"):
        task.pop(key, None)
    task.update(dataset_path="json", dataset_kwargs={"data_files": {"test": data}}, test_split="test")
    if task["output_type"] == "multiple_choice":
        metric = dict(task["metric_list"][0], metric="acc_bytes")
        task["metric_list"].append(metric)
    return task


def run(name):
    """What the harness asks and answers for one task, beside our own file for it."""
    ours = TASKS[name]
    data = os.path.join(FOLDER, f"{name if ours else 'lambada'}.jsonl")
    model = StandIn()
    results = lm_eval.simple_evaluate(model=model, tasks=[harness_task(name, data)])
    if ours:
        questions = list(to_choices.convert(ours, to_choices.read_rows(data)))
        pairs = [(q["query"], " " + choice) for q in questions for choice in q["choices"]]
        assert pairs == [texts for texts, _, _ in model.asked], "to_choices.py words a task otherwise"
    return model, {
        "task": "choices" if ours else "lambada",
        "questions": questions if ours else to_choices.read_rows(data),
        "log_likelihoods": [logprob for logprob, _ in model.answers],
        "greedy": [greedy for _, greedy in model.answers],
        "metrics": metrics_of(results["results"][name]),
    }


def odd_pairs(model):
    """Contexts that end with white space of all kinds, or are empty."""
    texts = [("", " word"), ("", "<|endoftext|> word"), ("one two ", "three"), ("one two  ", " three"),
             ("line\n", "next"), ("line\n\n", " next"), ("tab\t \x1c\x1f", "x"), ("wide\u3000\u00a0", "x"),
             ("no\u200b", "x"), ("caf\u00e9 \u2028", "cr\u00e8me"), (" lead", " t"), ("a", "b"), ("hel", "lo")]
    for context, continuation in texts:
        before = len(model.asked)
        model.loglikelihood([type("Request", (), {"args": (context, continuation)})], disable_tqdm=True)
        yield from model.asked[before:]


def main():
    golden = {"tasks": {}, "pairs": []}
    for name in TASKS:
        model, golden["tasks"][name] = run(name)
        for texts, context, continuation in [*model.asked, *(odd_pairs(StandIn()) if name == "piqa" else [])]:
            golden["pairs"].append({"context": texts[0], "continuation": texts[1], "context_ids": context,
                                    "continuation_ids": continuation})
    with open(os.path.join(FOLDER, "lm_eval.json"), "w") as file:
        json.dump(golden, file)
        file.write("\n")


if __name__ == "__main__":
    main()
