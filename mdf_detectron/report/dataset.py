"""Write an HTML page with tables and charts of a prepared folder, to check it before training."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from mdf_detectron.data.annotations import Annotations
from mdf_detectron.data.description import ALIKE_BITS, HASH_SIDE, AlikePair, Description
from mdf_detectron.data.readers import read_radiograph
from mdf_detectron.errors import ImageReadError
from mdf_detectron.evaluation.record_alone import RecordAlone
from mdf_detectron.report import CLASS_COLORS
from mdf_detectron.report.html import Section, draw_charts, write_page
from mdf_detectron.report.panels import draw_matrix, make_panels, wrap_text
from mdf_detectron.report.tables import Table, record_alone_table

SPLIT_COLORS = {"train": "#1f6f8b", "val": "#8a6bbf", "test": "#d1495b"}
SAMPLES_A_CLASS, MOST_SAMPLES, PICTURED_PAIRS, LISTED_PAIRS = 2, 12, 6, 30
GRID = 32
"""Cells per side of the maps of box locations."""


def write_dataset_page(path: str | Path, description: Description, alone: RecordAlone | None = None) -> Path:
    """Write the page of a prepared folder; ``alone`` is what its records tell, None without a clinical column."""
    name = description.root.resolve().name
    sections = [
        Section("Splits", tables=[_split_table(description)]),
        _drawn("Sample images", "Ground-truth boxes in the color of their class; train split.", _samples(description)),
        _drawn("Boxes", "Side: square root of the area, as a share of the image's.", _boxes(description)),
        _drawn("Where the boxes lie", "Share of a class' train boxes that cover a place.", _places(description)),
        Section("Image sizes", tables=[_size_table(description)]),
        *(_column_sections(description) if description.schema.columns else ()),
        *([Section("What the record alone tells", tables=[record_alone_table(alone)])] if alone else ()),
        _alike_section(description),
    ]
    images = draw_charts(sections)
    warnings = [*_warnings(description), *(alone.warnings if alone else ())]
    return write_page(Path(path), f"Data set {name}", warnings, [], sections, images)


def _drawn(title: str, note: str, figure: Figure) -> Section:
    return Section(title, [note], {title: figure})


def _column_sections(d: Description) -> list[Section]:
    return [
        _drawn("Clinical columns", "Shares of the known values of each split.", _columns(d)),
        Section("Missing values", ["Percent of the images of a split."], tables=[_missing_table(d)]),
        _drawn("Columns against findings", _ASSOCIATION_NOTE, _association_map(d)),
        Section("Columns against findings, in numbers", ["Sorted by strength."], tables=[_association_table(d)]),
    ]


_ASSOCIATION_NOTE = (
    "Train split. Spearman's ρ of a number, or Cramér's V of a category, with the presence of a class. A column that "
    "hardly goes with any finding can still help; one that does strongly may be known only after the image: check it."
)


def _add_legend(figure: Figure, colors: dict[str, str]) -> Figure:
    handles = [Patch(color=color, label=label) for label, color in colors.items()]
    columns = min(5, len(handles))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)
    return figure


def _warnings(d: Description) -> list[str]:
    lines = []
    across = d.alike.across_splits
    if across:
        lines.append(f"{across} pairs of images that look alike are in different splits: see below. If they show "
                     "one patient, results on val and test will be too good.")  # fmt: skip
    if d.unreadable:
        lines.append(f"{len(d.unreadable)} images cannot be read; the first: {d.unreadable[0]}")
    for split, one in d.splits.items():
        if one.images and not one.annotations:
            lines.append(f"The {split} split has no box.")
        absent = set(d.splits["train"].class_names) - set(_boxes_by_class(one))
        if one.annotations and absent:
            lines.append(f"The {split} split has no box of {', '.join(sorted(absent))}.")
    if not d.schema.columns:
        lines.append("There is no clinical column: the folder is for image-only models.")
    patients = {i["patient_id"] for one in d.splits.values() for i in one.images}
    images = sum(len(one.images) for one in d.splits.values())
    if images > 1 and len(patients) == images:
        lines.append("Every image has a patient of its own. If that is because patients are not known, images of one "
                     "patient may be in several splits.")  # fmt: skip
    return lines


def _boxes_by_class(one: Annotations) -> Counter[str]:
    names = one.class_of
    return Counter(names[a["category_id"]] for a in one.annotations)


def _by_split(d: Description, name: str, title: str, values: dict[str, Callable[[Annotations], Any]]) -> Table:
    """Make a table with a line per value and a column per split."""
    rows = [[label, *(str(value(one)) for one in d.splits.values())] for label, value in values.items()]
    return Table(name, title, ["", *d.splits], rows)


def _split_table(d: Description) -> Table:
    values: dict[str, Callable[[Annotations], Any]] = {
        "images": lambda one: len(one.images),
        "patients": lambda one: len({i["patient_id"] for i in one.images}),
        "images without a box": lambda one: len(one.images) - len({a["image_id"] for a in one.annotations}),
        "boxes": lambda one: len(one.annotations),
        "boxes with a mask": lambda one: sum("segmentation" in a for a in one.annotations),
    }
    for name in d.splits["train"].class_names:
        values[f"boxes: {name}"] = lambda one, name=name: _boxes_by_class(one)[name]
    return _by_split(d, "splits", "Splits", values)


def _relative(d: Description, split: str) -> dict[str, np.ndarray]:
    """Return class → (N, 4) XYWH as fractions of the image."""
    one = d.splits[split]
    names = one.class_of
    sizes = {i["id"]: (i["width"], i["height"]) * 2 for i in one.images}
    found: dict[str, list] = {name: [] for name in d.splits["train"].class_names}
    for a in one.annotations:
        found[names[a["category_id"]]].append(np.divide(a["bbox"], sizes[a["image_id"]]))
    return {name: np.array(boxes).reshape(-1, 4) for name, boxes in found.items()}


def _boxes(d: Description) -> Figure:
    names = d.splits["train"].class_names
    figure, panels = make_panels(len(names), min(3, len(names)), 2.2)
    edges = np.linspace(0, 1, 26)
    for axes, name in zip(panels, names, strict=True):
        sides = [np.sqrt(_relative(d, s)[name][:, 2:].prod(axis=1)) for s in d.splits]
        axes.hist(sides, edges, stacked=True, color=list(SPLIT_COLORS.values()))
        axes.set_title(wrap_text(f"{name} ({sum(map(len, sides))})", 34), fontsize=9)
        axes.tick_params(labelsize=7)
    return _add_legend(figure, SPLIT_COLORS)


def _places(d: Description) -> Figure:
    names = d.splits["train"].class_names
    figure, panels = make_panels(len(names), min(4, len(names)), 2.3)
    centers = (np.arange(GRID) + 0.5) / GRID
    for axes, name in zip(panels, names, strict=True):
        boxes = _relative(d, "train")[name]
        low, high = boxes[:, None, :2], boxes[:, None, :2] + boxes[:, None, 2:]
        inside = [(low[..., k] <= centers) & (centers < high[..., k]) for k in (0, 1)]  # (N, GRID) each
        share = np.einsum("nx,ny->yx", inside[0].astype(float), inside[1].astype(float)) / max(len(boxes), 1)
        axes.imshow(share, cmap="magma", vmin=0, vmax=max(share.max(), 1e-6), extent=(0, 1, 1, 0))
        axes.set_title(wrap_text(f"{name} (up to {100 * share.max():.0f} %)", 26), fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    return figure


def _size_table(d: Description) -> Table:
    sizes = {split: Counter((i["width"], i["height"]) for i in one.images) for split, one in d.splits.items()}
    total = sum(sizes.values(), Counter())
    rows = [[f"{w} × {h}", *(str(counts[w, h]) for counts in sizes.values())] for (w, h), _ in total.most_common(15)]
    if len(total) > 15:
        rest = {size for size, _ in total.most_common(15)}
        others = [str(sum(n for size, n in counts.items() if size not in rest)) for counts in sizes.values()]
        rows.append([f"{len(total) - 15} other sizes", *others])
    return Table("sizes", "Image sizes", ["width × height", *d.splits], rows)


def _columns(d: Description) -> Figure:
    columns = d.schema.columns
    figure, panels = make_panels(len(columns), min(3, len(columns)), 2.2)
    for axes, column in zip(panels, columns, strict=True):
        values = {s: [v for i in one.images if (v := i["clinical"][column.name]) is not None]
                  for s, one in d.splits.items()}  # fmt: skip
        axes.set_title(f"{column.name}{f' ({column.unit})' if column.unit else ''}", fontsize=9)
        axes.tick_params(labelsize=7)
        known = [v for several in values.values() for v in several]
        if not known:
            axes.text(0.5, 0.5, "no value", ha="center", transform=axes.transAxes, fontsize=8)
        elif column.kind == "numeric":
            edges = np.histogram_bin_edges(np.array(known, dtype=float), 20)
            for split, several in values.items():
                if several:
                    weights = np.full(len(several), 1 / len(several))
                    axes.hist(np.array(several, dtype=float), edges, weights=weights, histtype="step",
                              color=SPLIT_COLORS[split])  # fmt: skip
        else:
            _category_bars(axes, column.vocabulary, values)
    return _add_legend(figure, SPLIT_COLORS)


def _category_bars(axes: Axes, words: Sequence[str], values: dict[str, list]) -> None:
    places = np.arange(len(words))
    for offset, (split, several) in zip((-0.27, 0, 0.27), values.items(), strict=True):
        counts = Counter(map(str, several))
        axes.bar(places + offset, [counts[w] / max(len(several), 1) for w in words], 0.25, color=SPLIT_COLORS[split])
    axes.set_xticks(places, [w[:12] for w in words], rotation=30 if len(words) > 3 else 0)


def _missing_table(d: Description) -> Table:
    def percent(one: Annotations, column: str) -> str:
        missing = [image["clinical"][column] is None for image in one.images]
        return f"{100 * np.mean(missing or [0]):.0f}"

    return _by_split(d, "missing", "Missing values", {c: partial(percent, column=c) for c in d.schema.names})


def _association_map(d: Description) -> Figure:
    columns = list(dict.fromkeys(a.column for a in d.associations))
    findings = list(dict.fromkeys(a.finding for a in d.associations))
    values = np.full((len(columns), len(findings)), np.nan)
    for a in d.associations:
        if a.value is not None:
            values[columns.index(a.column), findings.index(a.finding)] = a.value
    return draw_matrix(values, columns, findings, limits=(-0.6, 0.6))


def _association_table(d: Description) -> Table:
    ordered = sorted(d.associations, key=lambda a: -abs(a.value or 0))[:40]
    share = lambda value: "–" if value is None else f"{100 * value:.0f} %"  # noqa: E731
    rows = [
        [a.column, a.finding, a.measure, "not defined" if a.value is None else f"{a.value:.2f}",
         "–" if a.p_value is None else f"{a.p_value:.2g}", str(a.images), share(a.missing_with),
         share(a.missing_without)]
        for a in ordered
    ]  # fmt: skip
    header = ["column", "finding", "measure", "value", "p", "images", "missing with it", "missing without"]
    return Table("associations", "Columns against findings, in numbers", header, rows)


def _samples(d: Description) -> Figure:
    train = d.splits["train"]
    names, colors = train.class_of, dict(zip(train.class_names, cycle(CLASS_COLORS), strict=False))
    boxes: dict[Any, list[tuple[str, list[float]]]] = {i["id"]: [] for i in train.images}
    for a in train.annotations:
        boxes[a["image_id"]].append((names[a["category_id"]], a["bbox"]))
    chosen: dict[Any, dict] = {}
    for wanted in (*train.class_names, None):
        fits = [i for i in train.images if (wanted in {n for n, _ in boxes[i["id"]]} if wanted else not boxes[i["id"]])]
        for image in fits[:SAMPLES_A_CLASS]:
            chosen.setdefault(image["id"], image)
    images = list(chosen.values())[:MOST_SAMPLES]
    figure, panels = make_panels(len(images), min(4, max(1, len(images))), 2.5)
    for axes, image in zip(panels, images, strict=True):
        _show(axes, d, image)
        for name, (x, y, w, h) in boxes[image["id"]]:
            axes.add_patch(Rectangle((x, y), w, h, fill=False, ec=colors[name], lw=1.5))
        shown = ", ".join(sorted({name for name, _ in boxes[image["id"]]}))
        axes.set_title(wrap_text(shown, 26) or "no box", fontsize=8)
    return _add_legend(figure, colors)


def _show(axes: Axes, d: Description, image: dict[str, Any]) -> None:
    axes.set_axis_off()
    try:
        pixels = read_radiograph(d.root / "images" / image["file_name"])[:, :, 0]
    except ImageReadError:
        axes.text(0.5, 0.5, "cannot be read", ha="center", transform=axes.transAxes, fontsize=8)
        return
    step = max(1, min(pixels.shape) // 400)
    extent = (0, pixels.shape[1], pixels.shape[0], 0)
    axes.imshow(pixels[::step, ::step], cmap="gray", vmin=0, vmax=255, extent=extent)


def _alike_section(d: Description) -> Section:
    note = (
        f"Perceptual hashes of {HASH_SIDE**2} bits (DCT) that differ in at most {ALIKE_BITS}: copies of other size, "
        "brightness or compression do, and some different images of one patient. "
        f"{d.alike.total} pairs, {d.alike.across_splits} of them across splits and "
        f"{d.alike.across_patients} across patients."
    )
    rows = [
        [p.first[1]["file_name"], p.first[0], p.second[1]["file_name"], p.second[0],
         "two" if p.across_patients else "one", str(p.bits)]
        for p in d.alike.pairs[:LISTED_PAIRS]
    ]  # fmt: skip
    header = ["image", "split", "looks like", "split", "patients", "bits"]
    title = "Images that look alike"
    if not rows:
        return Section(title, [note])
    pictures = _pair_pictures(d, d.alike.pairs[:PICTURED_PAIRS])
    return Section(title, [note], {title: pictures}, [Table("alike", title, header, rows)])


def _pair_pictures(d: Description, pairs: Sequence[AlikePair]) -> Figure:
    figure, panels = make_panels(2 * len(pairs), 4, 2.4)
    for number, pair in enumerate(pairs):
        for axes, (split, image) in zip(panels[2 * number : 2 * number + 2], (pair.first, pair.second), strict=True):
            _show(axes, d, image)
            axes.set_title(f"{number + 1}: {image['file_name'][-24:]} ({split})", fontsize=7)
    return figure
