"""Who answers. One file a family; see `components.model.Family` for what it offers."""

from components.families import alexnet, bert, lenet, mlp, perceptron, resnet, transformers_image, vgg, vit
from components.model import Family

FAMILIES: dict[str, Family] = {
    "perceptron": perceptron,
    "mlp": mlp,
    "lenet": lenet,
    "alexnet": alexnet,
    "vgg": vgg,
    "resnet": resnet,
    "vit": vit,
    "transformers_image": transformers_image,
    "bert": bert,
}
