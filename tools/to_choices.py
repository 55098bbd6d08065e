"""Turns multiple-choice data sets into what `polystrate eval --task choices` reads, one question a line.

    python tools/to_choices.py arc   ARC-Easy-Test.jsonl            > arc_easy.jsonl
    python tools/to_choices.py piqa  valid.jsonl --labels valid-labels.lst > piqa.jsonl
    python tools/to_choices.py sciq  test.json                      > sciq.jsonl

Queries are worded as lm-evaluation-harness words its tasks arc_easy (arc_challenge), piqa and sciq. Files
may be JSONL or one JSON list, as their authors publish them or as the Hugging Face hub has them.
"""

import argparse
import json
import sys


def from_arc(row):
    question, choices = row["question"], row.get("choices")
    if isinstance(question, dict):  # as AI2 publishes it
        choices, question = question["choices"], question["stem"]
    if isinstance(choices, dict):  # as the hub has it
        choices = [{"label": label, "text": text} for label, text in zip(choices["label"], choices["text"])]
    labels = [choice["label"] for choice in choices]
    return {"query": f"Question: {question}\nAnswer:", "choices": [choice["text"] for choice in choices],
            "gold": labels.index(row["answerKey"])}


def from_piqa(row):
    return {"query": f"Question: {row['goal']}\nAnswer:", "choices": [row["sol1"], row["sol2"]],
            "gold": int(row["label"])}


def from_sciq(row):
    names = ["distractor1", "distractor2", "distractor3", "correct_answer"]
    return {"query": f"{row['support'].lstrip()}\nQuestion: {row['question']}\nAnswer:",
            "choices": [row[name] for name in names], "gold": 3}


FORMATS = {"arc": from_arc, "piqa": from_piqa, "sciq": from_sciq}


def read_rows(path):
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def convert(name, rows):
    """Yields the questions; ends the program at the first row that is none."""
    for number, row in enumerate(rows, 1):
        try:
            yield FORMATS[name](row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            sys.exit(f"row {number} is no {name} question ({error!r}): {json.dumps(row)[:200]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("input")
    parser.add_argument("--labels", help="piqa: the file with the right answers, 0 or 1 a line")
    arguments = parser.parse_args()
    rows = read_rows(arguments.input)
    if arguments.labels:
        with open(arguments.labels, encoding="utf-8") as file:
            labels = file.read().split()
        if len(labels) != len(rows):
            sys.exit(f"{arguments.labels} has {len(labels)} labels, {arguments.input} {len(rows)} questions")
        rows = [dict(row, label=label) for row, label in zip(rows, labels)]
    for question in convert(arguments.format, rows):
        print(json.dumps(question, ensure_ascii=False))


if __name__ == "__main__":
    main()
