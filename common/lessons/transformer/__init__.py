"""Lesson 01: a decoder's parts, the model that they make, its loss and sampling.

A tolerance is ten times the largest error, rounded up, that the reference and tests/alternatives/transformer.py make
against the formula in float64, over 500 seeds of all checks of the exercise. The largest error stands beside it.
"""
from common.checking.exercise import Lesson
from common.lessons.transformer import attention, decoder_layer, feed_forward, loss, norm, rotary, sampling, whole_model

LESSON = Lesson("01", "transformer", "The transformer", minutes=120, exercises=(
    norm.EXERCISE, rotary.EXERCISE, attention.EXERCISE, feed_forward.EXERCISE, decoder_layer.EXERCISE,
    whole_model.EXERCISE, loss.EXERCISE, sampling.EXERCISE))
