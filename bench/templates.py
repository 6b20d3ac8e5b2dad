"""What each chat template of a folder can train, and how fast conversations are cut.

    python bench/templates.py CHAT_TEMPLATES_FOLDER TOKENIZER_FOLDER [ROWS.jsonl]

The table is the one of docs/data.md. The speed is that of Qwen3's template, in this process, once
by renders with marks and once with skeletons, on generated chats and on the rows of the file
(`bench/chat_rows.py`).
"""

import gc
import json
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from posttrain.data.formats.messages import convert_messages
from posttrain.data.records import Chat, RowError
from posttrain.data.templates import ChatRenderer

TOKENS = (
    r"<[|｜][^|｜<>{}'\" ]+[|｜]>|<(?:start|end)_of_turn>|\[/?[A-Z_]+\]|<reserved_\d+>|\[gMASK\]sop"
)
ASK, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}
SYSTEM = {"role": "system", "content": "Be kind."}
FUNCTION = {"name": "look", "description": "d", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"id": "call00001", "type": "function", "function": {"name": "look", "arguments": {"q": 1}}}
RESULT = {"role": "tool", "content": "blue", "tool_call_id": "call00001", "name": "look"}
THINKS = {"role": "assistant", "content": "<think>\nwhy\n</think>\n\nYes."}
ASPECTS = {
    "turns": Chat((ASK, ANSWER, ASK, ANSWER)),
    "system": Chat((SYSTEM, ASK, ANSWER)),
    "tools": Chat((ASK, {**ANSWER, "content": "", "tool_calls": [CALL]}, RESULT, ANSWER), (TOOL,)),
    "reasoning": Chat((ASK, {**ANSWER, "reasoning_content": "why"})),
    "`<think>` text": Chat((ASK, THINKS)),
}
LABELS = {
    "the template ends no": "no end",
    "training prompt and": "prompt differs",
    "the template drops": "dropped",
    "the template refuses": "raises",
    "the template rewrites": "rewritten",
}
WORDS = ("how", "much", "does", "a", "tree", "grow", "in", "the", "year", "that", "follows", "it")


def tokenizer_of(tokenizer: Any, text: str) -> Any:
    """Give the tokenizer a template, and the special tokens that it writes."""
    tokenizer.eos_token = "</s>" if "eos_token" in text else "<|im_end|>"
    tokenizer.bos_token = "<s>" if "bos_token" in text else None
    tokenizer.chat_template = text
    return tokenizer


def describe(renderer: ChatRenderer) -> list[str]:
    """Say for each aspect whether it is trained, or why not."""
    cells = []
    for chat in ASPECTS.values():
        try:
            renderer.split_trained(chat, "last_assistant")
            cells.append("yes")
        except RowError as error:
            cells.append(next(v for k, v in LABELS.items() if error.reason.startswith(k)))
    return cells


def print_table(folder: Path, tokenizer: Any) -> None:
    """Print a row for every template."""
    paths = sorted(folder.rglob("*.jinja"), key=lambda path: path.stem.lower())
    texts = {path.stem: path.read_text(encoding="utf-8") for path in paths}
    tokens = sorted({token for text in texts.values() for token in re.findall(TOKENS, text)})
    tokenizer.add_special_tokens({"additional_special_tokens": ["<s>", "</s>", *tokens]})
    print(f"| template | {' | '.join(ASPECTS)} |")
    for name, text in texts.items():
        cells = describe(ChatRenderer(tokenizer_of(tokenizer, text)))
        print(f"| {name} | {' | '.join(cells)} |")


def random_chats(turns: int, count: int) -> list[Chat]:
    """Chats of English words, 60 a turn; with tools where there are no turns."""
    source = random.Random(turns)

    def text(words: int) -> str:
        return " ".join(source.choices(WORDS, k=words))

    if turns:
        sides = (("user", "assistant")[n % 2] for n in range(turns))
        roles = list(sides)
        return [
            Chat(tuple({"role": role, "content": text(60)} for role in roles)) for _ in range(count)
        ]
    chats = []
    for _ in range(count):
        call = {"type": "function", "function": {"name": "look", "arguments": {"at": text(3)}}}
        tools = tuple(
            {"type": "function", "function": {**FUNCTION, "name": name, "description": text(12)}}
            for name in ("look", "find")
        )
        ask, answer = ({"role": role, "content": text(30)} for role in ("user", "assistant"))
        calling = {"role": "assistant", "content": "", "tool_calls": [call]}
        chats.append(Chat((ask, calling, {"role": "tool", "content": text(30)}, answer), tools))
    return chats


def microseconds(cut: Callable[[Chat], Any], chats: Sequence[Chat]) -> float:
    """Mean time of a chat; those that are refused count too."""
    start = time.perf_counter()
    for chat in chats:
        try:
            cut(chat)
        except RowError:
            continue
    return (time.perf_counter() - start) / len(chats) * 1e6


def print_speed(name: str, tokenizer: Any, chats: Sequence[Chat]) -> None:
    """Measure three times, each time from the beginning, and print the medians."""
    marked, filled = [], []
    for _ in range(3):
        renderer = ChatRenderer(tokenizer)
        some = chats[:300]
        marked.append(
            microseconds(lambda c, r=renderer: r.split_by_marks(c, "all_assistant"), some)
        )
        filled.append(
            microseconds(lambda c, r=renderer: r.split_trained(c, "all_assistant"), chats)
        )
    counts = renderer.counts
    print(
        f"{name}: {statistics.median(marked):.0f} us by marks, "
        f"{statistics.median(filled):.1f} us with skeletons; {len(chats):,} rows, "
        f"{counts['filled']:,} filled, {counts['made']} skeletons made, {counts['wrong']} wrong"
    )


def main() -> None:
    """Print the table, then the speed."""
    folder, place, *rows = map(Path, sys.argv[1:])
    tokenizer = AutoTokenizer.from_pretrained(place)
    qwen3 = AutoTokenizer.from_pretrained(place)
    print_table(folder, tokenizer)
    gc.collect()
    gc.freeze()  # as in the workers: what is loaded once is not searched for garbage again
    for name, turns in (("2 turns", 2), ("6 turns", 6), ("tools", 0)):
        print_speed(name, qwen3, random_chats(turns, 2000))
    for path in rows:
        lines = path.read_text(encoding="utf-8").splitlines()
        print_speed(path.name, qwen3, [convert_messages(json.loads(line)) for line in lines])


if __name__ == "__main__":
    main()
