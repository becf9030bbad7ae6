"""Functions that explain a model. Each returns a finding and prints nothing."""
