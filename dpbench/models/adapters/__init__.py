"""Networks that do not classify as they come, or are not timm's: what is put on top of them, and how they are made."""
