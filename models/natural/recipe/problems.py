"""Draw the natural tasks' prompts from public data sets: who learns on what, and what is held out.

Usage: python problems.py FOLDER     (FOLDER holds gsm8k_train.jsonl, mbpp_sanitized.jsonl and mmlu_stem.jsonl)

Writes data/TASK-{tune,heldout}.jsonl, one prompt a line. The files are checked in, so this need not be run again. Rows
are in random order: any first part of a file is a fair sample of it.
"""

import ast
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
REASON = "Please reason step by step, and put your final answer within \\boxed{}."
CHOOSE = "Please reason step by step, and put the letter of your final answer within \\boxed{}."
TUNE = {"gsm8k": 450, "mbpp": 256, "mmlu-stem": 400}
HELDOUT = {"gsm8k": 250, "mbpp": 171, "mmlu-stem": 250}


def gsm8k(row: dict[str, Any], number: int) -> dict[str, Any]:
    solution, _, answer = row["answer"].partition("####")
    del solution  # worked by people; the models are sampled as they are
    return {
        "id": f"gsm8k-train-{number}",
        "messages": [{"role": "system", "content": REASON}, {"role": "user", "content": row["question"].strip()}],
        "reference": answer.strip().replace(",", ""),
    }


def mbpp(row: dict[str, Any], number: int) -> dict[str, Any]:
    """The first assert is the public test, the others are the hidden reference; a lone one is both."""
    check = ast.parse(row["test"]).body[0]
    assert isinstance(check, ast.FunctionDef)
    tests = [ast.unparse(statement) for statement in check.body if isinstance(statement, ast.Assert)]
    sentence = re.search(r"'''\s*(.*?)\s*'''", row["prompt"], re.S)
    assert sentence is not None
    assert tests
    signature = next(line for line in row["prompt"].splitlines() if line.startswith(f"def {row['entry_point']}("))
    text = (
        f"{' '.join(sentence[1].split())}\n\nComplete this Python function, and reply with one code block:\n\n"
        f"```python\n{signature}\n```\n\nIt must pass this test:\n\n```python\n{tests[0]}\n```"
    )
    return {
        "id": row["task_id"].lower().replace("mbppeval/", "mbpp-"),
        "messages": [{"role": "user", "content": text}],
        "inputs": {"tests": tests[:1]},
        "reference": "\n".join(tests[1:] or tests),
    }


def mmlu(row: dict[str, Any], number: int) -> dict[str, Any]:
    options = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", row["choices"], strict=True))
    return {
        "id": f"mmlu-stem-{number}",
        "messages": [
            {"role": "system", "content": CHOOSE},
            {"role": "user", "content": f"{row['question'].strip()}\n{options}"},
        ],
        "inputs": {"choices": row["choices"]},
        "reference": "ABCD"[row["answer"]],
    }


def distinct(prompt: dict[str, Any]) -> bool:
    """Whether its choices differ. Two of the drawn questions have one twice: no letter is their answer."""
    choices = prompt.get("inputs", {}).get("choices", [])
    return len(set(choices)) == len(choices)


def question(prompt: dict[str, Any]) -> str:
    """What it asks for: two of MBPP's problems ask for the same in one sentence, under other names of an argument."""
    return str(prompt["messages"][-1]["content"]).partition("\n\nComplete this Python function")[0]


def main(folder: Path) -> None:
    sources = {
        "gsm8k": ("gsm8k_train.jsonl", gsm8k),
        "mbpp": ("mbpp_sanitized.jsonl", mbpp),
        "mmlu-stem": ("mmlu_stem.jsonl", mmlu),
    }
    DATA.mkdir(exist_ok=True)
    for task, (name, convert) in sources.items():
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        drawn = [convert(row, number) for number, row in enumerate(rows)]
        drawn = list({prompt["messages"][-1]["content"]: prompt for prompt in drawn}.values())
        random.Random(17).shuffle(drawn)
        tune, heldout = TUNE[task], HELDOUT[task]
        held = drawn[tune : tune + heldout]
        asked = {question(prompt) for prompt in held}
        learned = [prompt for prompt in drawn[:tune] if question(prompt) not in asked]
        for part, prompts in (("tune", learned), ("heldout", held)):
            lines = "".join(json.dumps(prompt, ensure_ascii=False) + "\n" for prompt in prompts if distinct(prompt))
            (DATA / f"{task}-{part}.jsonl").write_text(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
