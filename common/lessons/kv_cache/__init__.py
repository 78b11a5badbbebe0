"""Lesson 03: the cache, attention and generation on it, and what both are computed to cost."""
from common.checking.exercise import Lesson
from common.lessons.kv_cache import cache, cache_size, cached_attention, cached_generation, call_cost, predicted_time

LESSON = Lesson("03", "kv_cache", "The KV cache", minutes=75, exercises=(
    cache.EXERCISE, cached_attention.EXERCISE, cached_generation.EXERCISE, cache_size.EXERCISE, call_cost.EXERCISE,
    predicted_time.EXERCISE))
