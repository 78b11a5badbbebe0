"""Short stories about people, things and places, with questions whose answers are known because the state is tracked.

    words.py      who and what there is
    templates.py  how it is said
    world.py      the state, the events that change it, and the questions about it
"""

import random

from common.model.storyworld.world import Question, Story, Teller

CHARACTERS_PER_TOKEN = 4.3  # of the story model's tokenizer


def story(rng: random.Random, tokens: int = 300, question_rate: float = 0.2) -> Story:
    """Tell one story of about `tokens` tokens.

    rng: source of all choices; the same seed tells the same story.
    tokens: length to aim for, 60 to 1,500 or more; questions and answers included.
    question_rate: probability of a question after a sentence (some more are asked at the end).
    """
    return Teller(rng, round(tokens * CHARACTERS_PER_TOKEN), question_rate).tell()


__all__ = ["Question", "Story", "story"]
