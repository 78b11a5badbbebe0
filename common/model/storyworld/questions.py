"""What can be asked about the state: each kind of question knows its answer and the sentences that decide it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from common.model.storyworld import templates
from common.model.storyworld.world import PRONOUNS, Person, Place, Teller, Thing


@dataclass(frozen=True, slots=True)
class Question:
    """A question inside a story. The prompt for its answer is `story.text[:position]`, which ends in "\\nA:"."""

    text: str  # "Where is the red kite now?"
    answer: str  # "in the boathouse"; the story continues with " " + answer + "\n"
    kind: str  # person, thing, two_hop, holder, contents, container, container_hop, three_hop or before
    position: int  # character offset just after "\nA:"
    evidence: int  # character offset of the earliest of the sentences that decide the answer


@dataclass(frozen=True, slots=True)
class Finding:
    kind: str
    slots: dict[str, str]
    answer: str
    evidence: int  # offsets of the earliest
    changed: int  # and of the latest sentence that decide the answer


# Each of these returns None where the question makes no sense, or would have two right answers.


def person(teller: Teller, who: Person) -> Finding | None:
    return Finding("person", {"N": who.name}, who.where.at, who.since, who.since)


def thing(teller: Teller, what: Thing) -> Finding | None:
    if isinstance(what.where, Thing):
        return None  # "in the tin" and "in the bakery" would both be right
    place, earliest, latest, hops = teller.whereabouts(what)
    return Finding("two_hop" if hops == 2 else "thing", {"t": teller.the(what)}, place.at, earliest, latest)


def holder(teller: Teller, what: Thing) -> Finding | None:
    slots = {"t": teller.the(what)}
    if isinstance(what.where, Person):
        return Finding("holder", slots, what.where.name, what.since, what.since)
    if isinstance(what.where, Place) and teller.rng.random() < 0.15:
        return Finding("holder", slots, "nobody", what.since, what.since)
    return None


def contents(teller: Teller, what: Thing) -> Finding | None:
    inside = teller.holds(what)
    if not inside:
        return None
    return Finding("contents", {"t": teller.the(what)}, inside[0].full, inside[0].since, inside[0].since)


def container(teller: Teller, what: Thing) -> Finding | None:
    if not isinstance(what.where, Thing):
        return None
    return Finding("container", {"t": teller.the(what)}, what.where.full, what.since, what.since)


def contained(teller: Teller, what: Thing) -> Finding | None:
    if not isinstance(what.where, Thing):
        return None
    place, earliest, latest, hops = teller.whereabouts(what)
    return Finding("three_hop" if hops == 3 else "container_hop", {"t": teller.the(what)}, place.at, earliest, latest)


def before(teller: Teller, who: Person) -> Finding | None:
    if not who.trail or any(place is who.where for place, _ in who.trail):
        return None  # with a second visit, "before" could mean either
    place, since = who.trail[-1]
    slots = {"N": who.name, "she": PRONOUNS[who.female][0], "to": who.where.name}
    return Finding("before", slots, place.at, since, who.since)


# (what is asked, about whom of the teller's), one entry per share; questions about what is inside something else are
# rarely possible, so they are drawn often.
SHARES: list[tuple[Callable, str]] = (
    [(person, "people")] * 3
    + [(thing, "things")] * 6
    + [(holder, "things")] * 4
    + [(before, "people")]
    + [(contents, "things"), (container, "things"), (contained, "things")] * 5
)


class Asker:
    """Asks about a teller's state, and asks nothing twice unless the answer may have changed."""

    def __init__(self, teller: Teller):
        self.teller = teller
        self.questions: list[Question] = []
        self.asked: dict[tuple[Callable, Person | Thing], int] = {}  # where it was last asked

    def ask(self) -> bool:
        """Write a question and its answer; False if the one drawn cannot be asked now."""
        teller = self.teller
        kind, crowd = teller.rng.choice(SHARES)
        if not getattr(teller, crowd):
            return False
        subject = teller.rng.choice(getattr(teller, crowd))
        found = kind(teller, subject)
        if not found or self.asked.get((kind, subject), -1) > found.changed:
            return False
        cards = templates.QUESTIONS[kind.__name__]
        text = teller.deal(f"QUESTIONS {kind.__name__}", cards).format_map(found.slots)
        teller.end_line()
        self.asked[kind, subject] = teller.length
        position = teller.length + len(f"Q: {text}\nA:")
        teller.write_line(f"Q: {text}\nA: {found.answer}")
        self.questions.append(Question(text, found.answer, found.kind, position, found.evidence))
        return True
