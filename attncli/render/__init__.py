"""Turns findings, plans and reports into Rich objects and JSON. Imports no torch."""
