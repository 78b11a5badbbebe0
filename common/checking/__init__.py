"""The machinery of checks.

Read exercise.py, run.py and lab.py first; then wire.py and refuse.py (what keeps the two sides apart), draw.py,
guard.py and watch.py (what a lab is given, and how it is watched), compare.py (what is said when something differs).
"""
