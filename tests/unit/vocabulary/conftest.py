"""Small tokenizers of every kind that matters, made on the spot, and short Chinese texts."""

import pytest

from posttrain.vocabulary.bpe import load_byte_bpe

NAMES = "张王李赵刘陈杨黄"
SENTENCES = (
    "患者{}，确诊糖尿病{}年，口服二甲双胍控制血糖。",
    "{}先生有高血压病史{}年，近日血糖升高。",
    "建议{}复查糖化血红蛋白，{}周后随访。\n",
)


@pytest.fixture(scope="session")
def cases():
    """Two dozen sentences of a clinic, in which the same words come again."""
    return [s.format(name, n + 2) for s in SENTENCES for n, name in enumerate(NAMES)]


@pytest.fixture(scope="session")
def tiny_bpe(tiny_tokenizer):
    """The built-in tokenizer as a table of merges."""
    return load_byte_bpe(tiny_tokenizer, "tiny")


@pytest.fixture(scope="session")
def build():
    """Make a byte-level BPE tokenizer; its special tokens follow outside its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    def make(*merges, words=(), special=("<eos>",), ignore_merges=False):
        pairs = [tuple(merge.split("+")) for merge in merges]
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        tokens = [*letters, *map("".join, pairs), *words]
        vocab = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
        made = Tokenizer(models.BPE(vocab, pairs, ignore_merges=ignore_merges))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        made.add_special_tokens(list(special))
        return PreTrainedTokenizerFast(
            tokenizer_object=made, eos_token=special[0], clean_up_tokenization_spaces=False
        )

    return make


@pytest.fixture(scope="session")
def expand():
    """Encode texts and replace new ids by the old ones they stand for."""

    def encode(bpe, texts):
        pieces = bpe.expand()
        return [[p for i in e.ids for p in pieces.get(i, (i,))] for e in bpe.encode(texts)]

    return encode
