"""Draw the parts that charts share, and the charts of studies and of what-if questions."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdf_detectron.evaluation.estimates import Row, number
from mdf_detectron.fileio import markdown_table

WIDTH = 8.0

COLORS = ("#1f6f8b", "#d1495b", "#8a6bbf", "#5c8a3a", "#b8860b", "#555555")
"""Colors of the models, reused from the seventh on."""

PUBLISHED = {"marker": "D", "linestyle": "none", "color": "#222222", "markerfacecolor": "none", "markersize": 6}

_Shown = TypeVar("_Shown")


def make_panels(number_: int, columns: int = 2, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    """Make a figure with ``number_`` panels, ``height`` inches each."""
    lines = max(1, -(-number_ // columns))
    figure = Figure(figsize=(WIDTH, height * lines + 0.5), layout="constrained", dpi=120)
    panels = list(np.atleast_1d(figure.subplots(lines, columns)).ravel())
    for axes in panels[number_:]:
        axes.set_axis_off()
    for axes in panels[:number_]:
        style_axes(axes)
        axes.title.set_fontsize(9)
    return figure, panels[:number_]


def style_axes(axes: Axes) -> None:
    """Draw a light grid below the curves; remove the frame at the top and right."""
    axes.grid(color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def draw_points(axes: Axes, heights, estimates, color: str, label: str, hollow=None, text: bool = True) -> None:
    """Draw each estimate as a point with its interval, or a text if it is undefined."""
    axes.plot([], [], "o-", color=color, label=label)
    for i, (height, one) in enumerate(zip(heights, estimates, strict=True)):
        if one["value"] is None:
            axes.text(0, height, "not defined", va="center", fontsize=7, color="#888888")
            continue
        if one["low"] is not None:
            axes.plot([one["low"], one["high"]], [height, height], color=color, linewidth=1.4)
        face = "white" if hollow is not None and hollow[i] else color
        axes.plot(one["value"], height, "o", color=color, markerfacecolor=face, markersize=5)
        if text:
            axes.text(104, height, number(one["value"]), va="center", fontsize=8, color=color)


def name_rows(axes: Axes, names: Iterable[str], width: int = 80) -> None:
    """Label the rows at the left, the first row on top."""
    wrapped = [wrap_text(name, width) if "\n" not in name else name for name in names]
    axes.set_yticks(range(len(wrapped)), wrapped, fontsize=8)
    axes.set_ylim(len(wrapped) - 0.5, -0.5)


def legend_below(figure: Figure, axes: Axes, title: str | None = None) -> None:
    """Put the legend of a panel below the figure."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        [wrap_text(label, 40) for label in labels],
        title=title,
        loc="outside lower center",
        ncols=2 if len(labels) in (2, 4) else 3,
        frameon=False,
        fontsize=8,
        title_fontsize=8,
    )


def shift_of(index: int, count: int) -> float:
    """Return the offset of one of ``count`` models from the middle of a row."""
    return 0.0 if count == 1 else (index / (count - 1) - 0.5) * min(0.8, 0.2 * count)


def colored(models: Mapping[str, _Shown]) -> Iterator[tuple[int, str, str, _Shown]]:
    """Yield the index, color, name and value of each model."""
    for m, (name, shown) in enumerate(models.items()):
        yield m, COLORS[m % len(COLORS)], name, shown


def write_empty(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", color="#888888", transform=axes.transAxes)


def wrap_text(text: str, width: int = 22, lines: int = 3) -> str:
    """Wrap a text, truncated to ``lines`` lines."""
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …")) or text


def metric_panels(
    labels: Sequence[str],
    metrics: Mapping[str, Mapping[str, Sequence[Row | None]]],
    of: str,
    published: Mapping[str, Sequence[float | None]] | None = None,
) -> Figure:
    """Draw estimates with intervals, one panel per metric, and published values as diamonds.

    Args:
        labels: of the rows.
        metrics: metric → series → estimate or None for each row.
        of: title of the legend, such as what the intervals cover.
        published: metric → value or None for each row.
    """
    series = max(len(one) for one in metrics.values())
    height = 1.1 + len(labels) * (0.3 + 0.15 * series)
    figure, panels = make_panels(len(metrics), columns=min(2, len(metrics)), height=height)
    for p, (axes, (metric, several)) in enumerate(zip(panels, metrics.items(), strict=True)):
        for m, color, name, rows in colored(several):
            shown = [(i + shift_of(m, len(several)), row) for i, row in enumerate(rows) if row]
            draw_points(axes, *zip(*shown, strict=True), color, name)
        if published:
            known = [(value, i) for i, value in enumerate(published[metric]) if value is not None]
            axes.plot(*(zip(*known, strict=True) if known else ([], [])), **PUBLISHED, label="published")
        axes.set(xlim=(-3, 122), xlabel=f"{metric} (× 100)", title=metric)
        name_rows(axes, labels if p % 2 == 0 else [""] * len(labels), 30)
        axes.set_xticks(np.arange(0, 101, 20))
    legend_below(figure, panels[0], title=of)
    return figure


def draw_matrix(
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    texts: np.ndarray | None = None,
    bold: np.ndarray | None = None,
    colors: str = "RdBu_r",
    limits: tuple[float, float] | None = None,
    row_height: float = 0.34,
) -> Figure:
    """Draw numbers as a shaded matrix with texts.

    Args:
        values: (R, C), NaN where undefined.
        texts: (R, C); by default the values with two digits.
        bold: (R, C) bool.
        colors: name of a color map.
        limits: of the shades; by default symmetric around 0.
        row_height: inches.
    """
    most = max(0.1, float(np.nanmax(np.abs(values), initial=0.0)))
    low, high = limits or (-most, most)
    size = (max(4.3, min(WIDTH, 2.6 + 1.0 * len(columns))), max(2.2, 1.9 + row_height * len(rows)))
    figure = Figure(figsize=size, layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.imshow(np.ma.masked_invalid(values), cmap=colors, vmin=low, vmax=high, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        text = number(None if np.isnan(value) else float(value), 2) if texts is None else texts[i, j]
        color = "white" if abs(value) > 0.65 * high else "#222222"
        weight = "bold" if bold is not None and bold[i, j] else "normal"
        axes.text(j, i, text, ha="center", va="center", fontsize=8, color=color, fontweight=weight)
    axes.set_yticks(range(len(rows)), [wrap_text(name, 24) for name in rows], fontsize=8)
    wrapped = [wrap_text(name, 16) for name in columns]
    axes.set_xticks(range(len(columns)), wrapped, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    return figure


def metrics_by_state(rows: Mapping[str, Mapping[str, Row]], metric: str, of: str) -> Figure:
    """Draw one metric for each variant and state of its records.

    ``rows`` maps variant → state → estimate; a variant that reads no record has one state.
    """
    states = list(dict.fromkeys(state for one in rows.values() for state in one))
    figure, (axes,) = make_panels(1, columns=1, height=1.0 + (0.2 + 0.14 * len(states)) * len(rows))
    for s, state in enumerate(states):
        there = [(i + shift_of(s, len(states)), one[state]) for i, one in enumerate(rows.values()) if state in one]
        draw_points(axes, *zip(*there, strict=True), COLORS[s % len(COLORS)], f"record: {state}", text=False)
    name_rows(axes, rows, 34)
    axes.set(xlabel=f"{metric} (× 100)")
    legend_below(figure, axes, title=of)
    return figure


def shares_chart(curves: Mapping[str, Mapping[int, Row]], lines: Mapping[str, Row], metric: str, of: str) -> Figure:
    """Draw a metric against the percent of each record's values that is kept, and variants without a record as lines.

    ``curves`` maps variant → percent → estimate, ``lines`` variant → estimate.
    """
    figure, (axes,) = make_panels(1, columns=1, height=3.4)
    for m, color, name, row in colored({**lines, **curves}):
        points = [(0, row), (100, row)] if name in lines else sorted(row.items())
        points = [(share + (m - 1) * 0.6 * (name in curves), one) for share, one in points if one["value"] is not None]
        style = "--" if name in lines else "o-"
        axes.plot([x for x, _ in points], [one["value"] for _, one in points], style, color=color, label=name)
        bounded = [(x, one["low"], one["high"]) for x, one in points if one["low"] is not None]
        if name in lines and bounded:
            axes.fill_between(*zip(*bounded, strict=True), color=color, alpha=0.12, linewidth=0)
        for x, low, high in bounded if name in curves else ():
            axes.plot([x, x], [low, high], color=color, linewidth=1.2)
    axes.set(xlabel="share of each record's values (%)", ylabel=f"{metric} (× 100)", xlim=(-4, 104))
    axes.set_xticks(sorted({share for curve in curves.values() for share in curve}))
    legend_below(figure, axes, title=of)
    return figure


def differences_chart(rows: Mapping[str, Row], label: str, of: str, hollow: Sequence[bool] | None = None) -> Figure:
    """Draw differences with intervals and a line at 0; hollow points are small groups."""
    figure, (axes,) = make_panels(1, columns=1, height=1.0 + 0.3 * len(rows))
    draw_points(axes, range(len(rows)), list(rows.values()), COLORS[0], label, hollow, text=False)
    axes.axvline(0, color="#222222", linewidth=0.8)
    name_rows(axes, rows, 60)
    axes.set(xlabel=label)
    legend_below(figure, axes, title=of)
    return figure


def train_against_test(rows: Mapping[str, tuple[Row, Row]], metric: str, of: str) -> Figure:
    """Draw a metric of each variant on train and test images, from (train, test) estimates."""
    figure, (axes,) = make_panels(1, columns=1, height=1.1 + 0.5 * len(rows))
    for part, label in enumerate(("training images", "test images")):
        heights = [i + shift_of(part, 2) for i in range(len(rows))]
        draw_points(axes, heights, [pair[part] for pair in rows.values()], COLORS[1 - part], label)
    name_rows(axes, rows, 34)
    axes.set(xlim=(-3, 112), xlabel=f"{metric} (× 100)")
    legend_below(figure, axes, title=of)
    return figure


def change_table(matched: Sequence[Mapping[str, Any]]) -> str:
    """Tabulate findings before and after a change of the record.

    ``matched`` are JSON forms of :class:`~mdf_detectron.inference.what_if.MatchedFinding`.
    """

    def shown(one: Mapping[str, Any], when: str) -> str:
        score = one[f"score_{when}"]
        return "–" if score is None else f"{score:.3f}{' *' if one[f'above_threshold_{when}'] else ''}"

    rows = [(one["class"], *(shown(one, when) for when in ("before", "after"))) for one in matched]
    return markdown_table(("finding (* above its threshold)", "before", "after"), rows)


def sweep_chart(
    column: str, unit: str, values: Sequence[Any], scores: np.ndarray, names: Sequence[str], own: Any, note: str
) -> Figure:
    """Draw the score of each finding over the values of one column.

    ``scores`` are (values, findings), ``own`` is the study's own value or None.
    """
    figure = Figure(figsize=(7, 4.4), layout="constrained", dpi=120)
    axes = figure.subplots()
    numeric = all(isinstance(value, (int, float)) for value in values)
    places = list(values) if numeric else list(range(len(values)))
    for f, name in enumerate(names):
        axes.plot(places, scores[:, f], "o-", color=COLORS[f % len(COLORS)], label=name)
    if not numeric:
        axes.set_xticks(places, values)
    if own is not None:
        at = own if numeric else list(values).index(own) if own in values else None
        if at is not None:
            axes.axvline(at, color="#999999", linestyle="--", linewidth=1, label=f"own value: {own}")
    axes.set(ylim=(0, 1), ylabel="score", xlabel=f"{column} ({unit})" if unit else column)
    axes.legend(frameon=False, fontsize=8)
    return _finish(figure, [axes], note)


def contribution_chart(
    columns: Sequence[str], values: np.ndarray, labels: Sequence[str], names: Sequence[str], note: str
) -> Figure:
    """Draw the contribution of every column to the score of each finding, one panel per finding.

    ``values`` are (findings, columns), ``labels`` the columns with the study's values.
    """
    count = len(names)
    figure = Figure(figsize=(3.2 + 3.0 * count, 1.3 + 0.32 * len(columns)), layout="constrained", dpi=120)
    panels = np.atleast_1d(figure.subplots(1, count, sharey=True))
    limit = max(float(np.abs(values).max(initial=0.0)), 0.05) * 1.1
    for f, axes in enumerate(panels):
        colors = [COLORS[1] if v < 0 else COLORS[0] for v in values[f]]
        axes.barh(range(len(columns)), values[f], color=colors)
        axes.axvline(0, color="#555555", linewidth=0.8)
        axes.set(xlim=(-limit, limit), xlabel="contribution to the score")
        axes.set_title(names[f], fontsize=9)
        axes.set_yticks(range(len(columns)), labels, fontsize=8)
    panels[0].invert_yaxis()  # shared: the first column on top
    return _finish(figure, panels, note)


def _finish(figure: Figure, panels: Sequence[Any], note: str) -> Figure:
    for axes in panels:
        style_axes(axes)
    figure.supxlabel(note, fontsize=7, color="#555555", wrap=True)
    return figure
