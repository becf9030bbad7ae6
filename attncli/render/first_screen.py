"""The first screen of an explanation: sources of the token in focus as bars, one head's map, the next token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from attncli.explain.question import MapAxes
from attncli.render.escape import fit, fold, label_text, token_label
from attncli.render.head_map import attention_map, head_document, head_title
from attncli.render.heading import (
    LABEL,
    explanation_heading,
    explanation_heading_document,
    indexed,
    named_row,
    next_label,
    of_attention,
    part_option,
    prediction_of,
    titled,
    token_document,
    up_to,
)
from attncli.render.numbers import bar, decimal, percent, plural
from attncli.render.palette import BAR, TITLE

if TYPE_CHECKING:
    from attncli.explain.checks import EdgeChecks
    from attncli.explain.first_screen import Explanation
    from attncli.explain.sources import Sources

_NAMES_CUT = 76  # the least width at which a cut names its token
_SHOWS_BEFORE = 50  # the least width at which a cut shows the probability before it
_TOGETHER = 88  # the greatest width of a caption, so that it stays near its bars on a wide screen
EVERYWHERE = "all layers and heads"
_NEXT = 5
_GROUPS = ("from the source", "from the target")
_MOST_COMPARED = 24  # sources of --compare-weights shown by name
_COMPARED: tuple[JustifyMethod, ...] = ("right", "left", "left", "right", "left", "right")


def explanation_screen(finding: Explanation, model: str, console: Console) -> RenderableType:
    """Returns the screen of `attncli explain` without a view, for the width and colors of a console."""
    width = console.width
    return Group(
        *_sources(finding, model, width),
        head_title(finding, width),
        attention_map(finding.map, finding.sources.focus, console),
        Text(),
        *_next_tokens(finding, width),
        _closing(finding, width),
    )


def bars_screen(finding: Explanation, model: str, console: Console) -> RenderableType:
    """Returns the screen of `--view bars`: more sources, but no map and no next token."""
    return Group(*_sources(finding, model, console.width), _closing(finding, console.width))


def _sources(finding: Explanation, model: str, width: int) -> list[RenderableType]:
    """Returns the first line, the question, and the bars of the sources."""
    heading = explanation_heading(finding, model, width)
    return [heading, Text(), _sources_heading(finding, width), _bars(finding, width), Text()]


def compared_screen(finding: Explanation, model: str, console: Console) -> RenderableType:
    """Returns the screen of `--compare-weights`: each source's share of the attention output beside its raw weight."""
    sources, width = finding.sources, console.width
    axes, named = finding.axes, sources.named(_MOST_COMPARED)
    label = max(4, min(LABEL, width - 30))
    index = max(2, *(len(indexed(axes, at)) for at in named))  # cells
    room = max(1, min(30, (width - label - index - 18) // 2))
    widest = max(float(sources.shares.max()), float(sources.raw.max()), 1e-9)
    table = Table.grid(padding=(0, 1))
    for justify in _COMPARED:
        table.add_column(justify=justify, no_wrap=True, overflow="ellipsis")
    measures = ("contribution", "raw weight") if room >= 12 else ("norm", "raw")
    table.add_row("", "", fit(measures[0], room), "", fit(measures[1], room), "", style="dim")
    for at in named:
        share, raw = float(sources.shares[at]), float(sources.raw[at])
        cells = Text(bar(share / widest, room), BAR), Text(percent(share)), Text(bar(raw / widest, room), "magenta")
        name = Text(indexed(axes, at), "dim"), Text(token_label(finding.pieces[at], label))
        table.add_row(*name, *cells, Text(percent(raw)))
    if rest := sources.ranked()[_MOST_COMPARED:]:
        shares = (percent(float(values[rest].sum())) for values in (sources.shares, sources.raw))
        table.add_row("", f"{len(rest)} more", "", next(shares), "", next(shares))
    caution = "A weight scales the value vector of a source; it does not say how long that is."
    return Group(
        explanation_heading(finding, model, width),
        Text(),
        titled(_question(finding), scope(sources, finding), width),
        table,
        Text(),
        Text(fold(caution, width), "dim"),
    )


def scope(sources: Sources, finding: Explanation) -> str:
    """Returns the layers and heads that the shares are averaged over."""
    layers = "all layers" if len(sources.layers) == finding.layers else f"layer {sources.layers[0]}"
    heads = "all heads" if sources.head is None else f"head {sources.head}"
    where = EVERYWHERE if layers == "all layers" and heads == "all heads" else f"{layers}, {heads}"
    return where + of_attention(finding.axes)


def _question(finding: Explanation) -> str:
    focus = named_row(finding.axes, finding.sources.focus)
    return f"Where does {focus} get its information?" if finding.axes.squared else f"Where does {focus} come from?"


def _sources_heading(finding: Explanation, width: int) -> Text:
    """Returns the question, with the measure to the right of it, or below it on a narrow screen."""
    sources, question = finding.sources, _question(finding)
    kind = "share of what attention brings" if sources.weights == "norm" else "raw attention weight"
    measure = f"{kind}, {scope(sources, finding)}"
    text = Text(fold(question, width), style=TITLE)
    gap = min(width, _TOGETHER) - cell_len(question) - cell_len(measure)
    if gap >= 2:
        return text.append(" " * gap + measure, style="not bold dim")
    return text.append("\n" + fold(measure, width), style="not bold dim")


def _bars(finding: Explanation, width: int) -> RenderableType:
    """Returns a row for each named source, a row for all other sources, and a row for each source listed separately.

    In a translation, the source text's tokens come first, then the target text's tokens. Each source that was cut
    is shown with the probability that is left for the prediction. The line below the bars gives the mean effect of
    cutting a random source.
    """
    sources, pieces, checks, axes = finding.sources, finding.pieces, finding.checks, finding.axes
    cuts = _cuts(checks, width)
    named = sources.named(finding.named)
    # Cells of a row that are neither bar nor remark: index, label, share, cut, and the space between them.
    taken = LABEL + 18 if checks is None else 10 + max(map(len, map(str, named)))
    if checks is not None:
        labels = [f"{len(pieces)} more", *(token_label(pieces[at], LABEL) for at in named)]
        labels += _GROUPS if axes.sources else []
        taken += max(map(cell_len, cuts.values())) + max(map(cell_len, labels))
    room = max(8, min(40, width - taken - 12))
    spare = width - taken - room
    widest = max(float(sources.shares.max()), 1e-9)
    table = Table.grid(padding=(0, 1))
    for at in range(6 if cuts else 5):
        table.add_column(justify="right" if at in (0, 3) else "left", no_wrap=True, overflow="ellipsis")
    ranked = sources.ranked()
    for group, columns in _groups(finding).items():
        if group:
            together = percent(float(sources.shares[columns.start : columns.stop].sum()))
            table.add_row("", Text(group, TITLE), "", Text(together, TITLE))
        for at in ranked[: finding.named]:
            if at in columns:
                share = float(sources.shares[at])
                own = at == axes.itself(sources.focus)
                note = "itself" if own and (checks is None or spare >= 6) else ""
                cells = _bar_cells(axes, at, share, bar(share / widest, room))
                table.add_row(*cells, *_notes(cuts, at, note, "dim"))
        if rest := [at for at in ranked[finding.named :] if at in columns]:
            table.add_row("", Text(f"{len(rest)} more"), Text(), Text(percent(float(sources.shares[rest].sum()))))
        for at in sources.apart:
            if at in columns:
                share = float(sources.shares[at])
                cells = _bar_cells(axes, at, share, bar(share / widest, room, "▒"))
                table.add_row(*cells, *_notes(cuts, at, _apart_note(finding, at, spare)), style="dim")
    below = _random_cut(finding, checks, scope(sources, finding), width) if checks else []
    return Group(table, *below, Text(fold(not_counted(sources, axes), width), "dim"))


def _groups(finding: Explanation) -> dict[str, range]:
    """Returns the sources by group. A translation has two groups, the source text and the target text."""
    split = finding.axes.sources
    if not split:
        return {"": range(len(finding.pieces))}
    return dict(zip(_GROUPS, (range(split), range(split, len(finding.pieces))), strict=True))


def _bar_cells(axes: MapAxes, at: int, share: float, drawn: str) -> tuple[Text, Text, Text, Text]:
    index, label = Text(str(axes.column_index(at)), "dim"), Text(token_label(axes.columns[at], LABEL))
    return index, label, Text(drawn, BAR), Text(percent(share))


def apart_name(finding: Explanation) -> str:
    """Names a source that is listed separately: 'first token', or 'special token'."""
    return f"first {finding.unit}" if finding.axes.predicts_next else "special token"


def _apart_note(finding: Explanation, at: int, spare: int) -> str:
    """Returns the longest remark about a source listed separately that fits into `spare` cells."""
    short = apart_name(finding)
    whole = f"{short}: {percent(float(finding.sources.raw[at]))} of the raw attention"
    if finding.checks is None:
        return whole if spare + 4 >= len(whole) else short
    return next((note for note in (whole, short) if len(note) <= spare), "")


def _notes(cuts: Mapping[int, str], at: int, note: str, style: str = "") -> list[Text]:
    """Returns the cells beside a bar: a remark and, if sources were cut, the effect of the cut."""
    return [*([Text(cuts.get(at, ""))] if cuts else []), Text(note, style)]


def _cuts(checks: EdgeChecks | None, width: int) -> dict[int, str]:
    """Returns the text for every source that was cut: 'cut: P(␣and) 21% → 9%', or a shorter form on a narrow screen."""
    if checks is None:
        return {}
    before = percent(checks.token.probability)
    label = fit(label_text(checks.token.text), 10)
    said = "→ " if width < _SHOWS_BEFORE else f"{before} → "
    if width >= _NAMES_CUT:
        said = f"cut: P({label}) {before} → "
    return {at: said + percent(left) for at, left in zip(checks.sources, checks.probabilities, strict=True)}


def _random_cut(finding: Explanation, checks: EdgeChecks, where: str, width: int) -> list[Text]:
    """Returns the lines below the bars: the mean result of a random cut, and the heads in which edges were cut.

    On a narrow screen, where the bars cannot explain their arrows, the first line explains them.
    """
    before, lines = percent(checks.token.probability), []
    if width < _NAMES_CUT:
        label = fit(label_text(checks.token.text), max(width - 26, 1))
        lines.append(f"→: P({label}) {before} with it cut off")
    if checks.random is not None:
        line = f"a random cut: {before} → {percent(checks.random)}"
        for more in (f" ({averaged(checks, finding)})", f" in {where}" if where == EVERYWHERE else ""):
            line += more if cell_len(line + more) <= width else ""
        lines.append(line)
    if where != EVERYWHERE:
        lines.append(f"each cut in {where} only")
    return [Text(fold(line, width), "dim") for line in lines]


def not_counted(sources: Sources, axes: MapAxes) -> str:
    """Returns the line that names what the bars leave out: the residual stream and the feed-forward layers."""
    others = "other heads, " if sources.head is not None else ""
    others += {"cross": "self-attention, ", "decoder": "cross-attention, "}.get(axes.part or "", "")
    length = sources.beside_stream
    added = "" if length is None else f" (attention's output: {decimal(length)} of its length)"
    return f"not counted: {others}the residual stream{added} and the feed-forward parts"


def averaged(checks: EdgeChecks, finding: Explanation) -> str:
    """Names the sources that the random cuts are averaged over: all sources before the focus, or a sample of them.

    The focus itself is left out, because cutting its edge to itself costs most.
    """
    unit, before = finding.unit, finding.axes.predicts_next
    if checks.random_of == 1:
        return f"the only {unit} before" if before else f"the only other {unit}"
    drawn = f" of {checks.random_of:,}" if checks.random_cuts < checks.random_of else ""
    return f"mean over {checks.random_cuts}{drawn} " + (f"{unit}s before" if before else f"other {unit}s")


def _next_tokens(finding: Explanation, width: int) -> list[RenderableType]:
    """Returns the most probable tokens, and an empty line after them; nothing if there is no prediction."""
    if not finding.next_tokens:
        return []
    axes, focus = finding.axes, finding.sources.focus
    title = prediction_of(axes, focus)
    if axes.predicts_next:
        last = focus == len(finding.pieces) - 1
        title = "Next token" if last else f"Next token after {named_row(axes, focus)}"
    elif finding.words:
        title = f"Candidates for {candidate_of(finding)} {named_row(axes, focus)}"
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True, width=LABEL)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    room = max(8, min(40, width - LABEL - 10))
    for token in finding.next_tokens[:_NEXT]:
        table.add_row(
            Text(next_label(token, LABEL)),
            Text(bar(token.probability, room).ljust(room), "green"),
            Text(percent(token.probability)),
        )
    return [Text(title, TITLE).append(f"   temperature {finding.temperature:g}", "not bold dim"), table, Text()]


def candidate_of(finding: Explanation) -> str:
    """Names the token of a word for which the next tokens are candidates, in a model that is not a decoder alone."""
    return f"the {'last' if finding.axes.part is None else 'first'} token of"


def _closing(finding: Explanation, width: int) -> Group:
    caution = "A share says how much attention brings from a token, not whether the prediction needs it"
    caution += ": that is what a cut shows." if finding.checks else "."
    return Group(Text(caution, "dim"), Text(_more(finding, width), "dim"))


def elsewhere(finding: Explanation) -> list[str]:
    """Returns options to try next: --token with the token before the focus, and --head with the head of the map.

    For the first token, --token is left out; for a text of one token, --head is left out.
    """
    axes, focus = finding.axes, finding.sources.focus
    words = "--words " if finding.words else ""
    part = part_option(axes, "")
    token = [f"{words}{part}--token {axes.row_index(focus - 1)}"] if focus else []
    name = f"--head {finding.map.layer}.{finding.map.head}"
    head = [f"{words}{part}{'--view map ' if axes.sources else ''}{name}"] if len(finding.pieces) > 1 else []
    return [*token, *head]


def further_views(finding: Explanation) -> list[str]:
    """Returns the options of the views to try next: of all heads and of the prediction, which take no words.

    An encoder alone has no `--view logit`, because its logits are not sums of terms.
    """
    if finding.words:
        return []
    axes = finding.axes
    logit = ["--view logit"] if axes.predicts_next or axes.part is not None else []
    return [f"{part_option(axes, 'cross')}--view grid", *([*logit, "--view lens"] if finding.next_tokens else [])]


def _more(finding: Explanation, width: int) -> str:
    """Returns a line with as many options to try next as fit, the most useful first."""
    parts = ["--part encoder --view map"] if finding.axes.sources else []
    part, views = part_option(finding.axes, "cross"), further_views(finding)
    rare = [] if finding.words else [f"{part}--view steps", "--view rollout"]
    shown: list[str] = []
    for option in (*elsewhere(finding), *parts, *views, "--json", *rare):
        if cell_len(f"More: {' · '.join([*shown, option])}") <= width:
            shown.append(option)
    return f"More: {' · '.join(shown) or '--help'}"


def continuation_note(before: int, after: int, context: int) -> str:
    """Returns a note on how many tokens were generated after `before` tokens, and on whether the context is full."""
    ends = ", where the context is full" if after >= context else ""
    if after == before:
        return f"no token is generated{ends}"
    return f"{plural(after - before, 'token')} generated, from token {before} on{ends}"


def explanation_document(finding: Explanation, model: str) -> dict[str, Any]:
    """Returns the finding as a JSON-ready dictionary, in full precision."""
    sources = finding.sources
    return {
        **explanation_heading_document(finding, model),
        "sources": {
            "focus": finding.axes.row_index(sources.focus),
            "weights": sources.weights,
            "layers": list(sources.layers),
            "head": sources.head,
            "shares": up_to(sources.reach, sources.shares),
            "raw": up_to(sources.reach, sources.raw),
            "attention_to_stream": sources.beside_stream,
            "by_layer": [up_to(sources.reach, row) for row in sources.by_layer],
        },
        "map": head_document(finding.map),
        "temperature": finding.temperature,
        "next_tokens": [token_document(token) for token in finding.next_tokens],
        "checks": finding.checks and _checks_document(finding.checks, finding),
    }


def _checks_document(checks: EdgeChecks, finding: Explanation) -> dict[str, Any]:
    """Returns the cuts as JSON values; `source` is an index into the sources that the shares list."""
    cuts = zip(checks.sources, checks.probabilities, strict=True)
    return {
        "token": token_document(checks.token),
        "layers": list(finding.sources.layers),
        "head": finding.sources.head,
        "cuts": [{"source": at, "probability": probability} for at, probability in cuts],
        "random": {"probability": checks.random, "cuts": checks.random_cuts, "of": checks.random_of},
    }
