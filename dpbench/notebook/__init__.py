"""What one holds: classes, modules, images and results in a notebook or a script, without a file for each."""
