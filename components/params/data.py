"""source, task, validate, prepare: where the rows come from, what is asked of them, what must hold."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from components.params.section import Bounded, Count, FilePath, OpenShare, Positive, Section, Share, Text

# --- source: where the rows come from ------------------------------------------------------------


class Embedded(Section):
    """A data set that a library ships: nothing is downloaded."""

    kind: Literal["embedded"]
    dataset: Literal["digits"]


class Csv(Section):
    kind: Literal["csv"]
    path: FilePath
    delimiter: Annotated[str, Field(min_length=1, max_length=1)]


class Parquet(Section):
    kind: Literal["parquet"]
    path: FilePath


class Jsonl(Section):
    kind: Literal["jsonl"]
    path: FilePath


Part = Literal["train", "validation", "calibration", "test", "all"]


def _all_alone(parts: dict[Part, Any]) -> dict[Part, Any]:
    if "all" in parts and len(parts) > 1:
        raise ValueError("all stands alone: it is the part of data that are not split yet")
    return parts


class NpzPart(Section):
    """Names of arrays in the file."""

    image: Text
    label: Text


class Npz(Section):
    """`arrays`: of each part its arrays, or of `all`; `class_names`: the array of the names that labels number."""

    kind: Literal["npz"]
    path: FilePath
    arrays: Annotated[dict[Part, NpzPart], Field(min_length=1), AfterValidator(_all_alone)]
    class_names: Text | None


class ImageFolder(Section):
    """Images in <path>/<class>/ or <path>/<split>/<class>/."""

    kind: Literal["image_folder"]
    path: FilePath
    max_file_mb: Positive


class Hub(Section):
    """A data set of the Hugging Face hub by its id, or a folder laid out like one; `splits`: of each part its split.

    `class_names`: what its classes are called here, in its order; left out, as they are called there.
    """

    kind: Literal["hub"]
    dataset: FilePath
    config: Text | None
    splits: Annotated[dict[Part, Text], Field(min_length=1), AfterValidator(_all_alone)]
    revision: Text | None
    class_names: list[Text] | None = None


Source = Annotated[Embedded | Csv | Parquet | Jsonl | Npz | ImageFolder | Hub, Field(discriminator="kind")]

# --- task: what is asked --------------------------------------------------------------------------


class ImageColumns(Section):
    """`image` is one list column or, with a `*`, one column a pixel in file order; `key` may be null.

    `split` says of each row where it belongs: train, validation, calibration or test. Left out: by its hash.
    """

    image: Text
    label: Text
    key: Text | None
    split: Text | None = None


class ImageClassification(Section):
    """`resize` is for encoded images of another size than `shape`; left out, their rows are set aside."""

    kind: Literal["image_classification"]
    columns: ImageColumns
    shape: Annotated[list[Count], Field(min_length=2, max_length=3)]  # height, width[, channels]
    range: Annotated[list[Bounded], Field(min_length=2, max_length=2)]  # least and greatest raw pixel value
    classes: Annotated[list[Text], Field(min_length=2, max_length=100_000)]
    resize: Literal["stretch", "crop", "pad"] | None = None

    @model_validator(mode="after")
    def _sane(self) -> ImageClassification:
        if self.range[0] >= self.range[1]:
            raise ValueError(f"range must rise, got {self.range}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes must differ from each other")
        return self


class TextColumns(Section):
    """`pair` is the second text of each row; `ignored` are columns that are there and mean nothing here.

    `split` says of each row where it belongs; left out: by its hash.
    """

    text: Text
    label: Text
    key: Text | None
    pair: Text | None = None
    split: Text | None = None
    ignored: list[Text] | None = None


class WordPiece(Section):
    """A WordPiece vocabulary of its own (Schuster & Nakajima 2012, as in BERT), learned from the training split."""

    kind: Literal["wordpiece"]
    vocabulary: Annotated[int, Field(ge=64, le=1_000_000)]
    lowercase: bool


class OfCheckpoint(Section):
    """The tokenizer that lies beside the weights of init.model.checkpoint."""

    kind: Literal["checkpoint"]


class TextClassification(Section):
    """`labels` are what the classes are called in the data, in their order; left out: as here.

    `splits` says what the words of columns.split mean; left out: train, validation, calibration, test.
    """

    kind: Literal["text_classification"]
    columns: TextColumns
    classes: Annotated[list[Text], Field(min_length=2, max_length=100_000)]
    max_tokens: Annotated[int, Field(ge=8, le=65_536)]  # what is longer is cut; of both texts together
    max_characters: Count  # longer texts are set aside
    tokenizer: Annotated[WordPiece | OfCheckpoint, Field(discriminator="kind")]
    labels: list[Text] | None = None
    splits: Annotated[dict[Text, Literal["train", "validation", "calibration", "test"]], Field(min_length=1)] | None = (
        None
    )

    @model_validator(mode="after")
    def _sane(self) -> TextClassification:
        for name, values in (("classes", self.classes), ("labels", self.labels or self.classes)):
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must differ from each other")
        if self.labels is not None and len(self.labels) != len(self.classes):
            raise ValueError(f"labels must have an entry a class, got {len(self.labels)} for {len(self.classes)}")
        if self.splits is not None and self.columns.split is None:
            raise ValueError("splits says what the words of columns.split mean, and that is not given")
        return self


Task = Annotated[ImageClassification | TextClassification, Field(discriminator="kind")]

# --- validate, prepare ----------------------------------------------------------------------------


class Expectation(Section):
    """A Great Expectations expectation by its snake_case name; `stop` ends the run, `quarantine` sets rows aside."""

    expect: Annotated[str, Field(pattern=r"^expect_[a-z0-9_]+$")]
    severity: Literal["stop", "quarantine"]
    arguments: dict[str, Any]


class Validate(Section):
    min_rows: Count
    max_quarantined_share: Share
    max_duplicate_share: Share
    expectations: list[Expectation]


class Split(Section):
    train: OpenShare
    validation: OpenShare
    calibration: OpenShare
    test: OpenShare

    @model_validator(mode="after")
    def _whole(self) -> Split:
        total = self.train + self.validation + self.calibration + self.test
        if not math.isclose(total, 1, abs_tol=1e-6):
            raise ValueError(f"shares must add up to 1, got {total:.6g}")
        return self


class Corpus(Section):
    """Texts without labels, beside the training rows, for pass pretrain; `column` has them."""

    source: Annotated[Csv | Parquet | Jsonl | Hub, Field(discriminator="kind")]
    column: Text


class Prepare(Section):
    split: Split
    corpus: Corpus | None = None
