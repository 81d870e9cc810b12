"""Released features as files, for a partner."""
