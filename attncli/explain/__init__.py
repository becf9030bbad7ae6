"""Functions that explain a model: each returns a finding, none prints."""
