"""The classification models of torchvision, without pretrained weights.

torchvision is imported inside the functions, because its import takes more than a second.
`describe.check_shapes` checks whether images are large enough for a model.
"""

from __future__ import annotations

from torch import Tensor, nn

from trainer.errors import ConfigError, unknown_name
from trainer.models.layers import Probability, require_images

NAMES: tuple[str, ...] = (
    "alexnet",
    "convnext_base",
    "convnext_large",
    "convnext_small",
    "convnext_tiny",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_l",
    "efficientnet_v2_m",
    "efficientnet_v2_s",
    "googlenet",
    "inception_v3",
    "maxvit_t",
    "mnasnet0_5",
    "mnasnet0_75",
    "mnasnet1_0",
    "mnasnet1_3",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "regnet_x_16gf",
    "regnet_x_1_6gf",
    "regnet_x_32gf",
    "regnet_x_3_2gf",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_x_8gf",
    "regnet_y_128gf",
    "regnet_y_16gf",
    "regnet_y_1_6gf",
    "regnet_y_32gf",
    "regnet_y_3_2gf",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "regnet_y_8gf",
    "resnet101",
    "resnet152",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "squeezenet1_0",
    "squeezenet1_1",
    "swin_b",
    "swin_s",
    "swin_t",
    "swin_v2_b",
    "swin_v2_s",
    "swin_v2_t",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "vit_b_16",
    "vit_b_32",
    "vit_h_14",
    "vit_l_16",
    "vit_l_32",
    "wide_resnet101_2",
    "wide_resnet50_2",
)
"""The models of torchvision 0.29, to list them without importing it; see `names` for the installed one."""


class RepeatChannels(nn.Module):
    """Repeats the channel of grey images three times, for a model that takes colour images."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a model that takes images [N, 3, H, W]."""
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return the model's logits [N, K] of images [N, 1, H, W]."""
        logits: Tensor = self.model(images.expand(-1, 3, -1, -1))
        return logits


def names() -> list[str]:
    """Return the classification models of the installed torchvision."""
    import torchvision.models

    return [str(name) for name in torchvision.models.list_models(module=torchvision.models)]


def build(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    repeat_channels: bool = False,
    dropout: Probability | None = None,
) -> nn.Module:
    """Return the torchvision model `name`, untrained, with `num_classes` logits.

    googlenet and inception_v3 have no auxiliary heads, so that every model returns one tensor. Vision
    transformers and MaxViT are built for the size of the images.

    Source: docs.pytorch.org/vision/stable/models.html

    Args:
        name: a name that torchvision lists, without a prefix.
        input_shape: (3, H, W), or (1, H, W) with `repeat_channels`.
        num_classes: number of logits.
        repeat_channels: repeat the channel of grey images three times, as the models take three channels.
        dropout: probability of torchvision's `dropout` option, 0 to below 1; null = the model's own.

    Raises:
        ConfigError: the name is unknown, or the model does not support the image shape or `dropout`.
    """
    import torchvision.models

    known = names()
    if name not in known:
        raise unknown_name("torchvision model", name, known, key="name")
    channels, height, width = require_images(f"torchvision.{name}", input_shape)
    if channels != 3 and not (repeat_channels and channels == 1):
        raise ConfigError(
            f"torchvision.{name} takes images of 3 channels, but the data have {channels}",
            key="name",
            expected="samples [3, H, W]",
            fix="set model.repeat_channels=true to repeat the grey channel three times"
            if channels == 1
            else "",
        )
    if channels == 3 and repeat_channels:
        raise ConfigError("the images have 3 channels already", key="repeat_channels", expected="false")
    options: dict[str, object] = {"num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        # init_weights: the default, set explicitly because torchvision warns otherwise
        options |= {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        if height != width:
            raise ConfigError(
                f"torchvision.{name} takes square images, but the data have {height} x {width} pixels",
                key="name",
                fix="resize or pad the images (data.resize, data.pad)",
            )
        options["image_size"] = height
    elif name.startswith("maxvit"):
        options["input_size"] = (height, width)
    if dropout is not None:
        options["drop_rate" if name.startswith("densenet") else "dropout"] = dropout
    try:
        model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    except TypeError as error:
        if dropout is None or "dropout" not in str(error):
            raise
        raise ConfigError(f"torchvision.{name} has no dropout", key="dropout", expected="null") from error
    except (AssertionError, ValueError) as error:
        raise ConfigError(
            f"torchvision.{name} does not support images of {height} x {width} pixels: {error}",
            key="name",
            expected=_size_rule(name),
            fix="resize or pad the images (data.resize, data.pad)",
        ) from error
    return RepeatChannels(model) if channels == 1 else model


def _size_rule(name: str) -> str:
    if name.startswith("vit_"):
        return f"a height and width that {name.rpartition('_')[2]} divides"
    # windows of 7 pixels must tile the image at 1/4, 1/8, 1/16 and 1/32 of its size
    return "a height and width that are multiples of 224"
