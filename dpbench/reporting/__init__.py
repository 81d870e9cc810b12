"""Tables, plots and pictures of boards."""
