"""Questions in plain text for people without JavaScript, screen readers included. A program can read them too.

A question is made from a seed and nothing else: the same seed asks the same question, so that two tabs that load at
once agree. What keeps programs out is not the question but its price: a wait and a bound per address (see step.py).
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
ORDINALS = ("first", "second", "third", "fourth", "fifth")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip
KINDS = {
    "a colour": ("green", "yellow", "purple", "brown", "orange", "white"),
    "an animal": ("horse", "rabbit", "tiger", "goose", "donkey", "whale"),
    "a part of the body": ("elbow", "shoulder", "knee", "finger", "ankle", "chin"),
    "something to eat": ("bread", "cheese", "soup", "rice", "butter", "honey"),
    "a piece of furniture": ("chair", "table", "shelf", "sofa", "desk", "bed"),
}
PLAIN = ("bridge", "candle", "forest", "garden", "harbour", "island", "ladder", "mirror", "needle", "pencil", "river", "window")


@dataclass(frozen=True, slots=True)
class Question:
    """text: what is asked. answer: the one right answer in the form that `canonical` gives."""

    text: str
    answer: str


class _Dice:
    """Even choices out of a seed: SHA-256 in counter mode. The bias of a 64-bit draw over small ranges is below 2^-58."""

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._drawn = 0

    def below(self, bound: int) -> int:
        self._drawn += 1
        block = hashlib.sha256(self._seed + self._drawn.to_bytes(4, "big")).digest()
        return int.from_bytes(block[:8], "big") % bound

    def between(self, low: int, high: int) -> int:
        return low + self.below(high - low + 1)

    def one(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(count)]


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _plus(dice: _Dice) -> Question:
    a, b = dice.between(2, 9), dice.between(2, 9)
    return Question(f"What is {NUMBERS[a]} plus {NUMBERS[b]}?", str(a + b))


def _minus(dice: _Dice) -> Question:
    a, b = dice.between(8, 20), dice.between(1, 7)
    return Question(f"What is {NUMBERS[a]} minus {NUMBERS[b]}?", str(a - b))


def _times(dice: _Dice) -> Question:
    a, b = dice.between(2, 5), dice.between(2, 4)
    return Question(f"What is {NUMBERS[a]} times {NUMBERS[b]}?", str(a * b))


def _largest(dice: _Dice) -> Question:
    picked = dice.some(range(1, 21), 3)
    return Question(f"Which number is the largest: {_listed([NUMBERS[n] for n in picked])}?", str(max(picked)))


def _smallest(dice: _Dice) -> Question:
    picked = dice.some(range(1, 21), 3)
    return Question(f"Which number is the smallest: {_listed([NUMBERS[n] for n in picked])}?", str(min(picked)))


def _alphabet_first(dice: _Dice) -> Question:
    words = dice.some(PLAIN, 3)
    return Question(f"Which word comes first in the alphabet: {_listed(words)}?", min(words))


def _alphabet_last(dice: _Dice) -> Question:
    words = dice.some(PLAIN, 3)
    return Question(f"Which word comes last in the alphabet: {_listed(words)}?", max(words))


def _kind_of(dice: _Dice) -> Question:
    kind = dice.one(tuple(KINDS))
    right = dice.one(KINDS[kind])
    words = dice.some([right, *dice.some(PLAIN, 2)], 3)
    return Question(f"Which of these is {kind}: {_listed(words)}?", right)


def _position(dice: _Dice) -> Question:
    words = dice.some(PLAIN, 5)
    place = dice.below(5)
    return Question(f"What is the {ORDINALS[place]} of these words: {', '.join(words)}?", words[place])


def _how_many(dice: _Dice) -> Question:
    words = dice.some(PLAIN, dice.between(3, 6))
    return Question(f"How many words are in this list: {', '.join(words)}?", str(len(words)))


def _day(dice: _Dice) -> Question:
    today, step = dice.below(7), dice.one((1, -1))
    return Question(f"Which day of the week comes {'after' if step > 0 else 'before'} {DAYS[today]}?", DAYS[(today + step) % 7].lower())


def _month(dice: _Dice) -> Question:
    this, step = dice.below(12), dice.one((1, -1))
    return Question(f"Which month comes {'after' if step > 0 else 'before'} {MONTHS[this]}?", MONTHS[(this + step) % 12].lower())


TEMPLATES: tuple[Callable[[_Dice], Question], ...] = (
    _plus, _minus, _times, _largest, _smallest, _alphabet_first, _alphabet_last, _kind_of, _position, _how_many, _day, _month,
)  # fmt: skip


def make(seed: bytes) -> Question:
    """The question that a seed asks."""
    dice = _Dice(seed)
    return dice.one(TEMPLATES)(dice)


def canonical(answer: str) -> str:
    """An answer as it is compared: case, accents of typing, punctuation and articles do not count; "Seven." is "7"."""
    folded = unicodedata.normalize("NFKC", answer).casefold()
    words = "".join(c if c.isalnum() else " " for c in folded).split()
    if words and words[0] in {"a", "an", "the"}:
        words = words[1:]
    joined = " ".join(words)
    if joined in NUMBERS:
        return str(NUMBERS.index(joined))
    return joined.lstrip("0") or "0" if joined.isdecimal() else joined
