"""A saved model directory."""

import pytest

from attncli.checkpoint.save import write_checkpoint
from tests.support.checkpoints import checkpoint


@pytest.fixture
def saved(tmp_path):
    write_checkpoint(tmp_path / "m", checkpoint())
    return tmp_path / "m"
