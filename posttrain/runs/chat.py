"""A conversation with a model in the terminal."""

from __future__ import annotations

import sys
from typing import Any

from posttrain.config.chat import ChatConfig
from posttrain.config.model import ModelConfig
from posttrain.logs import say
from posttrain.runs.find import find_latest_model


def chat_with(config: ChatConfig) -> None:
    """Read turns from standard input and write the model's answers, until an empty line.

    Raises:
        PosttrainError: The model cannot be loaded or has no chat template.
    """
    import torch
    from transformers import TextStreamer

    from posttrain.data.templates import ChatRenderer
    from posttrain.data.tokens import encode_rendered
    from posttrain.generation.endings import find_end_ids
    from posttrain.models.load import load_model, load_tokenizer
    from posttrain.models.trained_template import compare_templates, digest_template
    from posttrain.runtime import set_seed

    source = ModelConfig(
        path=find_latest_model(config.model), trust_remote_code=config.trust_remote_code
    )
    tokenizer = load_tokenizer(source)
    renderer = ChatRenderer(tokenizer)
    compare_templates(source.path, digest_template(tokenizer))
    model = load_model(source, attention="sdpa", dtype="float32")
    set_seed(config.seed)
    say(f"talking to {source.path}; an empty line or Ctrl-D ends")
    messages: list[dict[str, Any]] = []
    if config.system:
        messages.append({"role": "system", "content": config.system})
    while turn := _read_turn():
        messages.append({"role": "user", "content": turn})
        text = renderer.render(messages, prompt=True)
        prompt = torch.tensor([encode_rendered(text, tokenizer)])
        sampling = {"temperature": config.temperature, "top_p": config.top_p, "top_k": 0}
        output = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=config.max_new_tokens,
            do_sample=config.temperature > 0,
            **(sampling if config.temperature > 0 else dict.fromkeys(sampling)),
            eos_token_id=find_end_ids(model, tokenizer),
            pad_token_id=tokenizer.pad_token_id,
            streamer=TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
        )
        written = output[0, prompt.shape[1] :]
        answer = tokenizer.decode(written, skip_special_tokens=True)
        messages.append({"role": "assistant", "content": answer})


def _read_turn() -> str:
    """Read one turn; empty at the end of input."""
    if sys.stdin.isatty():
        sys.stderr.write("> ")
        sys.stderr.flush()
    return sys.stdin.readline().strip()
