"""Everything that this lesson draws."""
from common.lessons.triton_kernels import copy_figures, copy_timings, row_figures, row_timings
from common.measure.plots import Plot

FIGURES = (
    Plot("row_kernels", (row_timings.TABLE,), row_figures.draw),
    Plot("copies", (copy_timings.TABLE,), copy_figures.draw),
)
