"""Translates a `tokenizer.json` to the vocabulary of a GGUF file, and back.

llama.cpp has its own tokenizers. `gpt2` splits a text by a regular expression that `pre` names, and merges bytes. So a
byte-level tokenizer is described by its pre-tokenizer, not by the tokens of a test text. `llama` splits a text into
characters, replaces spaces by '▁', and merges neighbors by the score of the resulting token; tokens such as `<0x0A>`
stand for bytes. A tokenizer whose ids are characters is such a tokenizer without merges. No torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from attncli.checkpoint.gguf.architectures import Metadata
from attncli.checkpoint.gguf.layout import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED
from attncli.errors import BadCheckpoint, UsageProblem

_SPACE = "▁"
_MARKS = "\u0301\u093f\u17b6"  # combining marks of several scripts
_COMBINING = "\u0301"  # texts with it are not in Unicode's normal form C
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CASES = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPELLED_CASES = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_QWEN2 = _CASES + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN35 = _CASES + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CASES + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_ANY_CHARACTER = r"[\s\S]"
_LONGEST = 512  # characters of a token that merges can make; those of SentencePiece are much shorter
_MOST_CHARACTERS = 1 << 23  # of all tokens whose merges are looked for; a large vocabulary has a quarter
_DIGITS = "digits"  # in place of a regular expression: splits every digit off


class _Pre(NamedTuple):
    """A pre-tokenizer of llama.cpp: its names, the first of which is written, and the steps of the same splits."""

    names: tuple[str, ...]
    splits: tuple[str, ...]
    whole_words: bool = False  # a word that is in the vocabulary becomes one token; the merges are not used for it
    note: str = ""  # where llama.cpp splits texts differently


_PRE_TOKENIZERS = (
    _Pre(("gpt-2", "phi-2", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "mellum", "olmo", "mpt"), (_GPT2,)),
    _Pre(("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), (_DIGITS, _GPT2)),
    _Pre(("qwen2", "stablelm2", "hunyuan", "solar-open", "deepseek-r1-qwen", "kormo"), (_QWEN2,)),
    _Pre(("qwen35",), (_QWEN35,)),
    _Pre(("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2"), (_LLAMA3,), whole_words=True),
    _Pre(("smaug-bpe", "dbrx", "chatglm-bpe", "glm4"), (_LLAMA3,)),
    _Pre(("tekken",), (_TEKKEN,), whole_words=True, note="llama.cpp splits words of this tokenizer at combining marks"),
)
_OPENING = ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "lfm2", "tekken")


@dataclass(frozen=True)
class Vocabulary:
    """The keys `tokenizer.ggml.*`, except the ids of special tokens. `pre` and `merges` belong to the model `gpt2`."""

    model: str
    tokens: list[str]
    types: list[int]
    pre: str = ""
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    space_prefix: bool = False  # a space is put before a text
    notes: tuple[str, ...] = ()  # differences between the tokenizer and llama.cpp's
    untested: str = ""  # characters for which these differences matter

    @property
    def opens_texts(self) -> bool:
        """Whether llama.cpp begins every text with a token if the file does not say so."""
        return self.model == "llama" or self.pre in _OPENING

    def metadata(self) -> dict[str, Any]:
        """Returns the keys of a file."""
        found: dict[str, Any] = {"model": self.model, "tokens": self.tokens, "token_type": self.types}
        if self.model == "gpt2":
            found |= {"pre": self.pre, "merges": self.merges}
        else:
            found |= {"scores": self.scores, "add_space_prefix": self.space_prefix}
        return {f"tokenizer.ggml.{key}": value for key, value in found.items()}


def vocabulary_of(described: Mapping[str, Any], size: int) -> Vocabulary:
    """Returns the vocabulary of a `tokenizer.json`, filled up to `size` tokens.

    Raises UsageProblem for a tokenizer that llama.cpp lacks.
    """
    model = described["model"]
    if model["type"] != "BPE":
        raise _inexpressible(f"its model is {model['type']}")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise _inexpressible(f"its model has the setting {name}")
    tokens = {id_: token for token, id_ in model["vocab"].items()}
    added = {token["id"]: token for token in described["added_tokens"] or ()}
    tokens |= {id_: token["content"] for id_, token in added.items()}
    _refuse_stripping(added)
    decoders = [step["type"] for step in _steps(described["decoder"], "decoders")]
    if decoders == ["ByteLevel"]:
        return _byte_level(described, tokens, added, size)
    if model.get("byte_fallback") and "ByteFallback" in decoders:
        return _sentence_pieces(described, tokens, added, size)
    raise _inexpressible("its tokens are neither bytes nor characters with a token for every byte")


def _inexpressible(why: str) -> UsageProblem:
    return UsageProblem(
        f"The tokenizer cannot be written as GGUF: {why}.", "llama.cpp supports byte-level BPE and SentencePiece's BPE."
    )


def _refuse_stripping(added: Mapping[int, Mapping[str, Any]]) -> None:
    for token in added.values():
        if not token["special"] and (token["lstrip"] or token["rstrip"] or token["single_word"]):
            raise _inexpressible(f"the added token {ascii(token['content'])[:40]} also takes white space around it")


def _byte_level(
    described: Mapping[str, Any], tokens: dict[int, str], added: Mapping[int, Mapping[str, Any]], size: int
) -> Vocabulary:
    model, notes = described["model"], _normalization_notes(described["normalizer"])
    splits, whole_words = _splits(described["pre_tokenizer"]), bool(model.get("ignore_merges"))
    found = next((pre for pre in _PRE_TOKENIZERS if pre.splits == splits), None)
    if found is None:
        raise _inexpressible(f"no pre-tokenizer of llama.cpp splits at {' then '.join(splits)[:120]}")
    found = next((pre for pre in _PRE_TOKENIZERS if pre.splits == splits and pre.whole_words == whole_words), None)
    if found is None:
        raise _inexpressible(f"ignore_merges is {str(whole_words).lower()}, and llama.cpp has the opposite")
    named, types = _filled(tokens, added, size, {})
    untested = _MARKS if found.note else _COMBINING * bool(notes)
    notes = (*notes, found.note) if found.note else notes
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]]
    return Vocabulary("gpt2", named, types, pre=found.names[0], merges=merges, notes=notes, untested=untested)


def _normalization_notes(normalizer: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Returns a note for a Unicode normalization. Raises UsageProblem for any other normalizer."""
    kinds = {step["type"] for step in _steps(normalizer, "normalizers")}
    if kinds - {"NFC", "NFKC", "NFD", "NFKD"}:
        raise _inexpressible(f"its normalizer is {', '.join(sorted(kinds))}")
    return tuple(f"llama.cpp does not apply the normalization {kind} of this tokenizer" for kind in sorted(kinds))


def _splits(pre_tokenizer: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Returns the regular expressions at which a byte-level pre-tokenizer splits a text, one after another."""
    found: list[str] = []
    for step in _steps(pre_tokenizer, "pretokenizers"):
        kind = step["type"]
        if kind == "ByteLevel":
            if step["add_prefix_space"]:
                raise _inexpressible("it puts a space before a text")
            found += [_GPT2] if step.get("use_regex", True) else []
        elif kind == "Digits" and step["individual_digits"]:
            found.append(_DIGITS)
        elif kind == "Split" and "Regex" in step["pattern"] and (step["behavior"], step["invert"]) in _ISOLATING:
            found.append(step["pattern"]["Regex"].replace(_SPELLED_CASES, _CASES))
        else:
            raise _inexpressible(f"llama.cpp has no pre-tokenizer {kind} with these settings")
    return tuple(_DIGITS if split == r"\p{N}" else split for split in found)


_ISOLATING = (("Isolated", False), ("Removed", True))


def _sentence_pieces(
    described: Mapping[str, Any], tokens: dict[int, str], added: Mapping[int, Mapping[str, Any]], size: int
) -> Vocabulary:
    """Returns the vocabulary of a tokenizer of characters with a token for every byte."""
    model = described["model"]
    prefix, marks = _spaces(described["normalizer"], described["pre_tokenizer"])
    if not marks:  # a space is a token of its own name, which is '▁' in llama.cpp
        if _SPACE in tokens.values():
            raise _inexpressible(f"its vocabulary contains {_SPACE}, which is a space in llama.cpp")
        space = next((id_ for name in (" ", "<0x20>") for id_, token in tokens.items() if token == name), None)
        if space is None or any(" " in token and token != " " for token in tokens.values()):
            raise _inexpressible("its tokens contain spaces")
        tokens = tokens | {space: _SPACE}
    bytes_ = {id_: BYTE for id_, token in tokens.items() if _is_byte(token)}
    if len(bytes_) < (256 if marks or " " in described["model"]["vocab"] else 255):
        raise _inexpressible("some bytes have no token")
    unknown = {id_: UNKNOWN for id_, token in tokens.items() if token == model.get("unk_token")}
    named, types = _filled(tokens, added, size, bytes_ | unknown)
    scores: dict[str, float] = {}
    for rank, merge in enumerate(model["merges"]):
        merged = merge if isinstance(merge, list) else merge.split(" ", 1)
        scores.setdefault("".join(merged), float(-1 - rank))
    notes = () if marks else (f"llama.cpp reads {_SPACE} in a text as a space",)
    return Vocabulary(
        "llama",
        named,
        types,
        scores=[scores.get(token, 0.0) for token in named],
        space_prefix=prefix,
        notes=notes,
        untested="" if marks else _SPACE,
    )


def _spaces(normalizer: Mapping[str, Any] | None, pre_tokenizer: Mapping[str, Any] | None) -> tuple[bool, bool]:
    """Returns whether a tokenizer puts a space before a text, and whether it replaces spaces by '▁'."""
    prefix = marks = False
    for step in _steps(normalizer, "normalizers"):
        if step["type"] == "Prepend" and step["prepend"] == _SPACE:
            prefix = True
        elif step["type"] == "Replace" and (step["pattern"], step["content"]) == ({"String": " "}, _SPACE):
            marks = True
        else:
            raise _inexpressible(f"its normalizer is {step['type']}")
    for step in _steps(pre_tokenizer, "pretokenizers"):
        if step["type"] == "Metaspace" and step["replacement"] == _SPACE and not step.get("split", True):
            prefix, marks = prefix or step.get("prepend_scheme", "always") != "never", True
        elif step["type"] != "Split" or step["pattern"] not in ({"Regex": _ANY_CHARACTER}, {"String": " "}):
            raise _inexpressible(f"llama.cpp has no pre-tokenizer {step['type']} with these settings")
    return prefix, marks


def _steps(step: Mapping[str, Any] | None, nested: str) -> list[Mapping[str, Any]]:
    """Returns the steps of a pipeline: none, one, or those of a sequence."""
    if step is None:
        return []
    return [inner for part in step[nested] for inner in _steps(part, nested)] if step["type"] == "Sequence" else [step]


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token[:3] == "<0x" and token[5] == ">" and not set(token[3:5]) - set("0123456789ABCDEF")


def _filled(
    tokens: Mapping[int, str], added: Mapping[int, Mapping[str, Any]], size: int, types: Mapping[int, int]
) -> tuple[list[str], list[int]]:
    """Returns the names and the types of `size` ids. An id without a token gets a name that no text contains."""
    names, kinds, taken = [], [], set(tokens.values())
    if len(taken) < len(tokens):
        raise _inexpressible("two ids have the same token")
    for id_ in range(size):
        if id_ not in tokens:
            name = f"[PAD{id_}]"
            while name in taken:
                name = f"[{name}]"
            names.append(name)
            kinds.append(UNUSED)
            continue
        names.append(tokens[id_])
        if id_ in added:
            kinds.append(UNKNOWN if types.get(id_) == UNKNOWN else CONTROL if added[id_]["special"] else USER_DEFINED)
        else:
            kinds.append(types.get(id_, NORMAL))
    return names, kinds


def read_vocabulary(metadata: Metadata) -> Vocabulary:
    """Returns the vocabulary of a file. Raises BadCheckpoint for a kind of tokenizer that is not read."""
    where, model = metadata.where, metadata.get("tokenizer.ggml.model", str)
    tokens: list[str] = metadata.get("tokenizer.ggml.tokens", list, [])
    types: list[int] = metadata.get("tokenizer.ggml.token_type", list, [NORMAL] * len(tokens))
    scores: list[float] = metadata.get("tokenizer.ggml.scores", list, [0.0] * len(tokens))
    merges: list[str] = metadata.get("tokenizer.ggml.merges", list, [])
    if model not in ("gpt2", "llama"):
        shown = "missing" if model is None else ascii(model)[:40]
        raise BadCheckpoint(f"{where}: tokenizer.ggml.model is {shown}, which is not supported.", "Read: gpt2, llama.")
    fitting = len(types) == len(scores) == len(tokens) > 0 and _are(tokens, str) and _are(merges, str)
    if not fitting or not _are(types, int) or not _are(scores, float | int):
        raise BadCheckpoint(f"{where}: the lists of the tokenizer have different lengths or wrong types.")
    if model == "llama" and sum(map(len, tokens)) > _MOST_CHARACTERS:
        raise BadCheckpoint(f"{where}: the tokens have more than {_MOST_CHARACTERS:,} characters.")
    if len(set(tokens)) < len(tokens):
        raise BadCheckpoint(f"{where}: two ids of the tokenizer have the same token.")
    pre = metadata.get("tokenizer.ggml.pre", str, "")
    if model == "gpt2" and not any(pre in known.names for known in _PRE_TOKENIZERS):
        known_names = ", ".join(known.names[0] for known in _PRE_TOKENIZERS)
        raise BadCheckpoint(
            f"{where}: tokenizer.ggml.pre is {ascii(pre)[:40] if pre else 'missing'}, which is not supported.",
            f"Read: {known_names}.",
        )
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", bool, model == "llama")
    return Vocabulary(model, tokens, types, pre=pre, merges=merges, scores=scores, space_prefix=prefix)


def _are(values: Sequence[object], kind: Any) -> bool:
    return all(isinstance(value, kind) for value in values)


def tokenizer_json(vocabulary: Vocabulary, opening: int | None) -> dict[str, Any]:
    """Returns the `tokenizer.json` of a vocabulary. `opening` is the id of a token that begins every text, or None."""
    last = max((id_ for id_, kind in enumerate(vocabulary.types) if kind != UNUSED), default=0)
    tokens, types = vocabulary.tokens[: last + 1], vocabulary.types[: last + 1]
    vocab = {token: id_ for id_, token in enumerate(tokens)}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": id_, "content": token, **plain, "special": kind != USER_DEFINED}
        for id_, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (CONTROL, UNKNOWN, USER_DEFINED)
    ]
    steps = _byte_level_steps(vocabulary, vocab) if vocabulary.model == "gpt2" else _piece_steps(vocabulary, vocab)
    processor = None if opening is None else _opening_step(tokens[opening], opening)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "post_processor": processor,
        **steps,
    }


def _opening_step(token: str, id_: int) -> dict[str, Any]:
    special = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": kind}} for name, kind in (("A", 0), ("B", 1)))
    return {
        "type": "TemplateProcessing",
        "single": [special, first],
        "pair": [special, first, second],
        "special_tokens": {token: {"id": token, "ids": [id_], "tokens": [token]}},
    }


def _bpe(vocab: dict[str, int], merges: list[Any], **settings: Any) -> dict[str, Any]:
    plain = dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
    switches = dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False)
    return {"type": "BPE", **plain, **switches, **settings, "vocab": vocab, "merges": merges}


def _byte_level_steps(vocabulary: Vocabulary, vocab: dict[str, int]) -> dict[str, Any]:
    pre = next(known for known in _PRE_TOKENIZERS if vocabulary.pre in known.names)
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    splits: list[dict[str, Any]] = [_split(split) for split in pre.splits if split != _GPT2]
    splits.append(byte_level | {"use_regex": _GPT2 in pre.splits})
    merges = [_cut(merge, vocab) for merge in vocabulary.merges]
    return {
        "normalizer": None,
        "pre_tokenizer": splits[0] if len(splits) == 1 else {"type": "Sequence", "pretokenizers": splits},
        "decoder": byte_level | {"use_regex": True},
        "model": _bpe(vocab, merges, ignore_merges=pre.whole_words),
    }


def _split(split: str) -> dict[str, Any]:
    if split == _DIGITS:
        return {"type": "Digits", "individual_digits": True}
    return {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}


def _cut(merge: str, vocab: Mapping[str, int]) -> list[str]:
    """Returns the two tokens of a merge: 'a b' -> ['a', 'b']. A token may contain a space if it has no bytes' names."""
    cuts = [at for at in range(1, len(merge) - 1) if merge[at] == " "]
    return next(
        ([merge[:at], merge[at + 1 :]] for at in cuts if merge[:at] in vocab and merge[at + 1 :] in vocab),
        merge.split(" ", 1),
    )


def _piece_steps(vocabulary: Vocabulary, vocab: dict[str, int]) -> dict[str, Any]:
    """Returns the steps of a tokenizer of the model `llama`. Its merges are all pairs of tokens that make a token."""
    found = []
    for token, kind in zip(vocab, vocabulary.types, strict=False):
        if kind not in (NORMAL, USER_DEFINED) or len(token) > _LONGEST:
            continue
        score = vocabulary.scores[vocab[token]]
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        pairs = [(left, right) for left, right in cuts if left in vocab and right in vocab]
        found += [(-score, vocab[left], vocab[right], left, right) for left, right in pairs]
    merges = [[left, right] for *_, left, right in sorted(found)]
    unknown = next((token for token, kind in zip(vocab, vocabulary.types, strict=False) if kind == UNKNOWN), None)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    prepend: list[dict[str, Any]] = [{"type": "Prepend", "prepend": _SPACE}] if vocabulary.space_prefix else []
    strip: list[dict[str, Any]] = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prepend else []
    restore = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]} if prepend else replace,
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [restore, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": _bpe(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True),
    }
