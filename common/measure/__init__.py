"""Timings and figures. `make timings` measures this machine, `make plots` draws all that was ever measured.

Read stamp, timing and ceilings (how one number comes about), then tables and run (how it is kept), then no_kv,
single_batch and decoder_forward (what is measured), then style, plots and each figure's own `..._plot`.
"""
from common import ROOT

TIMINGS, PLOTS = ROOT / "data" / "timings", ROOT / "data" / "plots"
