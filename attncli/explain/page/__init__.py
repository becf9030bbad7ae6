"""Collects everything that the page shows of a text: attention, predictions, exact cuts. Returns records."""
