"""Networks that do not classify as they come, or are not timm's: how they are made to, and which row means what."""
