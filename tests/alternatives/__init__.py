"""Different but correct solutions, one module per lesson: no check may insist on the reference's way of doing it."""
