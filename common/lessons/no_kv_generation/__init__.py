"""Lesson 02: plain generation, streaming, and what both are computed to cost."""
from common.checking.exercise import Lesson
from common.lessons.no_kv_generation import call_flops, generation_flops, plain_generation, predicted_time, streaming

LESSON = Lesson("02", "no_kv_generation", "Generation without a cache", minutes=60, exercises=(
    plain_generation.EXERCISE, streaming.EXERCISE, call_flops.EXERCISE, generation_flops.EXERCISE,
    predicted_time.EXERCISE))
