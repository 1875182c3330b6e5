"""The words of the demo: names of its animals, names of absent objects, and a tokenizer in which each is one token."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from pipeline.seem.prompts import TEMPLATES, fill_templates

# Names of each class, the class name first.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "background": ("background",),  # no synonyms: the background's name and void are the same text, as in SEEM
    "fish": ("fish", "small fish", "tropical fish"),
    "starfish": ("starfish", "sea star"),
    "shell": ("shell", "seashell", "clam", "scallop"),
    "turtle": ("turtle", "sea turtle", "tortoise"),
    "jellyfish": ("jellyfish", "medusa", "sea jelly"),
}
ABSENT: tuple[str, ...] = (
    *("anchor", "bicycle", "bird", "boat", "bottle", "car", "cat", "chair", "coral", "crab", "cup", "diver", "dog"),
    *("dolphin", "eel", "horse", "house", "lobster", "octopus", "penguin", "person", "ray", "seahorse", "seal"),
    *("shark", "shrimp", "sponge", "squid", "submarine", "table", "tree", "whale"),
)
LONGEST_TEXT = 77  # tokens, as in CLIP
WORD_END = "</w>"
SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")  # the last two ids; SEEM finds the end as the largest id

Pair = tuple[str, str]


def build_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with a small vocabulary: one token per word of the demo's texts, bytes for all other words."""
    names = [name for synonyms in SYNONYMS.values() for name in synonyms]
    merges = learn_merges(text for name in [*names, *ABSENT] for text in fill_templates(name, TEMPLATES))
    symbols = sorted(ByteLevel.alphabet())
    entries = [*symbols, *(symbol + WORD_END for symbol in symbols), *map("".join, merges), *SPECIAL_TOKENS]
    return CLIPTokenizer(
        vocab={entry: number for number, entry in enumerate(entries)}, merges=merges, model_max_length=LONGEST_TEXT
    )


def learn_merges(texts: Iterable[str]) -> list[Pair]:
    """Byte-pair encoding until every word is one token. Each step merges the most common pair.

    Ties are broken by alphabetical order, so the same texts give the same vocabulary. The trainer of `tokenizers`
    breaks ties at random.
    """
    pieces = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    counts = Counter(word for text in texts for word, _ in pieces.pre_tokenize_str(text))
    words = {word: [*word[:-1], word[-1] + WORD_END] for word in counts}
    merges = []
    while pair := _most_common_pair(words, counts):
        merges.append(pair)
        words = {word: _merged(symbols, pair) for word, symbols in words.items()}
    return merges


def _most_common_pair(words: Mapping[str, Sequence[str]], counts: Mapping[str, int]) -> Pair | None:
    """The pair of neighbouring symbols with the largest count; None if every word is a single symbol."""
    pairs: Counter[Pair] = Counter()
    for word, symbols in words.items():
        for pair in pairwise(symbols):
            pairs[pair] += counts[word]
    return min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)


def _merged(symbols: Sequence[str], pair: Pair) -> list[str]:
    """The symbols of a word, with every occurrence of the pair merged into one symbol."""
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged
