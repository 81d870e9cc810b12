"""Sharing: what poisoned features do for a partner who trains on them, beside what they give away."""
