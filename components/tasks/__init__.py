"""What is asked. One file a task; what its raw rows mean stands in components/schemas/ under the same name."""

from __future__ import annotations

from components.model import Task
from components.tasks import image_classification, text_classification

TASKS: dict[str, Task] = {
    "image_classification": image_classification,
    "text_classification": text_classification,
}
