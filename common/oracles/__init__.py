"""Independent references: what plain formulas and plain generation give, for the labs to be held against."""
