"""Writes the page: an HTML file with everything that it shows, or the live page of the server. Imports no torch."""
