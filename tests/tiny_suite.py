"""The smallest suite that measures something: an undefended network and a guess, in seconds."""

SUITE = """
name = "tiny"
victims = 4
[dataset]
name = "leaves"
image_size = 32
private = 256
auxiliary = 128
test = 64
[judge]
name = "resnet14t"
epochs = 1
[[backbones]]
name = "resnet10t"
weights = "fit"
epochs = 1
split_points = ["layer1"]
[[defenses]]
name = "none"
[[attacks]]
name = "mean-image"
"""

UNFITTED = """
[dataset]
private = 64
auxiliary = 64
test = 32
[[backbones]]
name = "resnet10t"
weights = "fit"
epochs = 0
split_points = ["layer1"]
[judge]
name = "mobilenetv3_small_050"
epochs = 1
"""
"""Tables of a suite whose network is left at random: data, backbone and judge, for whom figures say nothing."""
