"""Chats for the benches: several turns, English with Chinese, code, numbers, emoji and calls.

The English is the manual that every Python brings along, the code its standard library, so that
words come as often as words do; the Chinese is made of sentences of our own. Lengths are lognormal
as those of public chat sets: with Qwen3's tokenizer a median of about 249 tokens, a mean of about
343, and 1 % above 1,700. The same seed and Python give the same rows.

    python bench/chat_rows.py 20000 rows.jsonl
"""

import argparse
import inspect
import itertools
import json
import math
import random
import re
import statistics
import textwrap
from collections.abc import Iterator
from pathlib import Path

MEDIAN_TOKENS = 255  # Asked for; what comes out is a little shorter.
SPREAD = 0.85
_LONGEST_TOKENS = 6_500
# Characters that a token of Qwen3's stands for, measured on these texts.
_CHARACTERS = {"english": 4.2, "chinese": 1.65, "code": 4.1}
_TURN_TOKENS = 9
_EXCHANGES = (1, 2, 3, 4, 5)
_EXCHANGE_WEIGHTS = (45, 25, 15, 10, 5)
_EMOJI = ("🙂", "👍", "🎉", "🚀", "🤔", "😂", "❤️", "👩‍💻", "🇨🇳", "✅")

_WHO = (
    "我们 老师 学生 这个模型 公司 研究人员 用户 医生 他的朋友 图书馆 工程师 市政府 孩子 编辑 农民"
)
_WHEN = "昨天 去年 在 2024 年 每天早上 很久以前 下周三 第 3 季度 最近 通常 有时候 会议之后 春节期间"
_DOES = (
    "讨论了 整理了 重新设计了 比较了 学会了 忘记了 证明了 记录了 翻译了 购买了 测量了 "
    "解释了 分享了 拒绝了"
)
_WHAT = (
    "三种不同的方法 一份关于气候的报告 数据的质量 这道数学题 12.5% 的预算 Python 程序 "
    "一座旧桥 城市的交通"
)
_WHAT += (
    " 新的训练计划 参考文献 一碗牛肉面 孩子们的作业 合同的条款 第二章的内容 太阳能电池 用户的反馈"
)
_WHY = (
    "因为时间不够 以便大家理解 而且效果很好 但是结果并不理想 所以需要再试一次 "
    "虽然成本更高 于是问题解决了"
)
_CHINESE = [words.split() for words in (_WHEN, _WHO, _DOES, _WHAT, _WHY)]
_ASKS = (
    "Please explain this: ",
    "What does it mean? ",
    "Can you help me with: ",
    "Summarize: ",
    "",
)
_ASKS_CHINESE = ("请解释：", "这是什么意思？", "帮我改写一下：", "总结：", "")

_TOOLS = {
    "get_weather": {"city": "string", "unit": "string"},
    "search_papers": {"query": "string", "limit": "integer"},
    "convert_currency": {"amount": "number", "source": "string", "target": "string"},
    "查询航班": {"出发地": "string", "目的地": "string", "日期": "string"},
}
_ARGUMENTS = {
    "get_weather": lambda chance: {"city": chance.choice(["Paris", "北京", "Lagos"]), "unit": "C"},
    "search_papers": lambda chance: {"query": "sparse attention", "limit": chance.randint(1, 50)},
    "convert_currency": lambda chance: {
        "amount": round(chance.uniform(1, 9999), 2), "source": "USD", "target": "CNY"
    },
    "查询航班": lambda chance: {
        "出发地": "上海", "目的地": "成都", "日期": f"2026-0{chance.randint(1, 9)}-15"
    },
}  # fmt: skip


def generate_rows(count: int, seed: int = 0, median_tokens: int = MEDIAN_TOKENS) -> Iterator[dict]:
    """Yield rows ``{messages, tools?}``; tools and arguments are JSON text, as APIs give them."""
    chance = random.Random(seed)
    texts = {"english": _read_sentences(), "code": _read_functions()}
    for _ in range(count):
        yield _make_row(chance, texts, median_tokens)


def generate_lengths(count: int, longest: int, seed: int = 0) -> list[int]:
    """Tokens of chats of that kind, none above ``longest``."""
    chance = random.Random(seed)
    return [_draw_length(chance, MEDIAN_TOKENS, longest) for _ in range(count)]


def write_rows(path: Path, rows: Iterator[dict]) -> None:
    """Write rows as JSON lines, one by one."""
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _draw_length(chance: random.Random, median: float, longest: int) -> int:
    return min(longest, max(12, round(chance.lognormvariate(math.log(median), SPREAD))))


def _make_row(chance: random.Random, texts: dict, median_tokens: int) -> dict:
    tokens = _draw_length(chance, median_tokens, _LONGEST_TOKENS)
    if chance.random() < 0.03:
        return _make_tool_row(chance, texts, tokens)
    language = "chinese" if chance.random() < 0.15 else "english"
    exchanges = chance.choices(_EXCHANGES, _EXCHANGE_WEIGHTS)[0]
    exchanges = max(1, min(exchanges, tokens // 40))
    system = chance.random() < 0.25
    left = max(10, tokens - _TURN_TOKENS * (2 * exchanges + system))
    messages = []
    if system:
        share = min(60, left // 5)
        messages.append({"role": "system", "content": _write(chance, texts, language, share)})
        left -= share
    shares = [chance.uniform(0.5, 1.5) for _ in range(exchanges)]
    for share in shares:
        part = left * share / sum(shares)
        asked = part * chance.uniform(0.15, 0.6)
        ask = chance.choice(_ASKS_CHINESE if language == "chinese" else _ASKS)
        messages.append({"role": "user", "content": ask + _write(chance, texts, language, asked)})
        kind = "code" if chance.random() < 0.15 else language
        messages.append({"role": "assistant", "content": _write(chance, texts, kind, part - asked)})
    return {"messages": messages}


def _make_tool_row(chance: random.Random, texts: dict, tokens: int) -> dict:
    names = chance.sample(list(_TOOLS), chance.randint(1, 3))
    arguments = _ARGUMENTS[names[0]](chance)
    call = {"name": names[0], "arguments": json.dumps(arguments, ensure_ascii=False)}
    left = max(40, tokens - 60 - 80 * len(names))
    result = {"status": "ok", "value": round(chance.uniform(-40, 4000), 3)}
    messages = [
        {"role": "user", "content": _write(chance, texts, "english", left * 0.3)},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call_0", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": "call_0", "content": json.dumps(result)},
        {"role": "assistant", "content": _write(chance, texts, "english", left * 0.7)},
    ]
    return {"messages": messages, "tools": json.dumps([_declare(n) for n in names])}


def _declare(name: str) -> dict:
    properties = {key: {"type": kind, "description": f"{key} of {name}"}
                  for key, kind in _TOOLS[name].items()}  # fmt: skip
    schema = {"type": "object", "properties": properties, "required": list(properties)[:1]}
    described = {"name": name, "description": f"Calls {name}.", "parameters": schema}
    return {"type": "function", "function": described}


def _write(chance: random.Random, texts: dict, kind: str, tokens: float) -> str:
    """Write about ``tokens`` tokens of text."""
    size = max(8, int(tokens * _CHARACTERS[kind]))
    if kind == "chinese":
        text = _write_chinese(chance, size)
    elif kind == "code":
        text = _quote_code(chance, texts["code"], size)
    else:
        text = _take(chance, texts["english"], size)
    if chance.random() < 0.1:
        text += (
            f" {chance.randint(1, 10 ** chance.randint(1, 7)):,} / {chance.uniform(0, 100):.2f}%"
        )
    if chance.random() < 0.08:
        text += " " + chance.choice(_EMOJI)
    return text


def _take(chance: random.Random, sentences: list[str], size: int) -> str:
    """Take sentences that stand together; the last one is cut at a word."""
    place = chance.randrange(len(sentences))
    taken, length = [], 0
    while length < size:
        sentence = sentences[place % len(sentences)]
        taken.append(sentence)
        length += len(sentence) + 1
        place += 1
    separator = "\n\n" if len(taken) > 3 and chance.random() < 0.3 else " "
    text = separator.join(taken)
    cut = text.rfind(" ", 0, size)
    return text[: cut if cut > 0 else size].strip() or "Yes."


def _quote_code(chance: random.Random, functions: list[str], size: int) -> str:
    place = chance.randrange(len(functions))
    taken, length = [], 0
    while length < size:
        taken.append(functions[place % len(functions)])
        length += len(taken[-1])
        place += 1
    text = "\n\n".join(taken)[:size]
    return f"```python\n{text}\n```"


def _write_chinese(chance: random.Random, size: int) -> str:
    taken, length = [], 0
    while length < size:
        sentence = "".join(chance.choice(words) for words in _CHINESE) + chance.choice("。，；！")
        taken.append(sentence)
        length += len(sentence)
    return "".join(taken)[:size]


def _read_sentences() -> list[str]:
    from pydoc_data.topics import topics

    text = re.sub(r"\s+", " ", " ".join(topics[name] for name in sorted(topics)))
    return [sentence for sentence in re.split(r"(?<=[.:?!]) ", text) if len(sentence) > 20]


def _read_functions() -> list[str]:
    modules = [argparse, inspect, itertools, json.decoder, random, statistics, textwrap]
    found = []
    for module in modules:
        for _, member in inspect.getmembers(module, inspect.isfunction):
            if member.__module__ == module.__name__:
                found.append(inspect.getsource(member))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=int)
    parser.add_argument("path", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--median-tokens", type=int, default=MEDIAN_TOKENS)
    options = parser.parse_args()
    write_rows(options.path, generate_rows(options.rows, options.seed, options.median_tokens))


if __name__ == "__main__":
    main()
