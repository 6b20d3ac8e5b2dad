import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.errors import NonFiniteError
from posttrain.generation.endings import TextStream, build_noise
from posttrain.generation.generator import GenerationOptions, write_all
from posttrain.generation.local import TransformersGenerator, build_requests
from posttrain.generation.sampling import SamplingOptions, choose_token, stream_completion
from posttrain.models.tiny import ensure_tiny


@pytest.fixture(scope="module")
def model(cache_dir):
    """The built-in model, made lively; its end token is likely at times."""
    made = AutoModelForCausalLM.from_pretrained(ensure_tiny("tiny")).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        made.get_input_embeddings().weight[made.generation_config.eos_token_id] *= 2.0
    return made


def prompt(length: int, seed: int = 0) -> list[int]:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(300, 1500, (length,), generator=random).tolist()


def write(model, tokenizer, ids, room=24, **options):
    deltas = list(stream_completion(model, tokenizer, ids, SamplingOptions(room, **options)))
    assert [d.finish_reason for d in deltas[:-1]] == [None] * (len(deltas) - 1)
    return "".join(d.text for d in deltas), deltas[-1]


def write_side_by_side(model, tokenizer, prompts, room):
    generator = TransformersGenerator(model, tokenizer, batch_size=4)
    return write_all(generator, build_requests(prompts), GenerationOptions(room))


def test_greedy_text_is_that_of_completions_side_by_side(model, tiny_tokenizer):
    prompts = [prompt(n, seed=n) for n in (1, 3, 7, 12, 25, 33, 40, 5, 18)]
    expected = write_side_by_side(model, tiny_tokenizer, prompts, 24)
    for ids, completion in zip(prompts, expected, strict=True):
        text, last = write(model, tiny_tokenizer, ids)
        assert text == completion.text
        assert last.token_count == completion.token_count
        assert last.finish_reason == ("stop" if completion.finished else "length")
    assert {completion.finished for completion in expected} == {True, False}, "both cases are met"


def test_long_prompt_is_read_in_chunks_that_can_be_stopped_between(model, tiny_tokenizer):
    ids = prompt(1300)
    (expected,) = write_side_by_side(model, tiny_tokenizer, [ids], 8)
    deltas = list(stream_completion(model, tiny_tokenizer, ids, SamplingOptions(8)))
    assert [d.token_count for d in deltas[:3]] == [0, 0, 1]
    assert "".join(d.text for d in deltas) == expected.text


def test_seed_settles_the_text(model, tiny_tokenizer):
    texts = [write(model, tiny_tokenizer, prompt(5), temperature=1.0, seed=s)[0] for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    free = {write(model, tiny_tokenizer, prompt(5), temperature=1.0)[0] for _ in range(3)}
    assert len(free) == 3


def test_smallest_top_p_is_greedy(model, tiny_tokenizer):
    greedy = write(model, tiny_tokenizer, prompt(5))[0]
    assert write(model, tiny_tokenizer, prompt(5), temperature=1.0, top_p=1e-6, seed=1)[0] == greedy


def test_token_frequencies_are_the_probabilities_within_top_p():
    logits = torch.tensor([0.2, 0.5, 0.3]).log()
    noise = build_noise(0)

    def count(**options):
        drawn = [choose_token(logits, noise=noise, **options) for _ in range(4000)]
        return [drawn.count(token) / 4000 for token in range(3)]

    assert count(temperature=1.0, top_p=1.0) == pytest.approx([0.2, 0.5, 0.3], abs=0.03)
    assert count(temperature=1.0, top_p=0.6) == pytest.approx([0, 0.625, 0.375], abs=0.03)
    squared = [0.04 / 0.38, 0.25 / 0.38, 0.09 / 0.38]
    assert count(temperature=0.5, top_p=1.0) == pytest.approx(squared, abs=0.03)
    assert count(temperature=1e-40, top_p=1.0) == [0, 1, 0]


@pytest.mark.parametrize("length", [1, 3, 9])
def test_stop_text_ends_the_completion_and_is_not_part_of_it(model, tiny_tokenizer, length):
    whole = write(model, tiny_tokenizer, prompt(12, seed=12), room=40)[0]
    place = len(whole) // 2
    stop = whole[place : place + length]
    deltas = list(
        stream_completion(
            model, tiny_tokenizer, prompt(12, seed=12), SamplingOptions(40, stop=("never", stop))
        )
    )
    assert "".join(d.text for d in deltas) == whole[: whole.index(stop)]
    assert deltas[-1].finish_reason == "stop"
    assert deltas[-1].token_count < 40


def test_stop_text_that_never_comes_changes_nothing(model, tiny_tokenizer):
    whole, last = write(model, tiny_tokenizer, prompt(12, seed=12))
    almost = whole[-3:] + "?"  # its start is held back until the end
    assert write(model, tiny_tokenizer, prompt(12, seed=12), stop=(almost,)) == (
        whole,
        write(model, tiny_tokenizer, prompt(12, seed=12), stop=(almost,))[1],
    )
    assert last.finish_reason == "length"


def check_stream(tokenizer, ids):
    stream = TextStream(tokenizer, ())
    pieces = [stream.add(token) for token in ids] + [stream.end()]
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)
    return pieces


def test_streamed_characters_are_whole(tiny_tokenizer):
    ids = tiny_tokenizer("né 😀 中文 ǅ")["input_ids"]
    pieces = check_stream(tiny_tokenizer, ids)
    assert not any("\ufffd" in piece for piece in pieces)
    assert "\ufffd" in check_stream(tiny_tokenizer, ids[:-1])[-1], (
        "half a character is told at the end"
    )


def test_streams_of_any_tokens_join_to_their_text(tiny_tokenizer):
    random = torch.Generator().manual_seed(0)
    for _ in range(50):
        check_stream(
            tiny_tokenizer,
            torch.randint(0, len(tiny_tokenizer), (40,), generator=random).tolist(),
        )


@pytest.mark.parametrize("name", ["qwen3", "minimind"])
def test_streams_of_real_tokenizers_join_to_their_text(shared_data, name):
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "tokenizers" / name)
    random = torch.Generator().manual_seed(0)
    for _ in range(20):
        ids = torch.randint(0, len(tokenizer), (60,), generator=random).tolist()
        check_stream(tokenizer, ids)
    check_stream(tokenizer, tokenizer("Où? 👩‍🚀 한국어 \n\n  x")["input_ids"])


def test_broken_weights_are_one_clear_error(tiny_tokenizer):
    broken = AutoModelForCausalLM.from_pretrained(ensure_tiny("tiny")).eval()
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NonFiniteError, match="not a number"):
        write(broken, tiny_tokenizer, prompt(3))
