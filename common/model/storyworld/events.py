"""What can happen: every event changes the state and writes the sentence that says so.

Each returns False, having done nothing, where the state does not allow it.
"""

from collections.abc import Callable
from itertools import accumulate

from common.model.storyworld import templates, words
from common.model.storyworld.world import MOST_IN_HAND, PROPS, Person, Place, Teller


def meet_person(teller: Teller) -> bool:
    if not teller.cast:
        return False
    name, female = teller.cast.pop()
    person = Person(name, female, teller.rng.choice(teller.places), teller.now)
    doing = teller.deal("DOING", templates.DOING)
    thing = teller.new_thing(person, teller.rng.choice(list(PROPS))) if teller.rng.random() < 0.35 else None
    teller.people.append(person)
    if thing:
        teller.say("MEET_PERSON_WITH_THING", person, at=person.where, doing=doing, new=thing.new)
    else:
        teller.say("MEET_PERSON", person, at=person.where, doing=doing)
    return True


def meet_thing(teller: Teller) -> bool:
    place = teller.rng.choice(teller.places)
    thing = teller.new_thing(place, teller.rng.choice(list(PROPS)))
    if not thing:
        return False
    inside = teller.new_thing(thing, "small") if thing.container and teller.rng.random() < 0.6 else None
    if inside:
        teller.say("MEET_CONTAINER", at=place, new=thing.new, inside=inside.new)
    else:
        teller.say("MEET_THING", at=place, new=thing.new)
    return True


def move(teller: Teller) -> bool:
    a = teller.actor()
    old, at = a.where, teller.elsewhere(a.where)
    in_hand, company = teller.holds(a), teller.company(a)
    if in_hand and teller.rng.random() < 0.3:
        thing = teller.rng.choice(in_hand)
        teller.send(a, at)
        teller.put_at(thing, a)
        teller.say("MOVE_CARRYING", a, t=thing, at=at, old=old)
    elif company and teller.rng.random() < 0.3:
        b = teller.rng.choice(company)
        teller.send(a, at)
        teller.send(b, at)
        teller.say("MOVE_TOGETHER", a, b, at=at, old=old)
    else:
        teller.send(a, at)
        teller.say("MOVE", a, at=at, old=old)
    return True


def join(teller: Teller) -> bool:
    a = teller.actor()
    others = [other for other in teller.people if other.where is not a.where]
    if not others:
        return False
    b = teller.rng.choice(others)
    old, b.since = a.where, teller.now
    teller.send(a, b.where)
    teller.say("JOIN", a, b, at=a.where, old=old)
    return True


def take(teller: Teller) -> bool:
    a = teller.actor()
    lying = teller.lying(a.where)
    if not lying or len(teller.holds(a)) >= MOST_IN_HAND:
        return False
    thing = teller.rng.choice(lying)
    teller.put_at(thing, a)
    teller.say("TAKE", a, t=thing, at=a.where)
    return True


def fetch(teller: Teller) -> bool:
    a = teller.actor()
    lying = [thing for thing in teller.things if isinstance(thing.where, Place) and thing.where is not a.where]
    if not lying or len(teller.holds(a)) >= MOST_IN_HAND:
        return False
    thing, old = teller.rng.choice(lying), a.where
    teller.send(a, thing.where)
    teller.put_at(thing, a)
    teller.say("FETCH", a, t=thing, at=a.where, old=old)
    return True


def put(teller: Teller) -> bool:
    a = teller.actor()
    in_hand = teller.holds(a)
    if not in_hand:
        return False
    thing = teller.rng.choice(in_hand)
    teller.put_down(thing, a.where)
    teller.say("PUT", a, t=thing, at=a.where)
    return True


def deliver(teller: Teller) -> bool:
    a = teller.actor()
    in_hand = teller.holds(a)
    if not in_hand:
        return False
    thing, old = teller.rng.choice(in_hand), a.where
    teller.send(a, teller.elsewhere(a.where))
    teller.put_down(thing, a.where)
    teller.say("DELIVER", a, t=thing, at=a.where, old=old)
    return True


def hand_over(teller: Teller) -> bool:
    """A gives something to B, B gets it from A, or the two swap."""
    a = teller.actor()
    in_hand, company = teller.holds(a), teller.company(a)
    if not in_hand or not company:
        return False
    thing, b = teller.rng.choice(in_hand), teller.rng.choice(company)
    theirs = teller.holds(b)
    if theirs and teller.rng.random() < 0.5:
        other = teller.rng.choice(theirs)
        teller.put_at(thing, b)
        teller.put_at(other, a)
        teller.say("SWAP", a, b, t=thing, u=other)
        return True
    if len(theirs) >= MOST_IN_HAND:
        return False
    teller.put_at(thing, b)
    if teller.rng.random() < 0.6:
        teller.say("GIVE", a, b, t=thing)
    else:
        teller.say("TAKE_FROM", b, a, t=thing)
    return True


def stow(teller: Teller) -> bool:
    a = teller.actor()
    in_hand = teller.holds(a)
    small = [thing for thing in in_hand if thing.kind == "small"]
    empty = [thing for thing in in_hand + teller.lying(a.where) if thing.container and not teller.holds(thing)]
    if not small or not empty:
        return False
    thing, container = teller.rng.choice(small), teller.rng.choice(empty)
    teller.put_down(thing, container)
    teller.say("STOW", a, t=thing, u=container)
    return True


def unstow(teller: Teller) -> bool:
    a = teller.actor()
    in_hand = teller.holds(a)
    full = [thing for thing in in_hand + teller.lying(a.where) if thing.container and teller.holds(thing)]
    if not full or len(in_hand) >= MOST_IN_HAND:
        return False
    container = teller.rng.choice(full)
    thing = teller.holds(container)[0]
    if thing is teller.dropped:
        return False
    teller.put_at(thing, a)
    teller.say("UNSTOW", a, t=thing, u=container)
    return True


def animal(teller: Teller) -> bool:
    """Something lying about is moved by neither friend nor foe."""
    lying = [thing for thing in teller.things if isinstance(thing.where, Place)]
    if not lying:
        return False
    thing = teller.rng.choice(lying)
    old, at = thing.where, teller.elsewhere(thing.where)
    teller.put_at(thing, at)
    teller.say("ANIMAL_SMALL" if thing.kind == "small" else "ANIMAL_LARGE", t=thing, at=at, old=old)
    return True


# ---- small talk, which changes nothing ----


def pass_time(teller: Teller) -> bool:
    rng = teller.rng
    if rng.random() < 0.5:
        after, sentence = teller.deal("WEATHER" + teller.weather, templates.WEATHER[teller.weather])
        teller.weather, teller.topic = after, None
        teller.write(sentence)
    elif teller.hour < len(words.HOURS):
        teller.say("CLOCK", hour=words.HOURS[teller.hour])
        teller.hour += 1
    else:
        return False
    return True


def village_life(teller: Teller) -> bool:
    if teller.rng.random() < 0.7:
        teller.say("VILLAGE")
    else:
        teller.say("PLACE", far=teller.rng.choice(teller.places))
    return True


def person_idles(teller: Teller) -> bool:
    a, kind = teller.actor(), teller.rng.random()
    if kind < 0.6:
        teller.say("PERSON", a)
    elif kind < 0.75:
        teller.say("PERSON_HERE", a, at=a.where)
    else:
        teller.say("PERSON_FAR", a, far=teller.elsewhere(a.where))
    return True


def people_chat(teller: Teller) -> bool:
    a = teller.actor()
    company = teller.company(a)
    if not company:
        return False
    teller.say("PAIR", a, teller.rng.choice(company))
    return True


def person_with_thing(teller: Teller) -> bool:
    a = teller.actor()
    in_hand, company = teller.holds(a), teller.company(a)
    if not in_hand:
        return False
    thing = teller.rng.choice(in_hand)
    teller.put_at(thing, a)
    if company and teller.rng.random() < 0.5:
        teller.say("REFUSE", a, teller.rng.choice(company), t=thing)
    else:
        teller.say("HOLDING", a, t=thing)
    return True


WEIGHTS: dict[Callable[[Teller], bool], int] = {
    move: 16,
    join: 4,
    take: 14,
    fetch: 5,
    put: 6,
    deliver: 4,
    hand_over: 16,
    stow: 16,
    unstow: 6,
    animal: 3,
    meet_person: 8,
    meet_thing: 12,
    pass_time: 3,
    village_life: 4,
    person_idles: 6,
    people_chat: 5,
    person_with_thing: 5,
}
EVENTS, CUMULATIVE_WEIGHTS = list(WEIGHTS), list(accumulate(WEIGHTS.values()))


def something_happens(teller: Teller) -> None:
    """Write one more sentence."""
    while True:
        (event,) = teller.rng.choices(EVENTS, cum_weights=CUMULATIVE_WEIGHTS)
        if event(teller):
            return
