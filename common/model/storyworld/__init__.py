"""Short stories about people, things and places, with questions whose answers are known because the state is tracked.

    words.py      who and what there is
    templates.py  how it is said
    world.py      the state, and the text that is true to it
    events.py     what can happen
    questions.py  what can be asked
"""

import random
from dataclasses import dataclass

from common.model.storyworld import templates
from common.model.storyworld.events import meet_person, meet_thing, something_happens
from common.model.storyworld.questions import Asker, Question
from common.model.storyworld.world import Teller

CHARACTERS_PER_TOKEN = 4.3  # with the story model's tokenizer
TRIES = 6  # questions drawn before a sentence goes without one


@dataclass(frozen=True, slots=True)
class Story:
    """A story, with its questions in the order of the text."""

    text: str
    questions: list[Question]


def story(rng: random.Random, tokens: float = 300, question_rate: float = 0.2) -> Story:
    """Tell one story of about `tokens` tokens.

    rng: source of all choices; the same seed tells the same story.
    tokens: length to aim for, 60 to 1,500 or more; questions and answers included.
    question_rate: probability of a question after a sentence (one to three more come at the end).
    """
    characters = round(tokens * CHARACTERS_PER_TOKEN)
    has_ending = characters > 500
    last_questions = 1 + (characters > 600) + (characters > 2400)

    teller = Teller(rng, characters)
    asker = Asker(teller)
    frame = {"village": teller.village, "day": teller.day}
    teller.write(teller.deal("OPENINGS", templates.OPENINGS[teller.weather]).format_map(frame))
    meet_person(teller)
    if characters > 400:
        meet_thing(teller)
        meet_person(teller)
    while teller.length < characters - 60 * last_questions - 60 * has_ending:
        something_happens(teller)
        if rng.random() < question_rate:
            any(asker.ask() for _ in range(TRIES))
        elif teller.sentences_in_line > 3 and rng.random() < 0.2:
            teller.end_line()
    if has_ending:
        teller.end_line()
        teller.write(teller.deal("ENDINGS", templates.ENDINGS).format_map(frame))
    for _ in range(30 * last_questions):
        last_questions -= asker.ask()
        if not last_questions:
            break
    teller.end_line()
    return Story("".join(teller.pieces), asker.questions)


__all__ = ["Question", "Story", "story"]
