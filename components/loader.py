"""How a model registered by Temper answers. This file ships inside the model: it needs MLflow, NumPy and ONNX Runtime,
and for texts tokenizers.

    model = mlflow.pyfunc.load_model("models:/digits@champion")
    model.predict(images)                                         # class names, one a row
    model.predict(images, params={"output": "probabilities"})     # float32 (rows, classes)
    model.predict(images, params={"output": "logits"})            # the same before the softmax

`images` are raw pixel values, any integer or float type, an array or nested lists (rows, *shape). A model of texts
takes a list of them in place of `images`, one of pairs a list of pairs, or a data frame with the columns text and pair.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np


def unchanged(path: str, sha256: str) -> bytes:
    """The bytes of a file, which must be those that build.json names."""
    content = Path(path).read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"{Path(path).name} was changed: its sha256 is {found[:12]}, build.json says {sha256[:12]}")
    return content


class Build(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """One ONNX file and its build.json, which knows the classes and the shape of one input."""

    def load_context(self, context: Any) -> None:
        import onnxruntime as ort

        card = json.loads(Path(context.artifacts["build"]).read_text("utf-8"))
        # Bytes, never a path: ONNX Runtime then opens no other file.
        content = unchanged(context.artifacts["model"], card["sha256"])
        options = ort.SessionOptions()
        # Threads spin while a call runs, where the build is faster so, and never between calls.
        spins = bool(card["session"].get("spins"))
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spins else "0")
        if spins:
            options.add_session_config_entry("session.force_spinning_stop", "1")
        # Weights in other files would be looked for here, where none can be: given bytes, ONNX Runtime takes the
        # working directory.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", "/dev/null/none")
        disabled = card["session"].get("disabled_optimizers")
        extra = {"disabled_optimizers": disabled} if disabled else {}
        self.session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"], **extra)
        self.classes = np.asarray(card["spec"]["classes"])
        self.shape = tuple(card["spec"]["shape"])
        self.inputs = card["spec"]["inputs"]
        self.tokenizer: Any = None
        if vocabulary := card["spec"]["vocabulary"]:
            from tokenizers import Tokenizer

            self.tokenizer = Tokenizer.from_buffer(unchanged(context.artifacts["tokenizer"], vocabulary["sha256"]))

    # Without a type for the input: MLflow would warn that it is none that it knows.
    def predict(self, context, model_input, params=None) -> np.ndarray:  # type: ignore[no-untyped-def]
        feeds = self.tokens(model_input) if self.tokenizer else {"image": self.checked(model_input)}
        logits: np.ndarray = self.session.run(["logits"], feeds)[0]
        output = (params or {}).get("output", "label")
        if output == "label":
            labels: np.ndarray = self.classes[logits.argmax(1)]
            return labels
        if output == "logits":
            return logits
        if output != "probabilities":
            raise ValueError(f"params.output must be label, probabilities or logits, got {output!r}")
        powers: np.ndarray = np.exp(logits - logits.max(1, keepdims=True))
        probabilities: np.ndarray = powers / powers.sum(1, keepdims=True)
        return probabilities

    def tokens(self, texts: Any) -> dict[str, np.ndarray]:
        """Tokens of texts or pairs, as long as the longest row. Raises ValueError for anything else."""
        paired = "token_type_ids" in self.inputs
        wanted = "pairs of texts (rows, 2)" if paired else "texts (rows,)"
        if isinstance(texts, str):
            raise ValueError(f"must be {wanted}, got one text; put it into a list")
        if isinstance(texts, dict) or hasattr(texts, "columns"):  # columns by name, a data frame
            names = ["text", "pair"] if paired else ["text"]
            if missing := [name for name in names if name not in texts]:
                raise ValueError(f"must be {wanted}; there is no column {', '.join(missing)}")
            texts = list(zip(texts["text"], texts["pair"], strict=True)) if paired else list(texts["text"])
        rows = [tuple(row) if paired and not isinstance(row, str) else row for row in texts]
        if not rows:
            raise ValueError(f"must be {wanted}, got no rows")
        for number, row in enumerate(rows):
            parts = row if paired and isinstance(row, tuple) else (row,)
            if len(parts) != 1 + paired or not all(isinstance(part, str) for part in parts):
                raise ValueError(f"must be {wanted}, row {number} is {type(row).__name__}: {row!r:.80}")
        found = self.tokenizer.encode_batch(rows)
        named = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        return {name: np.array([getattr(one, named[name]) for one in found], np.int64) for name in self.inputs}

    def checked(self, images: Any) -> np.ndarray:
        """Images as float32 (rows, *shape). Raises ValueError for anything else, NaN and infinity included."""
        wanted = f"raw images (rows, {', '.join(map(str, self.shape))})"
        try:
            array = np.asarray(images)
        except ValueError as error:
            raise ValueError(f"must be {wanted}; the rows differ in shape: {error}") from None
        if array.dtype.kind not in "iufb":
            raise ValueError(f"must be {wanted} of numbers, got {type(images).__name__} of {array.dtype}")
        if array.ndim != len(self.shape) + 1 or array.shape[1:] != self.shape:
            raise ValueError(f"must be {wanted}, got the shape {array.shape}; one image alone needs image[None]")
        if not len(array):
            raise ValueError(f"must be {wanted}, got no rows")
        array = np.ascontiguousarray(array, dtype=np.float32)
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).reshape(len(array), -1).all(1))[0])
            raise ValueError(f"must be {wanted} of finite float32 numbers, row {row} has NaN or infinity")
        return array


mlflow.models.set_model(Build())
