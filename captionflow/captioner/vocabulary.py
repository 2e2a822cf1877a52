"""Tokens, and the vocabulary, which is learnt from the captions and stored with the model."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

PAD, BOS, EOS, UNK = range(4)
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")


def tokenize(clean: str) -> list[str]:
    """Split a caption made by `clean_caption` into its tokens."""
    return clean.split()


def count_tokens(captions: Iterable[str]) -> Counter[str]:
    """Return how often each token occurs in captions made by `clean_caption`."""
    return Counter(token for caption in captions for token in tokenize(caption))


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model; a token's id is its index. The first four are `SPECIAL_TOKENS`."""

    tokens: tuple[str, ...]

    @classmethod
    def build(cls, counts: Mapping[str, int], min_count: int = 1, max_words: int | None = None) -> "Vocabulary":
        """Take tokens with a count of at least `min_count`: most frequent first, ties by name, at most `max_words`."""
        kept = [token for token, count in counts.items() if count >= min_count]
        ranked = sorted(kept, key=lambda token: (-counts[token], token))
        return cls((*SPECIAL_TOKENS, *ranked[:max_words]))

    @classmethod
    def from_json(cls, data: bytes) -> "Vocabulary":
        """Read what `to_json` wrote."""
        return cls(tuple(json.loads(data)))

    def to_json(self) -> bytes:
        """Return the tokens as a JSON array, in the order of their ids."""
        return json.dumps(self.tokens, ensure_ascii=False, indent=0).encode()

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.tokens)}

    def encode(self, caption: str, max_length: int) -> list[int]:
        """Return `BOS token… EOS`, cut to at most `max_length` ids (EOS always last)."""
        ids = [self._ids.get(token, UNK) for token in tokenize(caption)]
        return [BOS, *ids[: max_length - 2], EOS]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the caption of `ids` up to the first EOS, without special tokens."""
        words = []
        for index in ids:
            if index == EOS:
                break
            if index not in (PAD, BOS):
                words.append(self.tokens[index])
        return " ".join(words)
