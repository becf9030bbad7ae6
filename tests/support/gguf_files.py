"""GGUF files of tiny random models."""

from attncli.checkpoint.gguf.export import plan_export, write_export
from attncli.checkpoint.save import Checkpoint, write_checkpoint
from tests.support.checkpoints import load
from tests.support.models import tiny_model


def model_directory(path, tokenizer, extra=0, **switches):
    """Writes a tiny random model with `extra` ids more than its tokenizer; returns it as it is read."""
    model = tiny_model(vocab_size=tokenizer.vocab_size + extra, **switches)
    end = tokenizer.end_of_text
    write_checkpoint(path, Checkpoint(model.config, model.state_dict(), tokenizer, end, end_ids=frozenset({end})))
    return load(path)


def exported(path, loaded, dtype="float32"):
    """Writes a loaded model as a GGUF file; returns the plan of the file."""
    plan = plan_export(loaded, dtype)
    with path.open("wb") as file:
        write_export(file, plan, loaded.model.state_dict())
    return plan
