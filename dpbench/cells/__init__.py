"""A cell, measured: what cells share, what the attacker of one sees, and every figure of it."""
