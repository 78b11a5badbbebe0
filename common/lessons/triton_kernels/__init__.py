"""Lesson 05: the predicted time of a kernel, and six row kernels."""
from common.checking.exercise import Lesson
from common.lessons.triton_kernels import gate, norm, predicted_time, residual_norm, rotation, row_reduction, softmax

LESSON = Lesson("05", "triton_kernels", "Triton kernels", minutes=90, exercises=(
    predicted_time.EXERCISE, row_reduction.EXERCISE, norm.EXERCISE, residual_norm.EXERCISE, gate.EXERCISE,
    rotation.EXERCISE, softmax.EXERCISE))
