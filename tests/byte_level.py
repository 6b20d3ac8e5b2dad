"""Small byte-level tokenizers made on the spot, with the parts that real ones have."""

from itertools import product
from typing import Any

from posttrain.data.tokens.ranks import byte_letters

CORPUS = (
    "The quick brown fox doesn't jump; it's lazy, and they'll see 1234567 reasons why.\n\n"
    "    def double(x):\n        return 2 * x  # twice\n\tEND\r\n",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。 Ça naïve cafés, Straße, ПРИВЕТ мир ١٢٣.",
    "a\n\nb c\n\nd e\n\n\nf \n\n\ng",
    "WE'LL I'M user assistant system   spaces  and\ttabs \n \n x = \\frac{1}{2} != 0.5 :-) ... ---",
)


def build_byte_level(
    pattern: str | None, *, merges: Any = None, nfc: bool = False, added: Any = (), **options: Any
) -> Any:
    """Make a tokenizer.

    Args:
        pattern: Cuts words; GPT-2's own, built into the library, where absent.
        merges: Pairs of byte letters; learned from the corpus where absent.
        nfc: Whether texts are normalized.
        added: Special tokens, as texts or as the library's own objects.
        options: Of the BPE model.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    alphabet = list(byte_letters())
    if pattern is None:
        words: Any = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        words = pre_tokenizers.Sequence([split, level])
    if merges is None:
        backend = Tokenizer(models.BPE(**options))
        backend.pre_tokenizer = words
        trainer = trainers.BpeTrainer(
            vocab_size=700, initial_alphabet=alphabet, show_progress=False, special_tokens=[]
        )
        backend.train_from_iterator(CORPUS * 3, trainer)
    else:
        tokens = options.pop("tokens", [*alphabet, *(left + right for left, right in merges)])
        vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
        backend = Tokenizer(models.BPE(vocabulary, list(merges), **options))
        backend.pre_tokenizer = words
    backend.decoder = decoders.ByteLevel()
    if nfc:
        backend.normalizer = normalizers.NFC()
    backend.add_special_tokens([*added, "<|end|>", "<|start|>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", clean_up_tokenization_spaces=False
    )


def all_pairs() -> list[tuple[str, str]]:
    """Merges of any two bytes, in a mixed order: a word that is cut elsewhere has other ids."""
    pairs = list(product(byte_letters(), repeat=2))
    return [pairs[i * 40_503 % len(pairs)] for i in range(len(pairs))]
