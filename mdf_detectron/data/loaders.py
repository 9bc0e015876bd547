"""Build train and test loaders with the multimodal mapper, and a training stream that can resume.

Healthy images are kept. An image's augmentation depends only on the seed and the image's place in the stream, so a
resumed run repeats it. Places count images over all processes: place ``n`` belongs to iteration
``n // images_per_batch``, for any number of processes and loader workers.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, build_detection_test_loader, build_detection_train_loader
from detectron2.data import transforms as T
from detectron2.data.build import filter_images_with_only_crowd_annotations
from detectron2.data.common import DatasetFromList, MapDataset
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler, get_worker_info

from mdf_detectron.config import num_classes
from mdf_detectron.data.augmentation import build_augmentations
from mdf_detectron.data.catalog import check_not_empty, load_schema
from mdf_detectron.data.decoded_cache import DecodedCache
from mdf_detectron.data.mapper import MultimodalDatasetMapper
from mdf_detectron.data.schema import ClinicalSchema
from mdf_detectron.errors import ConfigError, DatasetError, shorten


def model_schema(cfg: CfgNode, dataset_name: str) -> ClinicalSchema:
    """Return the dataset's schema, reduced to the columns that the model reads.

    Raises:
        ConfigError: the dataset is not registered.
        DatasetError: a column is not in the schema, or a vocabulary differs from the config's.
    """
    metadata = _metadata(dataset_name)
    path = metadata.clinical_schema_file
    clinical = cfg.MODEL.CLINICAL
    try:
        schema = load_schema(path).subset(clinical.NUMERIC, clinical.CATEGORICAL)
    except DatasetError as error:
        raise DatasetError(f"dataset '{dataset_name}' ({path}): {error}; see MODEL.CLINICAL") from None
    for column, vocabulary in zip(schema.categorical, clinical.VOCABULARIES, strict=True):
        if list(column.vocabulary) != list(vocabulary):
            raise DatasetError(
                f"dataset '{dataset_name}' ({path}): column '{column.name}' has the values "
                f"{list(column.vocabulary)}, MODEL.CLINICAL.VOCABULARIES says {list(vocabulary)}; make them equal"
            )
    return schema


def _metadata(dataset_name: str):
    if dataset_name not in DatasetCatalog.list():
        ours = sorted(n for n in DatasetCatalog.list() if hasattr(MetadataCatalog.get(n), "clinical_schema_file"))
        raise ConfigError(f"dataset '{dataset_name}' is not registered; registered here: {ours}")
    return MetadataCatalog.get(dataset_name)


def dataset_classes(dataset_name: str) -> list[str]:
    """Return the class names of a registered dataset, in the order of the model's classes."""
    return list(_metadata(dataset_name).thing_classes)


def check_num_classes(cfg: CfgNode, dataset_name: str) -> None:
    """Raise :class:`ConfigError` if model and dataset differ in the number of classes."""
    classes = dataset_classes(dataset_name)
    key, count = num_classes(cfg)
    if len(classes) != count:
        raise ConfigError(f"{key} is {count}, but dataset '{dataset_name}' has {len(classes)}: {classes}")


def check_same_classes(first: str, other: str) -> None:
    """Raise :class:`DatasetError` if two datasets differ in classes or their order."""
    lists = {name: dataset_classes(name) for name in (first, other)}
    if lists[first] != lists[other]:
        same = sorted(lists[first]) == sorted(lists[other])
        how = "give the categories the same ids in all files" if same else "use datasets of the same classes"
        raise DatasetError(
            f"dataset '{first}' has the classes {shorten(lists[first], 300)}, '{other}' {shorten(lists[other], 300)}: "
            f"the model's class numbers would mean different things; {how}"
        )


def records_of(dataset_names: tuple[str, ...] | list[str]) -> list[dict[str, Any]]:
    records = []
    for name in dataset_names:
        _metadata(name)
        records.extend(DatasetCatalog.get(name))
    return records


def train_clinical_records(cfg: CfgNode) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the train split's clinical records: (M, A) float32, NaN if missing, and (M, B) long, -1 if missing."""
    schema = model_schema(cfg, cfg.DATASETS.TRAIN[0])
    return encoded_records(schema, records_of(cfg.DATASETS.TRAIN))


def encoded_records(schema: ClinicalSchema, records: Sequence[Mapping[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode the records of N dataset dicts: (N, A) float32, NaN if missing, and (N, B) long, -1 if missing."""
    parts = schema.encode_all((one["clinical"] for one in records), (str(one["file_name"]) for one in records))
    return tuple(map(torch.from_numpy, parts))


def classes_in_images(dataset_names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return which classes are in each image, (M, K) bool, and the images' patients, in the order of the records."""
    records = records_of(list(dataset_names))
    present = np.zeros((len(records), len(dataset_classes(dataset_names[0]))), dtype=bool)
    for row, record in zip(present, records, strict=True):
        row[[box["category_id"] for box in record["annotations"]]] = True
    return present, [record["patient_id"] for record in records]


def cache_path(cfg: CfgNode, dataset_name: str) -> Path:
    return Path(cfg.DATALOADER.DECODED_CACHE) / f"{dataset_name}_{cfg.INPUT.IMAGE_SIZE}_{cfg.INPUT.FORMAT}.npy"


def make_caches(cfg: CfgNode, dataset_names: Iterable[str]) -> list[DecodedCache]:
    """Open the decoded images of datasets; build those that are absent or outdated."""
    resize = T.AugmentationList(build_augmentations(cfg, is_train=False))

    def resized(image: np.ndarray) -> np.ndarray:
        given = T.AugInput(image)
        resize(given)
        return given.image

    caches = []
    for name in dict.fromkeys(dataset_names):
        records = records_of([name])
        check_not_empty(records, name)
        caches.append(DecodedCache.make(cache_path(cfg, name), records, resized, cfg.INPUT.FORMAT))
    _opened.cache_clear()
    return caches


@functools.lru_cache(maxsize=16)
def _opened(path: Path, dataset_name: str) -> DecodedCache:
    cache, reason = DecodedCache.open(path, records_of([dataset_name]))
    if cache is None:
        raise DatasetError(f"{path}, the decoded images of '{dataset_name}': {reason}; make it by `mdf cache`")
    return cache


def open_caches(cfg: CfgNode, dataset_names: Iterable[str]) -> list[DecodedCache]:
    """Open the decoded images of datasets, which must be up to date; none if ``DATALOADER.DECODED_CACHE`` is empty."""
    return [_opened(cache_path(cfg, name), name) for name in dataset_names] if cfg.DATALOADER.DECODED_CACHE else []


def _training_sampler(cfg: CfgNode, records: list[dict[str, Any]], seed: int) -> Sampler:
    if cfg.DATALOADER.SAMPLER_TRAIN == "TrainingSampler":
        return TrainingSampler(len(records), seed=seed)
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        records, cfg.DATALOADER.REPEAT_THRESHOLD
    )
    return RepeatFactorTrainingSampler(factors, seed=seed)


def build_train_loader(cfg: CfgNode):
    """Build the infinite shuffled loader of the train datasets; the seed alone determines its stream of images."""
    schema = model_schema(cfg, cfg.DATASETS.TRAIN[0])
    records = records_of(cfg.DATASETS.TRAIN)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = filter_images_with_only_crowd_annotations(records)
    if not records:
        raise ConfigError(f"the train split {list(cfg.DATASETS.TRAIN)} has no image")
    seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
    mapper = MultimodalDatasetMapper(cfg, is_train=True, schema=schema, caches=open_caches(cfg, cfg.DATASETS.TRAIN))
    mapped = MapDataset(DatasetFromList(records, copy=False), mapper)
    sampler = ResumableSampler(_training_sampler(cfg, records, seed), comm.get_rank(), comm.get_world_size())
    return build_detection_train_loader(
        dataset=SeededByPlace(mapped, seed),
        mapper=None,
        sampler=sampler,
        # the loader draws from its generator at start; the default one is the training step's
        generator=torch.Generator().manual_seed(derive_seed(seed, 2)),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=False,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def images_per_process(cfg: CfgNode) -> int:
    """Return this process's share of ``SOLVER.IMS_PER_BATCH``, at least 1."""
    return max(1, cfg.SOLVER.IMS_PER_BATCH // comm.get_world_size())


def build_loss_mapper(cfg: CfgNode, dataset_name: str) -> MultimodalDatasetMapper:
    """Build a mapper for losses on held-out data: it keeps annotations and augments as in testing."""
    parts = MultimodalDatasetMapper.from_config(cfg, False, model_schema(cfg, dataset_name))
    return MultimodalDatasetMapper(**{**parts, "is_train": True, "caches": open_caches(cfg, [dataset_name])})


def build_loss_loader(cfg: CfgNode, dataset_name: str):
    """Build a loader for losses on held-out data: every image once, with annotations."""
    return build_detection_test_loader(
        dataset=records_of([dataset_name]),
        mapper=build_loss_mapper(cfg, dataset_name),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        batch_size=images_per_process(cfg),
    )


def train_part(cfg: CfgNode, count: int) -> list[dict[str, Any]]:
    """Return ``count`` records of the first train dataset, or all if fewer; always the same ones."""
    records = records_of(cfg.DATASETS.TRAIN[:1])
    chosen = torch.randperm(len(records), generator=torch.Generator().manual_seed(0))[:count]
    return [records[i] for i in sorted(chosen.tolist())]


def build_test_loader(cfg: CfgNode, dataset_name: str, records: list[dict[str, Any]] | None = None):
    """Build a loader of every image once; ``records`` (permuted ones, say) replace the registered ones."""
    schema = model_schema(cfg, dataset_name)
    return build_detection_test_loader(
        dataset=records if records is not None else records_of([dataset_name]),
        mapper=MultimodalDatasetMapper(cfg, is_train=False, schema=schema, caches=open_caches(cfg, [dataset_name])),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def derive_seed(*parts: int) -> int:
    """Mix integers into a seed in [0, 2**32); different parts give unrelated streams (NumPy's ``SeedSequence``)."""
    return int(np.random.SeedSequence([abs(int(p)) for p in parts]).generate_state(1)[0])


def seed_everything(seed: int) -> None:
    """Seed ``random``, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _seed_cpu(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.random.default_generator.manual_seed(seed)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the CPU generators within the block; restore their states after it."""
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()
    _seed_cpu(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.random.set_rng_state(states[2])


class StreamIndex(int):
    """An image's index in the dataset, with its ``place`` in the training stream over all processes."""

    place: int

    def __new__(cls, index: int, place: int) -> StreamIndex:
        self = super().__new__(cls, index)
        self.place = place
        return self


class ResumableSampler(Sampler):
    """Number the indices of an infinite sampler, and skip those that an earlier run consumed.

    Detectron2's samplers restart their shuffled stream with the program.

    Args:
        sampler: infinite; yields every ``world_size``-th index of a common stream, from ``rank`` on.
    """

    def __init__(self, sampler: Sampler, rank: int = 0, world_size: int = 1):
        self.sampler, self.rank, self.world_size = sampler, rank, world_size
        self.num_consumed = 0

    def skip(self, num_images: int) -> None:
        """Start after ``num_images`` over all processes (a multiple of their number); call before iterating."""
        if num_images % self.world_size:
            raise ValueError(f"{num_images} images cannot be shared by {self.world_size} processes")
        self.num_consumed = num_images // self.world_size

    def __iter__(self) -> Iterator[StreamIndex]:
        for number, index in enumerate(itertools.islice(iter(self.sampler), self.num_consumed, None)):
            yield StreamIndex(index, (self.num_consumed + number) * self.world_size + self.rank)


class SeededByPlace(Dataset):
    """A map-style dataset that seeds each image's random augmentations by the training seed and the image's place."""

    def __init__(self, dataset: Sequence[Any] | Dataset, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Return the mapped record; a plain int counts as its own place."""
        seed = derive_seed(self.seed, getattr(index, "place", int(index)), 1)
        if get_worker_info() is not None:  # nothing else in a worker process draws from its generators
            _seed_cpu(seed)
            return self.dataset[int(index)]
        with seeded(seed):
            return self.dataset[int(index)]
