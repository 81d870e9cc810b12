"""What attacks and defenses build on."""
