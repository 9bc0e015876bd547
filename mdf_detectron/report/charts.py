"""The charts of a report, from the dicts of :mod:`~mdf_detectron.evaluation.summary`.

Every function takes ``{model name: summary}`` and returns a figure; nothing is written and pyplot's state is not used.
"""

from __future__ import annotations

import textwrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdf_detectron.evaluation.summary import ALL
from mdf_detectron.report.tables import HIT_TEXTS, estimate, number

COLORS = ("#1f6f8b", "#d1495b", "#8a6bbf", "#5c8a3a")


OUTCOMES = {"tp": ("found (TP)", "#3a8f5c"), "fp": ("made up (FP)", "#d1495b"), "fn": ("missed (FN)", "#b9b9b9")}


WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 1}


WIDTH = 8.0


Models = dict[str, dict[str, Any]]


def all_charts(models: Models) -> dict[str, Figure]:
    """File name without ending → figure; charts without anything to show are left out."""
    charts = {
        "metrics": metric_intervals(models),
        "precision_recall": precision_recall(models),
        "froc": froc(models),
        "threshold_sweep": threshold_sweep(models),
        "counts": counts(models),
    }
    for number_, (name, summary) in enumerate(models.items()):
        suffix = "" if len(models) == 1 else f"_{number_ + 1}"
        charts[f"confusion{suffix}"] = confusion(name, summary)
    if any(summary["subgroups"] for summary in models.values()):
        charts["subgroups"] = subgroup_forest(models)
    return charts


def metric_intervals(models: Models) -> Figure:
    """AP50 by IoBB of each class, with intervals."""
    summary = next(iter(models.values()))
    regions = summary["dataset"]["regions"]
    labels = [f"{_wrap(name, 30)} ({count})" for name, count in regions.items()] + [f"{ALL} ({sum(regions.values())})"]
    keys = [f"AP50-{name}" for name in regions] + ["AP50"]
    figure, axes = _figure(0.5 + 0.42 * len(keys) * (0.7 + 0.3 * len(models)) + 1.0)
    for m, (name, one) in enumerate(models.items()):
        heights = np.arange(len(keys)) + _shift(m, len(models))
        _points(axes, heights, [one["metrics"]["bbox_iobb"][key] for key in keys], COLORS[m % 4], name)
    axes.set(xlim=(-3, 119), xlabel="AP50 by IoBB (× 100), 95 % interval", title="Average precision by class (regions)")
    axes.set_yticks(np.arange(len(keys)), labels)
    axes.set_xticks(np.arange(0, 101, 20))
    axes.invert_yaxis()
    _legend_below(figure, axes)
    return figure


def precision_recall(models: Models) -> Figure:
    """Precision against recall of each class at IoBB 0.5."""
    regions = next(iter(models.values()))["dataset"]["regions"]
    figure, panels = _panels(len(regions))
    for axes, (class_name, count) in zip(panels, regions.items(), strict=True):
        for m, (name, summary) in enumerate(models.items()):
            curve = summary["precision_recall"]["bbox_iobb"][class_name]
            if count and curve["recall"]:
                axes.plot([0, *curve["recall"]], [curve["precision"][0], *curve["precision"]], color=COLORS[m % 4],
                          label=name, drawstyle="steps-post")  # fmt: skip
            else:
                axes.plot([], [], color=COLORS[m % 4], label=name)
            ap50 = summary["metrics"]["bbox_iobb"][f"AP50-{class_name}"]
            axes.text(0.98, 1.0 - 0.09 * m, f"AP50 {estimate(ap50)}", color=COLORS[m % 4], ha="right", va="top",
                      fontsize=8, transform=axes.transAxes, bbox=WHITE)  # fmt: skip
        if not count:
            _empty(axes, "no regions")
        # room for a line of text a model above precision 1, where no curve can be
        axes.set(xlim=(0, 1.02), ylim=(0, 1.08 + 0.13 * len(models)), xlabel="recall", ylabel="precision")
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.set_title(f"{_wrap(class_name, 34)}\n({count} regions)")
    _legend_below(figure, panels[0], title="IoBB 0.5; AP50 with its 95 % interval")
    return figure


def froc(models: Models) -> Figure:
    """Sensitivity against false positives an image: all classes pooled, and each class."""
    first = next(iter(models.values()))
    rates, regions = first["froc"]["rates"], first["dataset"]["regions"]
    figure, panels = _panels(len(regions) + 1)
    for axes, class_name in zip(panels, [ALL, *regions], strict=True):
        count = sum(regions.values()) if class_name == ALL else regions[class_name]
        for m, (name, summary) in enumerate(models.items()):
            curve = summary["froc"]["curves"][class_name]
            drawn = count > 0
            x = np.array(curve["false_positives"] if drawn else [], dtype=float)
            y = np.array(curve["sensitivity"] if drawn else [], dtype=float)
            x, y = np.append(np.maximum(x, rates[0] / 4), rates[-1] * 2 if drawn else []), np.append(y, y[-1:])
            axes.plot(x, y, color=COLORS[m % 4], label=name, drawstyle="steps-post")
            for rate, one in zip(rates, curve["at"].values(), strict=True):
                if one["low"] is not None:
                    at = rate * 2 ** (_shift(m, len(models)) / 2)
                    axes.plot([at, at], [one["low"], one["high"]], color=COLORS[m % 4], linewidth=1, alpha=0.6)
        if not count:
            _empty(axes, "no lesions")
        axes.set_xscale("log", base=2)
        axes.set_xticks(rates, [f"{r:g}" if r >= 1 else f"1/{round(1 / r)}" for r in rates])
        axes.minorticks_off()
        axes.set(xlim=(rates[0] / 1.4, rates[-1] * 1.4), ylim=(0, 1.05))
        axes.set(xlabel="false positives an image", ylabel="sensitivity")
        axes.set_title(f"{'all, pooled' if class_name == ALL else _wrap(class_name, 34)}\n({count} lesions)")
    images, healthy = first["dataset"]["images"], first["dataset"]["healthy_images"]
    _legend_below(
        figure, panels[0], f"{images} images, {healthy} healthy; hit: {HIT_TEXTS[first['froc']['criterion']]}"
    )
    return figure


def threshold_sweep(models: Models) -> Figure:
    """Mean AP and AR against the overlap threshold, by IoBB and by IoU."""
    figure, panels = _panels(2)
    styles = {"bbox_iobb": ("IoBB", "-"), "bbox": ("IoU", "--")}
    for axes, metric in zip(panels, ("AP", "AR"), strict=True):
        for m, (name, summary) in enumerate(models.items()):
            for table, (overlap, style) in styles.items():
                curve = {k: np.array(v, dtype=float) for k, v in summary["sweep"][table][metric].items()}
                x, label = summary["sweep"]["thresholds"], f"{name}, {overlap}"
                axes.plot(x, curve["value"], style, color=COLORS[m % 4], label=label)
                if table == "bbox_iobb":
                    axes.fill_between(x, curve["low"], curve["high"], color=COLORS[m % 4], alpha=0.15, linewidth=0)
        axes.set(xlim=(0, 1), ylim=(0, 105), xlabel="overlap threshold", ylabel=f"{metric} (× 100), mean over classes")
    regions = sum(next(iter(models.values()))["dataset"]["regions"].values())
    _legend_below(figure, panels[0], title=f"{regions} regions; bands: 95 % interval, by IoBB")
    return figure


def counts(models: Models) -> Figure:
    """True positives, false positives and misses of each class (the paper's figure 2b)."""
    first = next(iter(models.values()))
    classes = list(first["dataset"]["regions"])
    figure, panels = _panels(len(models), columns=min(2, len(models)), height=0.5 * len(classes) + 1.6)
    shown = [c for s in models.values() for n, c in s["counts"]["bbox_iobb"].items() if n != ALL]
    most = max((max(c[k], c["interval"][k][1]) for c in shown for k in OUTCOMES), default=1)
    for axes, (name, summary) in zip(panels, models.items(), strict=True):
        rows = summary["counts"]["bbox_iobb"]
        for o, (outcome, (label, color)) in enumerate(OUTCOMES.items()):
            values = [rows[c][outcome] for c in classes]
            heights = np.arange(len(classes)) + 0.27 * (o - 1)
            axes.barh(heights, values, 0.25, color=color, label=label)
            for height, value, class_name in zip(heights, values, classes, strict=True):
                low, high = rows[class_name]["interval"][outcome]
                axes.plot([low, high], [height, height], color="#444444", linewidth=0.8)
                axes.text(max(high, value) + 0.02 * most, height, f"{value}", va="center", fontsize=7)
        total = rows[ALL]
        axes.set_yticks(np.arange(len(classes)), [_wrap(c) for c in classes])
        axes.set(xlim=(0, 1.15 * max(most, 1)), xlabel="number of regions or detections")
        axes.set_title(f"{_wrap(name, 34)}\nTP {total['tp']}, FP {total['fp']}, FN {total['fn']}")
        axes.invert_yaxis()
    _legend_below(
        figure, panels[0], f"IoBB 0.5, score ≥ {first['protocol']['score_threshold']:g}; lines: 95 % interval"
    )
    return figure


def confusion(name: str, summary: dict[str, Any]) -> Figure:
    """Which class was taken for which; shade is the share of the truth's row."""
    labels, matrix = summary["confusion"]["labels"], np.array(summary["confusion"]["matrix"])
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = max(4.0, 1.9 + 0.62 * len(labels))
    figure = Figure(figsize=(side + 0.3, side), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), value in np.ndenumerate(matrix):
        nothing = i == j == len(labels) - 1
        color = "white" if share[i, j] > 0.6 else "#222222"
        axes.text(j, i, "" if nothing else f"{value}", ha="center", va="center", fontsize=9, color=color)
    wrapped = [_wrap(label, 14) for label in labels]
    axes.set_xticks(range(len(labels)), wrapped, rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(len(labels)), wrapped, fontsize=8)
    threshold = summary["protocol"]["score_threshold"]
    axes.set(xlabel="predicted", ylabel="truth")
    axes.set_title(f"{_wrap(name, 34)}\nIoBB 0.5, score ≥ {threshold:g}", fontsize=9)
    return figure


def subgroup_forest(models: Models) -> Figure:
    """AP50 by IoBB of every subgroup; small groups are hollow."""
    rows = next(s["subgroups"] for s in models.values() if s["subgroups"])
    labels = [f"{r['column']}: {r['group']}  ({r['patients']} patients, {r['regions']} regions)" for r in rows]
    figure, axes = _figure(1.4 + (0.24 + 0.1 * (len(models) - 1)) * len(rows))
    for m, (name, summary) in enumerate(models.items()):
        heights = np.arange(len(rows)) + _shift(m, len(models))
        small = [bool(r["warning"]) for r in summary["subgroups"]]
        _points(axes, heights, [r["AP50"] for r in summary["subgroups"]], COLORS[m % 4], name, small, text=False)
        whole = summary["metrics"]["bbox_iobb"]["AP50"]["value"]
        if whole is not None:
            axes.axvline(whole, color=COLORS[m % 4], linewidth=0.8, linestyle=":")
    starts = [i for i in range(1, len(rows)) if rows[i]["column"] != rows[i - 1]["column"]]
    for start in starts:
        axes.axhline(start - 0.5, color="#cccccc", linewidth=0.6)
    axes.set_yticks(np.arange(len(rows)), labels, fontsize=7)
    axes.set(xlim=(-3, 103), ylim=(len(rows) - 0.4, -0.6), xlabel="AP50 by IoBB (× 100), 95 % interval")
    axes.set_title("For whom (hollow: small group; dotted: everybody)")
    _legend_below(figure, axes)
    return figure


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained", dpi=120)
    axes = figure.subplots()
    axes.grid(axis="x", color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def _panels(number_: int, columns: int = 2, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    lines = -(-number_ // columns)
    figure = Figure(figsize=(WIDTH, height * lines + 0.5), layout="constrained", dpi=120)
    panels = list(np.atleast_1d(figure.subplots(lines, columns)).ravel())
    for axes in panels[number_:]:
        axes.set_axis_off()
    for axes in panels[:number_]:
        axes.grid(color="#eeeeee")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
        axes.title.set_fontsize(9)
    return figure, panels[:number_]


def _points(axes: Axes, heights, estimates, color: str, label: str, hollow=None, text: bool = True) -> None:
    """A point and its interval on each height; nothing where the estimate is not defined."""
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


def _legend_below(figure: Figure, axes: Axes, title: str | None = None) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        [_wrap(label, 40) for label in labels],
        title=title,
        loc="outside lower center",
        ncols=2 if len(labels) in (2, 4) else 3,
        frameon=False,
        fontsize=8,
        title_fontsize=8,
    )


def _shift(index: int, count: int) -> float:
    return 0.0 if count == 1 else 0.3 * (index / (count - 1) - 0.5) * 1.3


def _empty(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", color="#888888", transform=axes.transAxes)


def _wrap(text: str, width: int = 22, lines: int = 3) -> str:
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …")) or text
