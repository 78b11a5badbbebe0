"""Lesson 06: the bytes of attention, merging, tiles in torch, and the Triton kernels, forward and backward."""
from common.checking.exercise import Lesson
from common.lessons.flash_attention import (
    backward_pass,
    byte_counts,
    merging,
    one_sequence,
    packed_batches,
    torch_tiles,
)

LESSON = Lesson("06", "flash_attention", "Flash attention", minutes=120,
                exercises=(byte_counts.EXERCISE, merging.EXERCISE, torch_tiles.EXERCISE, one_sequence.EXERCISE,
                           packed_batches.EXERCISE, backward_pass.EXERCISE))
