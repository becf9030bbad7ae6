"""`attncli info` and `attncli models`."""

import json

from tests.support.commands import ask


def test_info_and_models_show_the_model(at_home, capsys):
    _, out, _ = ask(capsys, "info", "story")
    assert all(
        part in out
        for part in ("feed-forward", "in attention", "cache per token", "trained on", "story.txt", "30 steps")
    )
    document = json.loads(ask(capsys, "info", "--json")[1])
    assert document["parameters"]["total"] == sum(
        v for k, v in document["parameters"].items() if k not in ("in_attention", "total")
    )
    assert "story ←" in ask(capsys, "models")[1]
    assert json.loads(ask(capsys, "models", "--json")[1])[0]["default"] is True


def test_info_counts_the_attention_parameters_of_gpt3(capsys):
    assert "57,982,058,496" in ask(capsys, "info", "--preset", "gpt3")[1]
