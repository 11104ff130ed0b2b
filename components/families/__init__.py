"""Who answers. One file a family; see `components.model.Family` for what it offers."""

from components.families import mlp, resnet, vit
from components.model import Family

FAMILIES: dict[str, Family] = {
    "mlp": mlp,
    "resnet": resnet,
    "vit": vit,
}
