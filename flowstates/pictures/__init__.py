"""A run's history, times and counts as text and as SVG; private."""
