"""The story world, judged from its text alone: a reader who knows English, but not the teller's state, retells it."""

import random
import re
from collections import Counter, defaultdict

import pytest

from common.model.evaluate import last_place
from common.model.storyworld import story, templates, words
from common.model.storyworld.questions import SHARES

STORIES = 120
MOST_OF_ONE_FRAME = 0.05

AT = {name: f"{preposition} {name}" for preposition, name in words.PLACES}
HERE = {at: name for name, at in AT.items()}
NOUNS = words.SMALL_THINGS | words.LARGE_THINGS | words.CONTAINERS
SAYS = {  # kind of sentence -> its templates
    kind: value for kind, value in vars(templates).items() if isinstance(value, tuple) and kind != "CONNECTIVES"
}
SAYS["OPENINGS"] = [opening for openings in templates.OPENINGS.values() for opening in openings]
SAYS["WEATHER"] = [sentence for cards in templates.WEATHER.values() for _, sentence in cards]
del SAYS["DOING"]


def one_of(texts) -> str:
    return "(?:" + "|".join(sorted(map(re.escape, texts), key=len, reverse=True)) + ")"


PLACE, AT_PLACE = one_of(AT), one_of(HERE)
PERSON = one_of(words.WOMEN + words.MEN)
ADJECTIVE_NOUN = "(?:" + "|".join(f"(?:{one_of(adjectives)} )?{noun}" for noun, adjectives in NOUNS.items()) + ")"
SLOTS = {
    **dict.fromkeys(("to", "old", "far"), PLACE),
    **dict.fromkeys(("at", "at_far"), AT_PLACE),
    **dict.fromkeys(("t", "u"), f"the {ADJECTIVE_NOUN}"),
    **dict.fromkeys(("new", "inside"), f"an? {ADJECTIVE_NOUN}"),
    **dict.fromkeys(("N", "B"), PERSON),
    "A": f"(?:{PERSON}|she|he)",
    "she": "(?:she|he)",
    "her": "(?:her|his)",
    "him": "(?:her|him)",
    "self": "(?:herself|himself)",
    "doing": one_of(templates.DOING),
    "hour": one_of(words.HOURS),
    "day": one_of(words.WEEKDAYS),
    "village": one_of(words.VILLAGES),
}
HERS = {"she", "her", "herself"}


def pattern(template: str, prefix: str = "") -> re.Pattern:
    """What a template looks like in a story; a slot that comes twice has to say the same twice."""
    text, seen = "", set()
    for i, part in enumerate(re.split(r"\{(\w+)\}", template)):
        if i % 2 == 0:
            text += re.escape(part)
        else:
            text += f"(?P={part})" if part in seen else f"(?P<{part}>{SLOTS[part]})"
            seen.add(part)
    return re.compile(prefix + text, re.IGNORECASE)


CONNECTIVE = "(?:" + "|".join(c.replace("{her}", "(?:her|his)") for c in templates.CONNECTIVES) + ") "
SENTENCES = [(kind, each, pattern(each, f"(?:{CONNECTIVE})?")) for kind, texts in SAYS.items() for each in texts]
QUESTIONS = [(kind, each, pattern(each)) for kind, texts in templates.QUESTIONS.items() for each in texts]


class Reader:
    """Reads a story sentence by sentence, keeps its own account of the world, and protests at what cannot be."""

    def __init__(self):
        self.place: dict[str, str] = {}  # person -> place
        self.trail: dict[str, list[str]] = defaultdict(list)
        self.where: dict[str, str] = {}  # noun -> place, person or noun
        self.full: dict[str, str] = {}  # noun -> "the red kite"
        self.frames: Counter = Counter()
        self.sentences = 0
        self.named_before: list[str] = []

    def read(self, text: str) -> list[tuple[str, str]]:
        """All (question, answer) of a text, answered from this account."""
        answered = []
        for line in text.splitlines():
            if line.startswith("Q: "):
                answered.append((line[3:], self.answer(line[3:])))
                self.named_before = []
            elif not line.startswith("A: "):
                self.read_paragraph(line)
        return answered

    def read_paragraph(self, line: str) -> None:
        self.named_before = []
        at = 0
        while at < len(line):
            found = [(match, kind, each) for kind, each, form in SENTENCES if (match := form.match(line, at))]
            assert found, f"no template says: {line[at:]!r}"
            match, kind, template = max(found, key=lambda one: one[0].end())
            end = match.end()
            assert {other for one, other, _ in found if one.end() == end} == {kind}, f"{match[0]!r} means two things"
            assert match[0][0].isupper() and line[end : end + 1] in ("", " ")
            self.take_in(kind, template, match)
            at = end + 1

    def take_in(self, kind: str, template: str, match: re.Match) -> None:
        self.frames[re.sub(r"\{\w+\}", "_", template)] += 1
        self.sentences += 1
        said = match.groupdict()
        a = said.get("A") or said.get("N")
        if a in ("she", "he", "She", "He"):
            candidates = {name for name in self.named_before if (name in words.WOMEN) == (a.lower() == "she")}
            assert len(candidates) == 1, f"who is {a} in {match[0]!r}?"
            (a,) = candidates
        if a:
            for slot in ("she", "her", "him", "self"):
                assert slot not in said or (said[slot].lower() in HERS) == (a in words.WOMEN), match[0]
        b = said.get("B")
        self.named_before = [name for name in (a, b) if name]

        at = said.get("to") or said.get("at")
        at = at and (HERE.get(at) or HERE.get(at[0].lower() + at[1:]) or at)
        t, u, new, inside = (said[slot].split()[-1] if said.get(slot) else None for slot in ("t", "u", "new", "inside"))
        for noun, slot in ((new, "new"), (inside, "inside")):
            if noun:
                assert noun not in self.full, f"{noun} came twice"
                self.full[noun] = "the " + said[slot].split(" ", 1)[1]
        for noun, slot in ((t, "t"), (u, "u")):
            assert not noun or said[slot].lower() in (f"the {noun}", self.full[noun]), match[0]
        if "old" in said:
            assert said["old"] == (self.where[t] if kind.startswith("ANIMAL") else self.place[a]), match[0]
        if kind not in ("MEET_PERSON", "MEET_PERSON_WITH_THING"):
            assert all(name in self.place for name in self.named_before), f"a stranger in {match[0]!r}"
        self.happen(kind, a, b, t, u, new, inside, at, match[0])

    def happen(self, kind, a, b, t, u, new, inside, at, sentence) -> None:
        where, place = self.where, self.place

        def go(person: str) -> None:
            assert place[person] != at, sentence
            self.trail[person].append(place[person])
            place[person] = at

        def need(*facts: bool) -> None:
            assert all(facts), f"impossible: {sentence}"

        match kind:
            case "MEET_PERSON" | "MEET_PERSON_WITH_THING":
                need(a not in place)
                place[a] = at
                if new:
                    where[new] = a
            case "MEET_THING":
                where[new] = at
            case "MEET_CONTAINER":
                need(new in words.CONTAINERS, inside in words.SMALL_THINGS)
                where[new], where[inside] = at, new
            case "MOVE":
                go(a)
            case "MOVE_CARRYING":
                need(where[t] == a)
                go(a)
            case "MOVE_TOGETHER":
                need(place[a] == place[b])
                go(a)
                go(b)
            case "JOIN":
                need(place[b] == at)
                go(a)
            case "TAKE":
                need(where[t] == place[a], at in (None, place[a]))
                where[t] = a
            case "FETCH":
                need(where[t] == at)
                go(a)
                where[t] = a
            case "PUT":
                need(where[t] == a, at == place[a])
                where[t] = at
            case "DELIVER":
                need(where[t] == a)
                go(a)
                where[t] = at
            case "GIVE":
                need(where[t] == a, place[a] == place[b])
                where[t] = b
            case "TAKE_FROM":
                need(where[t] == b, place[a] == place[b])
                where[t] = a
            case "SWAP":
                need(where[t] == a, where[u] == b, place[a] == place[b])
                where[t], where[u] = b, a
            case "STOW":
                need(where[t] == a, where[u] in (a, place[a]), u in words.CONTAINERS, u not in where.values())
                where[t] = u
            case "UNSTOW":
                need(where[t] == u, where[u] in (a, place[a]))
                where[t] = a
            case "ANIMAL_SMALL" | "ANIMAL_LARGE":
                need(where[t] in AT, where[t] != at)
                where[t] = at
            case "PERSON_HERE":
                need(place[a] == at)
            case "PAIR":
                need(place[a] == place[b])
            case "HOLDING":
                need(where[t] == a)
            case "REFUSE":
                need(where[t] == a, place[a] == place[b])

    def answer(self, question: str) -> str:
        kind, template, match = next((k, each, m) for k, each, form in QUESTIONS if (m := form.fullmatch(question)))
        self.frames[re.sub(r"\{\w+\}", "_", template)] += 1
        self.sentences += 1
        said = match.groupdict()
        person, noun = said.get("N"), said["t"].split()[-1] if said.get("t") else None
        at = self.place.get(person) or self.where.get(noun)
        match kind:
            case "person":
                return AT[at]
            case "thing":
                assert at not in NOUNS, f"{question} has two answers"
                return AT[self.place.get(at, at)]
            case "holder":
                assert at not in NOUNS, f"{question} has two answers"
                return at if at in self.place else "nobody"
            case "contents":
                (inside,) = (each for each, container in self.where.items() if container == noun)
                return self.full[inside]
            case "container":
                return self.full[at]
            case "contained":
                at = self.where[at]
                return AT[self.place.get(at, at)]
            case "before":
                assert said["to"] == at and at not in self.trail[person], f"{question} has two answers"
                return AT[self.trail[person][-1]]


@pytest.fixture(scope="module")
def stories():
    rng = random.Random("test_storyworld")
    return [story(rng, rng.randint(60, 1500)) for _ in range(STORIES)]


@pytest.fixture(scope="module")
def readings(stories):
    readers = [Reader() for _ in stories]
    return [(reader, reader.read(told.text)) for reader, told in zip(readers, stories, strict=True)]


def test_same_seed_same_story():
    assert story(random.Random(5), 200) == story(random.Random(5), 200)
    assert story(random.Random(5), 200) != story(random.Random(6), 200)


def test_reader_agrees_with_every_answer(stories, readings):
    """Nobody gives what they lack, pronouns are clear, and the text alone decides each answer."""
    for told, (_, answered) in zip(stories, readings, strict=True):
        assert answered == [(question.text, question.answer) for question in told.questions]


def test_all_kinds_are_asked(stories):
    kinds = {question.kind for told in stories for question in told.questions}
    assert kinds >= {kind.__name__ for kind, _ in SHARES} - {"contained"} | {"two_hop", "container_hop", "three_hop"}


def test_questions_stand_where_they_say(stories):
    for told in stories:
        for question in told.questions:
            assert told.text[: question.position].endswith(f"\nQ: {question.text}\nA:")
            assert told.text[question.position :].startswith(f" {question.answer}\n")
            assert told.text[question.evidence - 1 : question.evidence] in ("", " ", "\n")
            assert told.text[question.evidence].isupper() and question.evidence < question.position
            assert 1 <= len(question.answer.split()) <= 5
        assert told.text.count("\nQ: ") == len(told.questions) > 0


def test_at_least_200_templates_and_no_frame_too_common(readings):
    frames = sum((reader.frames for reader, _ in readings), Counter())
    assert len(frames) >= 200
    frame, times = frames.most_common(1)[0]
    assert times <= MOST_OF_ONE_FRAME * sum(reader.sentences for reader, _ in readings), frame


def test_text_is_clean(stories):
    for told in stories:
        assert not re.search(r"[{}]|  | \n|\n\n|\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", told.text)
        assert told.text.endswith("\n")


def test_stories_open_and_longer_ones_end(stories):
    endings = [pattern(ending) for ending in templates.ENDINGS]
    for told in stories:
        paragraphs = [line for line in told.text.splitlines() if not line.startswith(("Q: ", "A: "))]
        assert any(pattern(opening).match(paragraphs[0]) for opening in SAYS["OPENINGS"])
        if len(told.text) > 700:
            assert any(ending.fullmatch(paragraphs[-1]) for ending in endings)


def test_small_talk_names_no_thing_that_a_story_may_track():
    for sentence in [text for texts in SAYS.values() for text in texts] + list(templates.DOING):
        assert not set(re.findall(r"[a-z]+", re.sub(r"\{\w+\}", "", sentence.lower()))) & set(NOUNS), sentence


def test_last_place_and_commonest_answer_are_poor_guesses(stories):
    pairs = [(told.text[: question.position], question.answer) for told in stories for question in told.questions]
    assert sum(last_place(text) == answer for text, answer in pairs) <= 0.5 * len(pairs)
    commonest = Counter(answer for _, answer in pairs).most_common(1)[0][1]
    assert commonest <= 0.25 * len(pairs)
