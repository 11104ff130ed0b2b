"""How a model registered by Temper answers. This file ships inside the model: it needs MLflow, NumPy and ONNX Runtime.

    model = mlflow.pyfunc.load_model("models:/digits@champion")
    model.predict(images)                                         # class names, one a row
    model.predict(images, params={"output": "probabilities"})     # float32 (rows, classes)
    model.predict(images, params={"output": "logits"})            # the same before the softmax

`images` are raw pixel values, any integer or float type, an array or nested lists (rows, *shape).
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np


class Build(mlflow.pyfunc.PythonModel):  # type: ignore[misc, name-defined]
    """One ONNX file and its build.json, which knows the classes and the shape of one input."""

    def load_context(self, context: Any) -> None:
        import onnxruntime as ort

        card = json.loads(Path(context.artifacts["build"]).read_text("utf-8"))
        # Bytes, never a path: ONNX Runtime then opens no other file.
        content = Path(context.artifacts["model"]).read_bytes()
        found = hashlib.sha256(content).hexdigest()
        if found != card["sha256"]:
            raise ValueError(
                f"the model file was changed: its sha256 is {found[:12]}, build.json says {card['sha256'][:12]}"
            )
        options = ort.SessionOptions()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        disabled = card["session"].get("disabled_optimizers")
        extra = {"disabled_optimizers": disabled} if disabled else {}
        self.session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"], **extra)
        self.classes = np.asarray(card["spec"]["classes"])
        self.shape = tuple(card["spec"]["shape"])

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> np.ndarray:
        logits: np.ndarray = self.session.run(["logits"], {"image": self.checked(model_input)})[0]
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
