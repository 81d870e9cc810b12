"""Sharing: features for a partner who trains on them; what the partner gains, and what leaks."""
