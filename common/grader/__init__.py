"""`make grade`: points from checks driven in limited worker processes (worker.py), the notebooks held against their
stored outputs (gate.py), and what the learner reads (report.py)."""
