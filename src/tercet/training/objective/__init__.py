"""The loss of a run: made of options, checked against data and encoder, saved and restored."""
