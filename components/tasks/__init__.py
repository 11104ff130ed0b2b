"""What is asked. One file a task; see `components.model.Task` for what stages that compute need of it."""

from components.model import Task
from components.tasks import image_classification

TASKS: dict[str, Task] = {
    "image_classification": image_classification,
}
