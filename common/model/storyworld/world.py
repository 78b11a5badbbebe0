"""The state of a story, and the text that is true to it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from common.model.storyworld import templates, words


@dataclass(eq=False, slots=True)
class Place:
    preposition: str
    name: str

    @property
    def at(self) -> str:
        return f"{self.preposition} {self.name}"


@dataclass(eq=False, slots=True)
class Person:
    name: str
    female: bool
    where: Place
    since: int  # character offset of the sentence that last said so
    trail: list[tuple[Place, int]] = field(default_factory=list)  # earlier (where, since)


@dataclass(eq=False, slots=True)
class Thing:
    adjective: str
    noun: str
    kind: str  # small, large or container
    where: Place | Person | Thing
    since: int

    @property
    def container(self) -> bool:
        return self.kind == "container"

    @property
    def full(self) -> str:
        return f"the {self.adjective} {self.noun}"

    @property
    def new(self) -> str:
        article = "an" if self.adjective[0] in "aeiou" else "a"
        return f"{article} {self.adjective} {self.noun}"


PROPS = {  # kind -> (nouns and adjectives, fewest, most in a story)
    "small": (list(words.SMALL_THINGS.items()), 1, 4),
    "large": (list(words.LARGE_THINGS.items()), 0, 4),
    "container": (list(words.CONTAINERS.items()), 0, 2),
}

PRONOUNS = {True: ("she", "her", "her", "herself"), False: ("he", "his", "him", "himself")}
ACTIONS = {"MOVE", "MOVE_CARRYING", "JOIN", "TAKE", "FETCH", "PUT", "DELIVER", "STOW", "UNSTOW"}  # can follow "Then"
MOST_IN_HAND = 2  # things a person carries at once


class Teller:
    """Writes one story, piece by piece, and keeps the people, things and places true to it."""

    def __init__(self, rng: random.Random, characters: int):
        self.rng = rng
        self.pieces: list[str] = []
        self.length = 0  # characters so far
        self.decks: dict[str, list] = {}  # by kind: what this story has not used yet
        self.sentences_in_line = 0
        self.topic: Person | None = None  # whom "she" or "he" would mean
        self.dropped: Thing | None = None  # put down last; nobody picks it up at once

        self.village = rng.choice(words.VILLAGES)
        self.day = rng.choice(words.WEEKDAYS)
        self.weather = rng.choice(("dry", "dry", "rain"))
        self.hour = rng.randrange(3)
        self.places = [Place(*place) for place in rng.sample(words.PLACES, rng.randint(4, 8))]
        self.people: list[Person] = []
        self.things: list[Thing] = []
        # Who and what is still to come, in this order; a noun or a name is never used twice.
        women = [(name, True) for name in rng.sample(words.WOMEN, 3)]
        men = [(name, False) for name in rng.sample(words.MEN, 3)]
        self.cast = rng.sample(women + men, rng.randint(3 if characters > 2000 else 2, 6))
        self.props = {kind: rng.sample(nouns, rng.randint(*numbers)) for kind, (nouns, *numbers) in PROPS.items()}

    # ---- writing ----

    def deal(self, kind: str, cards: Sequence) -> Any:
        """One of the cards, none of them twice before all have been dealt."""
        deck = self.decks.get(kind)
        if not deck:
            deck = self.decks[kind] = list(cards)
        i = int(self.rng.random() * len(deck))
        deck[i], deck[-1] = deck[-1], deck[i]
        return deck.pop()

    @property
    def now(self) -> int:
        """Character offset at which the next sentence will begin."""
        return self.length + (self.sentences_in_line > 0)

    def write(self, sentence: str) -> None:
        sentence = sentence[0].upper() + sentence[1:]
        if self.sentences_in_line:
            sentence = " " + sentence
        self.pieces.append(sentence)
        self.length += len(sentence)
        self.sentences_in_line += 1

    def write_line(self, line: str) -> None:
        """Write a whole line; the line before it must have ended."""
        self.pieces.append(line + "\n")
        self.length += len(line) + 1

    def end_line(self) -> None:
        """End the paragraph, if one is begun; after it everybody is called by name again."""
        if self.sentences_in_line:
            self.pieces.append("\n")
            self.length += 1
            self.sentences_in_line = 0
        self.topic = None

    def the(self, thing: Thing) -> str:
        return thing.full if self.rng.random() < 0.6 else f"the {thing.noun}"

    def say(
        self,
        kind: str,
        a: Person | None = None,
        b: Person | None = None,
        t: Thing | None = None,
        u: Thing | None = None,
        at: Place | None = None,
        old: Place | None = None,
        far: Place | None = None,
        **slots: str,
    ) -> None:
        """Write one sentence of a kind (a tuple in templates.py); templates.py explains the slots."""
        template = self.deal(kind, getattr(templates, kind))
        if a:
            slots["N"] = slots["A"] = a.name
            slots["she"], slots["her"], slots["him"], slots["self"] = PRONOUNS[a.female]
            if a is self.topic and "{A}" in template and self.rng.random() < 0.5:
                slots["A"] = slots["she"]
            elif kind in ACTIONS and template.startswith("{A}") and self.rng.random() < 0.2:
                template = self.deal("CONNECTIVES", templates.CONNECTIVES) + " " + template
            # After "Ada gave Flora the kite", "she" could be either of them.
            self.topic = None if b and b.female == a.female else a
            if at is a.where and "{at}" in template:
                a.since = self.now
        else:
            self.topic = None
        if b:
            slots["B"] = b.name
        if t:
            slots["t"] = self.the(t)
        if u:
            slots["u"] = self.the(u)
        if at:
            slots["at"], slots["to"] = at.at, at.name
        if old:
            slots["old"] = old.name
        if far:
            slots["at_far"], slots["far"] = far.at, far.name
        self.write(template.format_map(slots))

    # ---- looking at the state ----

    def holds(self, who: Person | Thing) -> list[Thing]:
        return [thing for thing in self.things if thing.where is who]

    def lying(self, place: Place) -> list[Thing]:
        return [thing for thing in self.things if thing.where is place and thing is not self.dropped]

    def company(self, person: Person) -> list[Person]:
        return [other for other in self.people if other.where is person.where and other is not person]

    def elsewhere(self, place: Place) -> Place:
        return self.rng.choice([other for other in self.places if other is not place])

    def actor(self) -> Person:
        """Mostly whoever acted last, so that a story has threads."""
        if self.topic and self.rng.random() < 0.4:
            return self.topic
        return self.rng.choice(self.people)

    def whereabouts(self, entity: Person | Thing) -> tuple[Place, int, int, int]:
        """(place, earliest and latest sentence that the place follows from, number of hops to it)"""
        earliest = latest = entity.since
        hops = 1
        while not isinstance(entity.where, Place):
            entity = entity.where
            earliest, latest, hops = min(earliest, entity.since), max(latest, entity.since), hops + 1
        return entity.where, earliest, latest, hops

    # ---- changing the state; each is called just before the sentence that says so ----

    def put_at(self, thing: Thing, where: Place | Person | Thing) -> None:
        thing.where, thing.since = where, self.now

    def put_down(self, thing: Thing, where: Place | Thing) -> None:
        self.put_at(thing, where)
        self.dropped = thing

    def send(self, person: Person, place: Place) -> None:
        person.trail.append((person.where, person.since))
        person.where, person.since = place, self.now

    def new_thing(self, where: Place | Person | Thing, kind: str) -> Thing | None:
        if not self.props[kind]:
            return None
        noun, adjectives = self.props[kind].pop()
        thing = Thing(self.rng.choice(adjectives), noun, kind, where, self.now)
        self.things.append(thing)
        return thing
