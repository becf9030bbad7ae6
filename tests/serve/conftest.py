"""A client of a server with a random model."""

import pytest

from tests.support.serving import served


@pytest.fixture
def here(in_model_folder):
    """Returns a server of the model ./checkpoints/m, whose folder is the working directory."""
    with served(in_model_folder) as one:
        yield one
