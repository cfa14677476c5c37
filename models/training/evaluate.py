#!/usr/bin/env python3
"""Score a model behind an OpenAI-compatible API on the evaluation questions. Needs only Python.

    python evaluate.py --url http://localhost:8000 --model ramsey-model --show

A gateway that asks for a key finds it in the variable RAMSEY_API_KEY, or in --api-key-file.
"""

import argparse
import json
import os
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

QUESTIONS = Path(__file__).resolve().parent.parent / "ollama" / "eval.jsonl"


def main() -> None:
    """Ask every question, greedily, and print the score as one JSON line."""
    arguments = _arguments()
    questions = [json.loads(line) for line in arguments.questions.read_text("utf-8").splitlines()]
    key = (
        arguments.api_key_file.read_text("utf-8").strip()
        if arguments.api_key_file
        else os.environ.get("RAMSEY_API_KEY")
    )
    put = partial(ask, arguments.url.rstrip("/"), arguments.model, key)
    with ThreadPoolExecutor(arguments.parallel) as pool:
        answers = list(pool.map(put, (question["prompt"] for question in questions)))
    right, asked = Counter[str](), Counter[str]()
    for question, answer in zip(questions, answers, strict=True):
        asked[question["category"]] += 1
        right[question["category"]] += question["expect"] in answer
        if arguments.show and question["expect"] not in answer:
            print(f"WRONG {question['id']}: {question['prompt']}\n  said: {answer}\n  expected: {question['expect']}")
    score = {
        "accuracy": round(right.total() / len(questions), 4),
        "right": right.total(),
        "questions": len(questions),
        "by_category": {category: f"{right[category]}/{asked[category]}" for category in sorted(asked)},
    }
    print(json.dumps(score))


def ask(url: str, model: str, key: str | None, prompt: str) -> str:
    """One answer. Raises urllib.error.HTTPError when the server refuses."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 160,
        "temperature": 0,
        "seed": 1,
    }
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as response:
        return str(json.load(response)["choices"][0]["message"]["content"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://localhost:8000")
    parser.add_argument("--model", default="ramsey-model")
    parser.add_argument("--questions", type=Path, default=QUESTIONS)
    parser.add_argument("--api-key-file", type=Path)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--show", action="store_true", help="print the wrong answers")
    return parser.parse_args()


if __name__ == "__main__":
    main()
