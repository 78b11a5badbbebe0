"""The machinery of timings and figures. Lessons say what is timed and what is drawn: common/lessons/<name>/.

Read stamp, timing and ceilings (how one number comes about), then tables and run (how it is kept), then models and
generation (what several lessons time), then style, plots and roofline (how it is drawn). `python -m common.timings`
puts all lessons' points and figures together.
"""
from common import ROOT

TIMINGS, PLOTS = ROOT / "data" / "timings", ROOT / "data" / "plots"
