"""Text: what is shown, stored and hashed, without anything of torch."""
