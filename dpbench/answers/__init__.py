"""Answers without a suite: where to split a network, and what features that came from elsewhere give away."""
