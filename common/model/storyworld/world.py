"""The state of a story and the events that change it: every sentence is written together with what it makes true."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

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


@dataclass(frozen=True, slots=True)
class Question:
    """A question inside a story. The prompt for its answer is `story.text[:position]`, which ends in "\\nA:"."""

    text: str  # "Where is the red kite now?"
    answer: str  # "in the boathouse"; the story continues with " " + answer + "\n"
    kind: str  # person, thing, two_hop, holder, contents, container, container_hop, three_hop or before
    position: int  # character offset just after "\nA:"
    evidence: int  # character offset of the earliest sentence that the answer needs


@dataclass(frozen=True, slots=True)
class Story:
    text: str
    questions: list[Question]


PRONOUNS = {True: ("she", "her", "her", "herself"), False: ("he", "his", "him", "himself")}
ACTIONS = {"MOVE", "MOVE_CARRYING", "JOIN", "TAKE", "FETCH", "PUT", "DELIVER", "STOW", "UNSTOW"}  # can follow "Then"
MOST_IN_HAND = 2  # things a person carries at once


class Teller:
    """Tells one story; `text` grows while people, things and places stay true to it."""

    def __init__(self, rng: random.Random, characters: int, question_rate: float):
        self.rng = rng
        self.characters = characters  # length to aim for
        self.question_rate = question_rate
        self.pieces: list[str] = []
        self.length = 0  # characters so far
        self.decks: dict[str, list[str]] = {}  # templates not yet used in this story
        self.sentences_in_line = 0
        self.topic: Person | None = None  # whom "she" or "he" would mean
        self.dropped: Thing | None = None  # put down last; nobody picks it up at once
        self.asked: dict[tuple, int] = {}  # question -> where it was last asked
        self.questions: list[Question] = []

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
        self.props = {
            kind: rng.sample(nouns, rng.randint(*numbers)) for kind, (nouns, *numbers) in PROPS.items()
        }

    # ---- writing ----

    def deal(self, kind: str, cards) -> str:
        """A template that this story has not used yet, as long as there is one."""
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

    def end_line(self) -> None:
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

    # ---- events: each returns False, having done nothing, when the state does not allow it ----

    def meet_person(self) -> bool:
        if not self.cast:
            return False
        name, female = self.cast.pop()
        person = Person(name, female, self.rng.choice(self.places), self.now)
        doing = self.deal("DOING", templates.DOING)
        thing = self.new_thing(person, self.rng.choice(list(PROPS))) if self.rng.random() < 0.35 else None
        self.people.append(person)
        if thing:
            self.say("MEET_PERSON_WITH_THING", person, at=person.where, doing=doing, new=thing.new)
        else:
            self.say("MEET_PERSON", person, at=person.where, doing=doing)
        return True

    def meet_thing(self) -> bool:
        place = self.rng.choice(self.places)
        thing = self.new_thing(place, self.rng.choice(list(PROPS)))
        if not thing:
            return False
        inside = self.new_thing(thing, "small") if thing.container and self.rng.random() < 0.6 else None
        if inside:
            self.say("MEET_CONTAINER", at=place, new=thing.new, inside=inside.new)
        else:
            self.say("MEET_THING", at=place, new=thing.new)
        return True

    def new_thing(self, where: Place | Person | Thing, kind: str) -> Thing | None:
        if not self.props[kind]:
            return None
        noun, adjectives = self.props[kind].pop()
        thing = Thing(self.rng.choice(adjectives), noun, kind, where, self.now)
        self.things.append(thing)
        return thing

    def move(self) -> bool:
        a = self.actor()
        old, at = a.where, self.elsewhere(a.where)
        in_hand, company = self.holds(a), self.company(a)
        if in_hand and self.rng.random() < 0.3:
            thing = self.rng.choice(in_hand)
            self.send(a, at)
            self.put_at(thing, a)
            self.say("MOVE_CARRYING", a, t=thing, at=at, old=old)
        elif company and self.rng.random() < 0.3:
            b = self.rng.choice(company)
            self.send(a, at)
            self.send(b, at)
            self.say("MOVE_TOGETHER", a, b, at=at, old=old)
        else:
            self.send(a, at)
            self.say("MOVE", a, at=at, old=old)
        return True

    def join(self) -> bool:
        a = self.actor()
        others = [other for other in self.people if other.where is not a.where]
        if not others:
            return False
        b = self.rng.choice(others)
        old, b.since = a.where, self.now
        self.send(a, b.where)
        self.say("JOIN", a, b, at=a.where, old=old)
        return True

    def take(self) -> bool:
        a = self.actor()
        lying = self.lying(a.where)
        if not lying or len(self.holds(a)) >= MOST_IN_HAND:
            return False
        thing = self.rng.choice(lying)
        self.put_at(thing, a)
        self.say("TAKE", a, t=thing, at=a.where)
        return True

    def fetch(self) -> bool:
        a = self.actor()
        lying = [thing for thing in self.things if isinstance(thing.where, Place) and thing.where is not a.where]
        if not lying or len(self.holds(a)) >= MOST_IN_HAND:
            return False
        thing, old = self.rng.choice(lying), a.where
        self.send(a, thing.where)
        self.put_at(thing, a)
        self.say("FETCH", a, t=thing, at=a.where, old=old)
        return True

    def put(self) -> bool:
        a = self.actor()
        in_hand = self.holds(a)
        if not in_hand:
            return False
        thing = self.rng.choice(in_hand)
        self.put_down(thing, a.where)
        self.say("PUT", a, t=thing, at=a.where)
        return True

    def deliver(self) -> bool:
        a = self.actor()
        in_hand = self.holds(a)
        if not in_hand:
            return False
        thing, old = self.rng.choice(in_hand), a.where
        self.send(a, self.elsewhere(a.where))
        self.put_down(thing, a.where)
        self.say("DELIVER", a, t=thing, at=a.where, old=old)
        return True

    def hand_over(self) -> bool:
        """A gives something to B, B gets it from A, or the two swap."""
        a = self.actor()
        in_hand, company = self.holds(a), self.company(a)
        if not in_hand or not company:
            return False
        thing, b = self.rng.choice(in_hand), self.rng.choice(company)
        theirs = self.holds(b)
        if theirs and self.rng.random() < 0.5:
            other = self.rng.choice(theirs)
            self.put_at(thing, b)
            self.put_at(other, a)
            self.say("SWAP", a, b, t=thing, u=other)
            return True
        if len(theirs) >= MOST_IN_HAND:
            return False
        self.put_at(thing, b)
        if self.rng.random() < 0.6:
            self.say("GIVE", a, b, t=thing)
        else:
            self.say("TAKE_FROM", b, a, t=thing)
        return True

    def stow(self) -> bool:
        a = self.actor()
        in_hand = self.holds(a)
        small = [thing for thing in in_hand if thing.kind == "small"]
        empty = [thing for thing in in_hand + self.lying(a.where) if thing.container and not self.holds(thing)]
        if not small or not empty:
            return False
        thing, container = self.rng.choice(small), self.rng.choice(empty)
        self.put_down(thing, container)
        self.say("STOW", a, t=thing, u=container)
        return True

    def unstow(self) -> bool:
        a = self.actor()
        in_hand = self.holds(a)
        full = [thing for thing in in_hand + self.lying(a.where) if thing.container and self.holds(thing)]
        if not full or len(in_hand) >= MOST_IN_HAND:
            return False
        container = self.rng.choice(full)
        thing = self.holds(container)[0]
        if thing is self.dropped:
            return False
        self.put_at(thing, a)
        self.say("UNSTOW", a, t=thing, u=container)
        return True

    def animal(self) -> bool:
        """Something lying about is moved by neither friend nor foe."""
        lying = [thing for thing in self.things if isinstance(thing.where, Place)]
        if not lying:
            return False
        thing = self.rng.choice(lying)
        old, at = thing.where, self.elsewhere(thing.where)
        self.put_at(thing, at)
        self.say("ANIMAL_SMALL" if thing.kind == "small" else "ANIMAL_LARGE", t=thing, at=at, old=old)
        return True

    # ---- small talk, which changes nothing ----

    def pass_time(self) -> bool:
        rng = self.rng
        if rng.random() < 0.5:
            after, sentence = self.deal("WEATHER" + self.weather, templates.WEATHER[self.weather])
            self.weather, self.topic = after, None
            self.write(sentence)
        elif self.hour < len(words.HOURS):
            self.say("CLOCK", hour=words.HOURS[self.hour])
            self.hour += 1
        else:
            return False
        return True

    def village_life(self) -> bool:
        if self.rng.random() < 0.7:
            self.say("VILLAGE")
        else:
            self.say("PLACE", far=self.rng.choice(self.places))
        return True

    def person_idles(self) -> bool:
        a, kind = self.actor(), self.rng.random()
        if kind < 0.6:
            self.say("PERSON", a)
        elif kind < 0.75:
            self.say("PERSON_HERE", a, at=a.where)
        else:
            self.say("PERSON_FAR", a, far=self.elsewhere(a.where))
        return True

    def people_chat(self) -> bool:
        a = self.actor()
        company = self.company(a)
        if not company:
            return False
        self.say("PAIR", a, self.rng.choice(company))
        return True

    def person_with_thing(self) -> bool:
        a = self.actor()
        in_hand, company = self.holds(a), self.company(a)
        if not in_hand:
            return False
        thing = self.rng.choice(in_hand)
        self.put_at(thing, a)
        if company and self.rng.random() < 0.5:
            self.say("REFUSE", a, self.rng.choice(company), t=thing)
        else:
            self.say("HOLDING", a, t=thing)
        return True

    # ---- questions ----

    def ask(self) -> bool:
        """Ask something whose answer has changed since it was last asked."""
        kind, subject = self.rng.choice(QUESTION_SUBJECTS)
        crowd = self.people if subject is Person else self.things
        if not crowd:
            return False
        entity = self.rng.choice(crowd)
        found = getattr(self, "ask_" + kind)(entity)
        if not found:
            return False
        label, slots, answer, evidence, changed = found
        if self.asked.get((kind, entity), -1) > changed:
            return False
        text = self.deal("Q" + kind, templates.QUESTIONS[kind]).format_map(slots)
        self.end_line()
        self.asked[kind, entity] = self.length
        position = self.length + len(f"Q: {text}\nA:")
        self.questions.append(Question(text, answer, label, position, evidence))
        self.pieces.append(f"Q: {text}\nA: {answer}\n")
        self.length = position + len(answer) + 2
        return True

    # Each ask_ returns (label, slots, answer, earliest evidence, latest change), or None where it makes no sense.

    def ask_person(self, person: Person):
        return "person", {"N": person.name}, person.where.at, person.since, person.since

    def ask_thing(self, thing: Thing):
        if isinstance(thing.where, Thing):
            return None  # "in the tin" and "in the bakery" would both be right
        place, earliest, latest, hops = self.whereabouts(thing)
        return "two_hop" if hops == 2 else "thing", {"t": self.the(thing)}, place.at, earliest, latest

    def ask_holder(self, thing: Thing):
        slots = {"t": self.the(thing)}
        if isinstance(thing.where, Person):
            return "holder", slots, thing.where.name, thing.since, thing.since
        if isinstance(thing.where, Place) and self.rng.random() < 0.15:
            return "holder", slots, "nobody", thing.since, thing.since
        return None

    def ask_contents(self, thing: Thing):
        inside = self.holds(thing)
        if not inside:
            return None
        return "contents", {"t": self.the(thing)}, inside[0].full, inside[0].since, inside[0].since

    def ask_container(self, thing: Thing):
        if not isinstance(thing.where, Thing):
            return None
        return "container", {"t": self.the(thing)}, thing.where.full, thing.since, thing.since

    def ask_contained(self, thing: Thing):
        if not isinstance(thing.where, Thing):
            return None
        place, earliest, latest, hops = self.whereabouts(thing)
        return "three_hop" if hops == 3 else "container_hop", {"t": self.the(thing)}, place.at, earliest, latest

    def ask_before(self, person: Person):
        if not person.trail or any(place is person.where for place, _ in person.trail):
            return None
        before, since = person.trail[-1]
        slots = {"N": person.name, "she": PRONOUNS[person.female][0], "to": person.where.name}
        return "before", slots, before.at, since, person.since

    # ---- the whole ----

    def advance(self) -> None:
        """One more sentence, and perhaps a question after it."""
        rng = self.rng
        event = rng.choices(EVENTS, cum_weights=EVENT_WEIGHTS)[0]
        while not event(self):
            event = rng.choices(EVENTS, cum_weights=EVENT_WEIGHTS)[0]
        if rng.random() < self.question_rate:
            for _ in range(6):
                if self.ask():
                    break
        elif self.sentences_in_line > 3 and rng.random() < 0.2:
            self.end_line()

    def tell(self) -> Story:
        characters = self.characters
        opening = self.deal("OPENING", templates.OPENINGS[self.weather])
        self.write(opening.format(village=self.village, day=self.day))
        self.meet_person()
        if characters > 400:
            self.meet_thing()
            self.meet_person()
        last_questions = 1 + (characters > 600) + (characters > 2400)
        ending = characters > 500
        while self.length < characters - 60 * last_questions - 60 * ending:
            self.advance()
        if ending:
            self.end_line()
            self.write(self.deal("ENDINGS", templates.ENDINGS).format(village=self.village, day=self.day))
        for _ in range(30 * last_questions):
            last_questions -= self.ask()
            if not last_questions:
                break
        self.end_line()
        return Story("".join(self.pieces), self.questions)


PROPS = {  # kind -> (nouns and adjectives, fewest, most in a story)
    "small": (list(words.SMALL_THINGS.items()), 1, 4),
    "large": (list(words.LARGE_THINGS.items()), 0, 4),
    "container": (list(words.CONTAINERS.items()), 0, 2),
}

EVENTS_AND_WEIGHTS: dict[Callable[[Teller], bool], int] = {
    Teller.move: 16,
    Teller.join: 4,
    Teller.take: 14,
    Teller.fetch: 5,
    Teller.put: 6,
    Teller.deliver: 4,
    Teller.hand_over: 16,
    Teller.stow: 16,
    Teller.unstow: 6,
    Teller.animal: 3,
    Teller.meet_person: 8,
    Teller.meet_thing: 12,
    Teller.pass_time: 3,
    Teller.village_life: 4,
    Teller.person_idles: 6,
    Teller.people_chat: 5,
    Teller.person_with_thing: 5,
}
EVENTS = list(EVENTS_AND_WEIGHTS)
EVENT_WEIGHTS = list(accumulate(EVENTS_AND_WEIGHTS.values()))

# (which ask_ method, about whom), one entry per share; questions about things inside things are rarely possible.
QUESTION_SUBJECTS = (
    [("person", Person)] * 3
    + [("thing", Thing)] * 6
    + [("holder", Thing)] * 4
    + [("before", Person)] * 1
    + [("contents", Thing), ("container", Thing), ("contained", Thing)] * 5
)
