"""Lesson 04, prefill: many prompts at once, padded, packed and in slots, and then decoding for all of them."""
from common.checking.exercise import Lesson
from common.lessons.prefill import batches, exposure, packed_cache, packing, padding, prefill, rectangle, slots, waste

LESSON = Lesson("04", "prefill", "Prefill", minutes=120,
                exercises=(waste.EXERCISE, padding.EXERCISE, rectangle.EXERCISE, prefill.EXERCISE, packing.EXERCISE,
                           packed_cache.EXERCISE, exposure.EXERCISE, slots.EXERCISE, batches.EXERCISE))
