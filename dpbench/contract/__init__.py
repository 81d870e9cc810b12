"""The contract of plug-ins: what a defense is, what an attack may see, what both give back."""
