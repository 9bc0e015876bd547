"""Find the masks of your own images and the class of each.

The class is the table's (``--class-column``), that of a value (``--mask-values``), the mask's folder, or one for all.
An image with the class "normal", or in a folder of that name, is healthy.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from mdf_detectron.data.image_paths import stem
from mdf_detectron.data.sources.kit.account import Account
from mdf_detectron.data.sources.kit.masks import NO_CLASS, NO_IMAGE, Drawn, MaskFile, set_findings
from mdf_detectron.data.sources.kit.preparation import Preparation
from mdf_detectron.data.sources.kit.studies import NO_FINDING, SourceAnnotations, SourceImage, Study
from mdf_detectron.data.sources.kit.values import fold, is_empty
from mdf_detectron.data.sources.own.options import OwnOptions
from mdf_detectron.errors import SourceDataError, shorten

REMEDY = " (--healthy-without-mask: such images show none)"


def masked_studies(
    files: Sequence[Path], folder: Path, found: Mapping[str, Sequence[Path]], job: Account
) -> list[Study]:
    """Make a study of each image; name the masks in ``found`` of which there is no image."""
    known = {stem(path.name) for path in files}
    for path in (path for key in found if key not in known for path in found[key]):
        job.problems.add(NO_IMAGE, f"{path}: no image of its name below {folder}; remove it, or correct --mask-name")
    names = [path.relative_to(folder).as_posix() for path in files]
    return [Study(SourceImage(name, name, name), path) for name, path in zip(names, files, strict=True)]


def set_own_findings(
    studies: Sequence[Study], found: Mapping[str, Sequence[Path]], o: OwnOptions, source: SourceAnnotations,
    job: Preparation,
) -> list[Study]:  # fmt: skip
    """Set the boxes and classes of the studies; return the usable ones."""
    values = _mask_values(o.mask_values)
    alike, spelling, drawn = Counter(stem(study.path.name) for study in studies), {}, []
    for study in studies:
        paths = found.get(key := stem(study.path.name), ())
        if alike[key] > 1:  # images of one name: the mask is in a folder of the same name
            paths = [path for path in paths if path.parent.name == study.path.parent.name]
        label = study.identity.get(o.class_column) if o.class_column else study.path.parent.name
        if o.class_column and is_empty(label):
            text = f"no class in column '{o.class_column}'" if study.identity else "no row of the table, so no class"
            job.drop(NO_CLASS, f"{study.image.where}: {text}; expected the class of its findings")
            continue
        healthy = True if fold(label) in NO_FINDING else None if o.healthy_without_mask else False
        masks = []
        for path in paths:
            folder = path.parent.name if path.parent != Path(o.masks) else o.class_name
            name = str(label).strip() if o.class_column else folder
            named = values or {None: spelling.setdefault(fold(name), name)}
            masks += [MaskFile(path, name, value, tuple(values)) for value, name in named.items()]
        drawn.append(Drawn(study, masks, healthy))
    kept = set_findings(drawn, o, source, job, REMEDY)
    source.class_names = sorted({box["class"] for study in kept for box in study.image.boxes}, key=str.casefold)
    return kept


def _mask_values(pairs: Iterable[str]) -> dict[int, str]:
    values = {}
    for value, _, name in (pair.partition("=") for pair in pairs):
        if not value.isdigit() or not int(value) or int(value) in values or not name.strip():
            raise SourceDataError(f"--mask-values {shorten(value)}: write VALUE=CLASS, each value from 1 on once")
        values[int(value)] = name.strip()
    return values
