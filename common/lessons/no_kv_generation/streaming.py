"""02.2: text that streams in whole characters."""
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import torch

from common.checking.compare import expect_equal
from common.checking.draw import integer
from common.checking.exercise import Check, Exercise, Mismatch, Rng, Values

Tokens = list[list[int]]  # id i stands for the bytes tokens[i]

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WIDE = "éßñøč€日本語語の🪁🥧🐈"  # two, three and four bytes in UTF-8
KITE = "🪁".encode()


def decoded(tokens: Tokens) -> str:
    """As a byte-level tokenizer decodes, which drops the first space."""
    return b"".join(map(bytes, tokens)).decode("utf-8", errors="replace").removeprefix(" ")


def draw_text(rng: Rng, words: int, alphabet: str) -> str:
    """Each word after a space, the first one too."""
    return "".join(" " + "".join(rng.choice(list(alphabet), integer(rng, 1, 5))) for _ in range(words))


def cut(rng: Rng, data: bytes, longest: int) -> Tokens:
    """Pieces of 1 to `longest` bytes, wherever that cuts."""
    pieces, start = [], 0
    while start < len(data):
        end = start + integer(rng, 1, longest)
        pieces.append(list(data[start:end]))
        start = end
    return pieces


def expect_text(tokens: Tokens, pieces: list[str], after: list[int]) -> None:
    expect_equal("joined text", "".join(pieces), decoded(tokens).rstrip("\ufffd"))


@dataclass(frozen=True, kw_only=True)
class StreamCheck(Check):
    """Every id is a token of its own. `judged(tokens, pieces, after)` learns after how many ids each piece came."""

    tokens: Callable[[Rng], Tokens]
    judged: Callable[[Tokens, list[str], list[int]], None] = expect_text
    draws: int = 10

    def draw(self, rng: Rng, dtype: torch.dtype) -> Values:
        return {"tokens": self.tokens(rng)}

    def drive(self, lab: ModuleType, inputs: Values) -> Values:
        tokens, taken, pieces, after = inputs["tokens"], [], [], []

        def arriving() -> Iterator[int]:
            for id in range(len(tokens)):
                taken.append(id)
                yield id

        for piece in lab.stream_text(arriving(), lambda ids: decoded([tokens[id] for id in ids])):
            pieces.append(piece)
            after.append(len(taken))
        return {"pieces": pieces, "after": after}

    def judge(self, inputs: Values, outputs: Values) -> None:
        self.judged(inputs["tokens"], outputs["pieces"], outputs["after"])


def expect_whole_characters(tokens: Tokens, pieces: list[str], after: list[int]) -> None:
    halves = [piece for piece in pieces if "\ufffd" in piece]
    if halves:
        raise Mismatch(f"{len(halves)} pieces hold U+FFFD, the first of them {halves[0]!r}")
    expect_text(tokens, pieces, after)


def expect_text_at_once(tokens: Tokens, pieces: list[str], after: list[int]) -> None:
    if "" in pieces:
        raise Mismatch("an empty piece was yielded")
    for taken in range(1, len(tokens) + 1):
        due = decoded(tokens[:taken])
        shown = "".join(piece for piece, ids in zip(pieces, after, strict=True) if ids <= taken)
        if not due.endswith("\ufffd") and shown != due:
            raise Mismatch(f"after {taken} ids {due[-20:]!r} was due, and {shown[-20:]!r} had been yielded")


def unfinished(rng: Rng) -> Tokens:
    """The last whole letter comes with the first byte of a character that never ends: it is easily lost with that."""
    *letters, last = draw_text(rng, 3, LETTERS).encode()
    start, *rest = KITE[:integer(rng, 1, 3)]
    return [*cut(rng, bytes(letters), longest=2), [last, start], *([byte] for byte in rest)]


EXERCISE = Exercise("02.2", "Stream whole characters", "stream_text", minutes=10, difficulty=2, checks=(
    StreamCheck("streams plain letters", 1, draws=1,
        tokens=lambda rng: [list(str(letter).encode()) for letter in rng.choice(list(LETTERS), 16)],
        advice="Decode all ids so far, and yield what is new in it since the last piece."),
    StreamCheck("keeps the spaces between words", 1,
        tokens=lambda rng: [list(f" {word}".encode()) for word in draw_text(rng, 12, LETTERS).split()],
        advice="decode([id]) drops a leading space: decode the ids from the first one on, and cut off what was "
               "yielded."),
    StreamCheck("never shows half a character", 2, judged=expect_whole_characters,
        tokens=lambda rng: cut(rng, draw_text(rng, 6, LETTERS + WIDE).encode() + KITE, longest=3),
        advice="Text that ends in U+FFFD has an unfinished character there: hold that back until its last byte has "
               "come."),
    StreamCheck("leaves out a character that is never finished", 1, judged=expect_whole_characters, tokens=unfinished,
        advice="If the ids end inside a character, drop that one alone: whole characters before it belong to the "
               "text."),
    StreamCheck("yields text before it takes the next id", 2, judged=expect_text_at_once,
        tokens=lambda rng: cut(rng, draw_text(rng, 8, LETTERS + WIDE).encode(), longest=4),
        advice="As soon as the text so far ends with a whole character, yield all of it, before asking for another "
               "id."),
))
