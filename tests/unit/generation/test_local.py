import copy

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from posttrain.errors import DataError, NonFiniteError
from posttrain.generation.endings import find_end_ids
from posttrain.generation.generator import GenerationOptions, write_all
from posttrain.generation.in_flight import write_in_flight
from posttrain.generation.local import TransformersGenerator, build_requests
from posttrain.generation.static import write_static
from posttrain.models.attention import slots
from posttrain.models.tiny import ensure_tiny
from tests.reference.test_padded_equality import UNPACKABLE, WINDOWED, build_model


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


WAYS = {"in_flight": write_in_flight, "static": write_static}


SHAPES = [*WINDOWED, "falcon_mamba", "qwen3_next", "gpt_oss"]


def build_other(name):
    return build_model(WINDOWED[name] if name in WINDOWED else UNPACKABLE[name][0])


def write(model, tokenizer, prompts, *, way="in_flight", batch_size=64, seed=0, **changes):
    options = GenerationOptions(**{"max_new_tokens": 24, **changes})
    requests = build_requests(prompts, seed)
    found = dict(WAYS[way](model, tokenizer, requests, options, batch_size))
    return [found[i] for i in range(len(prompts))]


def most_likely(model, prompt, end_ids, room):
    """Greedy decoding by hand: no cache, no padding, no generate."""
    ids = list(prompt)
    for _ in range(room):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in end_ids:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("way", WAYS)
def test_batches_equal_decoding_by_hand_one_by_one(model, tiny_tokenizer, prompts, way):
    found = write(model, tiny_tokenizer, prompts, way=way)
    ends = find_end_ids(model, tiny_tokenizer)
    for prompt, completion in zip(prompts, found, strict=True):
        ids = most_likely(model, prompt, ends, 24)
        finished = ids[-1] in ends
        assert completion.finished == finished
        assert completion.token_count == len(ids)
        kept = ids[:-1] if finished else ids
        assert completion.text == tiny_tokenizer.decode(kept, skip_special_tokens=True)
    assert {completion.finished for completion in found} == {True, False}, "both cases are met"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("batch_size", [1, 3, 10])
def test_batch_size_changes_no_answer(model, tiny_tokenizer, prompts, batch_size, way):
    assert write(model, tiny_tokenizer, prompts, batch_size=batch_size, way=way) == write(
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


@pytest.mark.parametrize("way", WAYS)
def test_room_for_one_token_is_kept_to(model, tiny_tokenizer, prompts, way):
    found = write(model, tiny_tokenizer, prompts, max_new_tokens=1, way=way)
    assert {c.token_count for c in found} == {1}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", ["both", "model only", "none"])
def test_a_tokenizer_without_pad_token_gives_the_same_texts(
    model, tiny_tokenizer, prompts, end, way
):
    bare, quiet = copy.deepcopy(tiny_tokenizer), copy.deepcopy(model)
    bare.pad_token = None
    if end != "both":
        bare.eos_token = None
    if end == "none":
        quiet.generation_config.eos_token_id = None
        assert find_end_ids(quiet, bare) == []
    found = write(quiet, bare, prompts, way=way)
    if end == "none":
        assert {(c.token_count, c.finished) for c in found} == {(24, False)}
    else:
        assert found == write(model, tiny_tokenizer, prompts)


@pytest.mark.parametrize("way", WAYS)
def test_a_chat_models_own_sampling_settings_change_nothing(model, tiny_tokenizer, prompts, way):
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
    assert write(sampling, tiny_tokenizer, prompts, way=way) == write(
        model, tiny_tokenizer, prompts
    )


def test_all_end_tokens_of_model_and_tokenizer_count(model, tiny_tokenizer):
    several = copy.deepcopy(model)
    several.generation_config.eos_token_id = [7, 5]
    assert find_end_ids(several, tiny_tokenizer) == sorted({5, 7, tiny_tokenizer.eos_token_id})


def test_progress_is_told_with_each_completion(model, tiny_tokenizer, prompts):
    told = []
    generator = TransformersGenerator(model, tiny_tokenizer, batch_size=4)
    write_all(generator, build_requests(prompts), GenerationOptions(2), told.append)
    assert told == list(range(1, 11))


def test_sampled_texts_depend_on_their_seeds_alone(model, tiny_tokenizer, prompts):
    options = {"temperature": 1.0, "top_p": 0.95, "top_k": 400}
    alone = [
        write(model, tiny_tokenizer, [prompt], seed=place, **options)[0]
        for place, prompt in enumerate(prompts)
    ]
    seeds = [build_requests([prompt], place)[0] for place, prompt in enumerate(prompts)]
    asked = GenerationOptions(24, **options)
    for way in WAYS.values():
        for batch_size in (3, 10):
            found = dict(way(model, tiny_tokenizer, seeds[::-1], asked, batch_size))
            assert [found[i] for i in range(10)] == alone[::-1]
    others = write(model, tiny_tokenizer, prompts, seed=77, **options)
    assert all(a.token_ids != b.token_ids for a, b in zip(alone, others, strict=True))


@pytest.mark.parametrize("way", WAYS)
def test_logprobs_are_those_of_the_tempered_distribution(model, tiny_tokenizer, prompts, way):
    found = write(model, tiny_tokenizer, prompts, way=way, temperature=0.7, top_p=0.9)
    for prompt, completion in zip(prompts, found, strict=True):
        ids = torch.tensor([[*prompt, *completion.token_ids]])
        with torch.no_grad():
            expected = (model(ids).logits[0, len(prompt) - 1 : -1] / 0.7).log_softmax(-1)
        expected = expected.gather(-1, ids[0, len(prompt) :, None])[:, 0]
        assert torch.allclose(torch.tensor(completion.logprobs), expected, atol=1e-4)
    assert not any(c.logprobs for c in write(model, tiny_tokenizer, prompts, way=way))


def test_a_shared_head_and_twin_prompts_change_no_answer(model, tiny_tokenizer, prompts):
    """Both are computed once; alone, a prompt shares nothing."""
    random = torch.Generator().manual_seed(5)
    head = torch.randint(300, 1500, (600,), generator=random).tolist()
    long = [[*head, *prompt] for prompt in prompts for _ in range(3)]
    alone = [write(model, tiny_tokenizer, [prompt])[0] for prompt in long[::3]]
    assert write(model, tiny_tokenizer, long, batch_size=7) == [c for c in alone for _ in range(3)]
    sampled = write(model, tiny_tokenizer, long, batch_size=7, temperature=1.0)
    assert len({c.token_ids for c in sampled}) == len(long), "twins have seeds of their own"


def test_a_prompt_that_is_the_shared_head_itself_keeps_its_last_token(model, tiny_tokenizer):
    head = list(range(400, 500))
    prompts = [head, [*head, 7], [*head, 7, 9]]
    expected = [write(model, tiny_tokenizer, [prompt])[0] for prompt in prompts]
    assert write(model, tiny_tokenizer, prompts) == expected


def test_long_prompts_are_read_in_parts_beside_others(model, tiny_tokenizer, prompts):
    random = torch.Generator().manual_seed(6)
    long = torch.randint(300, 1500, (1300,), generator=random).tolist()
    expected = write(model, tiny_tokenizer, [long], way="static") + write(
        model, tiny_tokenizer, prompts
    )
    assert write(model, tiny_tokenizer, [long, *prompts], batch_size=4) == expected


@pytest.mark.parametrize("way", WAYS)
def test_stop_texts_end_a_completion_and_only_that(model, tiny_tokenizer, prompts, way):
    whole = write(model, tiny_tokenizer, prompts)
    stop = whole[1].text[5:8]
    found = write(model, tiny_tokenizer, prompts, stop=("never", stop), way=way)
    stopped = 0
    for before, after in zip(whole, found, strict=True):
        if stop in before.text:
            stopped += 1
            assert after.text == before.text[: before.text.index(stop)]
            assert after.finished
            assert after.token_count < before.token_count
            assert after.token_ids == before.token_ids[: after.token_count]
        else:
            assert after == before
    assert 0 < stopped < len(prompts)


def test_attention_is_given_back_also_where_writing_is_cut_short(model, tiny_tokenizer, prompts):
    before = model.config._attn_implementation
    steps = write_in_flight(
        model, tiny_tokenizer, build_requests(prompts), GenerationOptions(24), 2
    )
    next(steps)
    assert model.config._attn_implementation != before
    steps.close()
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("way", WAYS)
def test_broken_weights_are_told(model, tiny_tokenizer, prompts, way):
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.get_input_embeddings().weight[:] = torch.nan
    with pytest.raises(NonFiniteError, match="not a number"):
        write(broken, tiny_tokenizer, prompts, way=way)


@pytest.mark.parametrize("name", SHAPES)
def test_other_architectures_write_what_generate_writes(tiny_tokenizer, name, monkeypatch):
    """Bent scores, windows, heads in groups, scaled embeddings; and one that cannot be packed."""
    model = build_other(name)
    random = torch.Generator().manual_seed(3)
    prompts = [torch.randint(5, 90, (n,), generator=random).tolist() for n in (3, 30, 9, 17, 4)]
    generator = TransformersGenerator(model, tiny_tokenizer, batch_size=2)
    found = write_all(generator, build_requests(prompts), GenerationOptions(20))
    monkeypatch.setattr(slots, "_TURN_BYTES", -1)
    assert write_all(generator, build_requests(prompts), GenerationOptions(20)) == found
    ends = find_end_ids(model, tiny_tokenizer)
    for prompt, completion in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        options = {"max_new_tokens": 20, "do_sample": False, "attention_mask": torch.ones_like(ids)}
        with torch.no_grad():
            expected = model.generate(ids, eos_token_id=ends, **options)[0, len(prompt) :].tolist()
        assert list(completion.token_ids) == expected


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_nothing_is_written_beyond_what_the_model_takes(tiny_tokenizer, kind):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        vocab_size=96,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        eos_token_id=None,
    )
    made = AutoModelForCausalLM.from_config(config).eval()
    generator = TransformersGenerator(made, tiny_tokenizer, batch_size=4)
    requests = build_requests([[5] * length for length in (3, 12, 15, 16, 20)])
    found = write_all(generator, requests, GenerationOptions(8))
    assert [(c.token_count, c.finished) for c in found[:3]] == [(8, False), (4, False), (1, False)]
    assert [c.failure for c in found[3:]] == [
        f"the prompt has {length} tokens, and the model takes 16 in all" for length in (16, 20)
    ]
    with pytest.raises(DataError, match="cannot be answered: the prompt has 16 tokens"):
        write_all(generator, requests, GenerationOptions(8), whole=True)


def test_what_waits_for_the_longest_says_why(tiny_tokenizer, capsys):
    TransformersGenerator(build_other("falcon_mamba"), tiny_tokenizer, batch_size=2)
    assert "wait for their longest: its layers" in capsys.readouterr().err


def test_slots_one_by_one_and_all_at_once_give_the_same(
    model, tiny_tokenizer, prompts, monkeypatch
):
    together = write(model, tiny_tokenizer, prompts)
    monkeypatch.setattr(slots, "_TURN_BYTES", -1)
    assert write(model, tiny_tokenizer, prompts) == together
