import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.generation.greedy import find_end_ids, generate_greedy
from posttrain.models.tiny import ensure_tiny


@pytest.fixture(scope="module")
def model(cache_dir):
    """The built-in model, its attention far from uniform and its end token likely at times."""
    made = AutoModelForCausalLM.from_pretrained(ensure_tiny("tiny")).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        # Aligned with many hidden states: some completions end, others run out of room.
        made.get_input_embeddings().weight[made.generation_config.eos_token_id] *= 2.0
    return made


@pytest.fixture
def prompts():
    random = torch.Generator().manual_seed(3)
    lengths = [3, 40, 7, 7, 25, 1, 12, 33, 5, 18]
    return [torch.randint(300, 1500, (n,), generator=random).tolist() for n in lengths]


def write(model, tokenizer, prompts, **changes):
    options = {"max_new_tokens": 24, "batch_size": 64, **changes}
    return generate_greedy(model, tokenizer, prompts, **options)


def most_likely(model, prompt, end_ids, room):
    """Greedy decoding by hand: no cache, no padding, no generate."""
    ids = list(prompt)
    for _ in range(room):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in end_ids:
            break
    return ids[len(prompt) :]


def test_batches_equal_decoding_by_hand_one_by_one(model, tiny_tokenizer, prompts):
    found = write(model, tiny_tokenizer, prompts)
    ends = find_end_ids(model, tiny_tokenizer)
    for prompt, completion in zip(prompts, found, strict=True):
        ids = most_likely(model, prompt, ends, 24)
        finished = ids[-1] in ends
        assert completion.finished == finished
        assert completion.token_count == len(ids)
        kept = ids[:-1] if finished else ids
        assert completion.text == tiny_tokenizer.decode(kept, skip_special_tokens=True)
    assert {completion.finished for completion in found} == {True, False}, "both cases are met"


@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_batch_size_and_left_padding_change_no_answer(model, tiny_tokenizer, prompts, batch_size):
    assert write(model, tiny_tokenizer, prompts, batch_size=batch_size) == write(
        model, tiny_tokenizer, prompts
    )


def test_results_are_in_the_order_of_the_prompts(model, tiny_tokenizer, prompts):
    backwards = write(model, tiny_tokenizer, prompts[::-1])
    assert backwards[::-1] == write(model, tiny_tokenizer, prompts)


def test_answers_equal_transformers_own_generate(model, tiny_tokenizer, prompts):
    for prompt, completion in zip(prompts, write(model, tiny_tokenizer, prompts), strict=True):
        ids = torch.tensor([prompt])
        options = {"max_new_tokens": 24, "do_sample": False, "attention_mask": torch.ones_like(ids)}
        output = model.generate(ids, **options)[0, len(prompt) :]
        assert completion.text == tiny_tokenizer.decode(output, skip_special_tokens=True)


def test_room_for_one_token_is_kept_to(model, tiny_tokenizer, prompts):
    assert {c.token_count for c in write(model, tiny_tokenizer, prompts, max_new_tokens=1)} == {1}


@pytest.mark.parametrize("end", ["both", "model only", "none"])
def test_a_tokenizer_without_pad_token_gives_the_same_texts(model, tiny_tokenizer, prompts, end):
    bare, quiet = copy.deepcopy(tiny_tokenizer), copy.deepcopy(model)
    bare.pad_token = None
    if end != "both":
        bare.eos_token = None
    if end == "none":
        quiet.generation_config.eos_token_id = None
        assert find_end_ids(quiet, bare) == []
    found = write(quiet, bare, prompts)
    if end == "none":
        assert {(c.token_count, c.finished) for c in found} == {(24, False)}
    else:
        assert found == write(model, tiny_tokenizer, prompts)


def test_a_chat_models_own_sampling_settings_change_nothing(model, tiny_tokenizer, prompts):
    sampling = copy.deepcopy(model)
    settings = {
        "do_sample": True,
        "temperature": 0.6,
        "top_p": 0.8,
        "top_k": 20,
        "repetition_penalty": 1.5,
        "no_repeat_ngram_size": 2,
        "num_beams": 3,
    }
    sampling.generation_config.update(**settings)
    assert write(sampling, tiny_tokenizer, prompts) == write(model, tiny_tokenizer, prompts)


def test_all_end_tokens_of_model_and_tokenizer_count(model, tiny_tokenizer):
    several = copy.deepcopy(model)
    several.generation_config.eos_token_id = [7, 5]
    assert find_end_ids(several, tiny_tokenizer) == sorted({5, 7, tiny_tokenizer.eos_token_id})


def test_progress_is_told_after_each_batch(model, tiny_tokenizer, prompts):
    told = []
    write(model, tiny_tokenizer, prompts, batch_size=4, max_new_tokens=2, progress=told.append)
    assert told == [4, 8, 10]
