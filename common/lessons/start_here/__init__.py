"""Lesson 00: the greedy choice, the answer meter and a first Triton kernel."""
from common.checking.exercise import Lesson
from common.lessons.start_here import answer_meter, first_kernel, greedy_choice

LESSON = Lesson("00", "start_here", "Start here", minutes=30,
                exercises=(greedy_choice.EXERCISE, answer_meter.EXERCISE, first_kernel.EXERCISE))
